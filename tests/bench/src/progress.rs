//! What a run is at, on standard error: a benchmark takes long, and whoever waits wants to know for what.

use std::time::Instant;

/// Tells lines, each with the time since the run began.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    start: Instant,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Progress {
    /// Tells a line.
    pub fn say(&self, text: impl std::fmt::Display) {
        let seconds = self.start.elapsed().as_secs();
        eprintln!("[{:>3}:{:02}] {text}", seconds / 60, seconds % 60);
    }
}
