//! Restarts under load: what each way to stop an Envoy and the app behind it loses, and how long it takes.
//!
//! [`contender`] names the ways; `stop` carries out all but Ebb's; `replica` is an Envoy with its app, without or with
//! Ebb, and `place` its configuration; `site` is two of them behind a load balancer, of which one is restarted;
//! `traffic` is the load; `rounds` lets the contenders take turns; `text` and `drawing` show what came of it.

pub mod contender;
mod drawing;
mod place;
mod replica;
mod rounds;
mod site;
mod stop;
mod text;
mod traffic;

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use self::contender::Contender;
use crate::{Mode, progress::Progress};

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rolling {
    /// All times of everybody but Ebb were divided by this: 1 unless the run was short.
    pub divisor: u32,
    /// Every client sends; the contenders took turns.
    pub busy: Variant,
    /// The same with an idle client, all contenders side by side.
    pub idle: Variant,
}

/// Restarts under the same circumstances.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Variant {
    /// Keep-alive connections of the load, over all sites that have some at a time.
    pub clients: usize,
    /// Of them, those over HTTP/2.
    pub http2_clients: usize,
    /// Requests per second before each restart; where sites work side by side, of all of them before each round.
    pub rates: Vec<f64>,
    /// What each contender did, in the order in which they took turns.
    pub series: Vec<Series>,
}

/// The restarts of one contender.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    /// Who.
    pub contender: Contender,
    /// In the order in which they happened.
    pub restarts: Vec<Restart>,
}

/// One restart, from the signal until both replicas are up again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Restart {
    /// Which of the two replicas.
    pub replica: usize,
    /// Requests that ended meanwhile, well or badly.
    pub requests: u64,
    /// Of them, those that failed, by kind.
    pub failures: BTreeMap<String, u64>,
    /// From the signal until both replicas were up again, in seconds.
    pub window: f64,
    /// From the signal to the end of the replica's last process, in seconds.
    pub exit: f64,
    /// From the signal to the last response of the replica's app, in seconds; 0 if that was before the signal.
    pub needed: f64,
    /// Whether a deadline ended the wait: the contender's own, or for those without one the benchmark's.
    pub deadline: bool,
    /// Whether the idle client was connected at the signal; none without one.
    pub idle_client: Option<bool>,
}

impl Restart {
    /// Requests that failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// From the last response, or the signal if that was later, to the end of the last process, in seconds.
    #[must_use]
    pub fn wasted(&self) -> f64 {
        self.exit - self.needed
    }
}

impl Series {
    /// Requests that ended during the restarts.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.restarts.iter().map(|restart| restart.requests).sum()
    }

    /// Requests that failed during the restarts, by kind.
    #[must_use]
    pub fn failures(&self) -> BTreeMap<String, u64> {
        let mut sum = BTreeMap::new();
        for (kind, number) in self.restarts.iter().flat_map(|restart| &restart.failures) {
            *sum.entry(kind.clone()).or_default() += number;
        }
        sum
    }

    /// Requests that failed during the restarts.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.restarts.iter().map(Restart::failed).sum()
    }

    fn each(&self, figure: impl Fn(&Restart) -> f64) -> Vec<f64> {
        self.restarts.iter().map(figure).collect()
    }
}

impl Variant {
    /// The restarts of a contender; none if it took no part.
    #[must_use]
    pub fn of(&self, contender: Contender) -> Option<&Series> {
        self.series.iter().find(|series| series.contender == contender)
    }
}

/// Measures.
///
/// # Errors
/// When a part does not start or does not do what it should.
pub async fn run(mode: Mode, progress: &Progress) -> Result<Rolling> {
    rounds::all(mode, progress).await
}

impl Rolling {
    /// As a section of Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        text::markdown(self)
    }

    /// As a plot.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn plot(&self, file: &Path) -> Result<()> {
        drawing::plot(self, file)
    }
}
