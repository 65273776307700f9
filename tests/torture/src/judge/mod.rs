//! The judge: a journal in, failures out. It reads no clock and asks nobody.
//!
//! A file per kind of rule: `early` (drains that ended too soon, or although requests were cut), `late`, `requests` (answers
//! that are lost or undelivered), and `kept` (drains and releases that must last). [`scope`] says what a drain has to wait for.

mod early;
mod kept;
mod late;
mod requests;
pub mod scope;

#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use crate::journal::{Drain, Journal, Moment};

/// What a failure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// Drained, and something in its scope was still held.
    Early,
    /// Drained, and an Envoy had ended with requests in its scope; or cut, and none had.
    Cut,
    /// Ended after its deadline, or not at all.
    Late,
    /// The command line, its exit code, and the drain say different things, or it does not return.
    Said,
    /// A request failed although its Envoy lived.
    Lost,
    /// An Envoy was stopped because it was drained, and an answer did not arrive.
    Undelivered,
    /// A connection was closed after the release.
    Closing,
    /// A drain was not known any more.
    Forgotten,
    /// A drain of what is there was refused.
    Refused,
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub rule: Rule,
    /// When it shows.
    pub at: Moment,
    /// In words.
    pub text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} at {:.3}: {}",
            self.rule,
            self.at.as_secs_f64(),
            self.text
        )
    }
}

/// Every failure of a round.
#[must_use]
pub fn judge(journal: &Journal) -> Vec<Failure> {
    let mut failures = Vec::new();
    for (number, drain) in journal.drains.iter().enumerate() {
        failures.extend(early::judge(journal, number, drain));
        failures.extend(late::judge(journal, number, drain));
        failures.extend(kept::judge_drain(journal, number, drain));
    }
    failures.extend(requests::judge(journal));
    failures.extend(kept::judge_releases(journal));
    failures.sort_by_key(|failure| failure.at);
    failures
}

/// Until when what arrived must be done for a drain to have ended as drained: what arrives between the last answer that the
/// drain rests on and the sight of its end belongs to nobody. Never more than a second before `ended`.
fn settled_at(journal: &Journal, drain: &Drain, ended: Moment) -> Moment {
    /// From an answer of a filter to the end that follows, there and back, on a machine that others keep busy.
    const ROUND_TRIP: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_secs(1);
    let unseen = drain
        .earliest_end
        .map_or(MOST, |earliest| ended.saturating_sub(earliest));
    let stalled = journal.stalled(ended.saturating_sub(MOST), ended);
    ended.saturating_sub((unseen + ROUND_TRIP + stalled).min(MOST))
}
