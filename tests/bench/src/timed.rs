//! Times of one of several ways to do the same.

use serde::{Deserialize, Serialize};

use crate::{markdown::figure, stats::percentile};

/// A way, and how long it took each time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Timed {
    /// Which.
    pub name: String,
    /// Milliseconds, of every round.
    pub times: Vec<f64>,
}

impl Timed {
    /// As cells of a table: name, rounds, p50, p99 and the longest.
    #[must_use]
    pub fn cells(&self, decimals: usize) -> [String; 5] {
        let percent = |percent| figure(percentile(&self.times, percent), decimals);
        let count = self.times.len().to_string();
        [
            self.name.clone(),
            count,
            percent(50.0),
            percent(99.0),
            percent(100.0),
        ]
    }
}
