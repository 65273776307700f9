//! The figures of a run, which are one line in the end.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::{
    journal::{Answer, Journal, Outcome, Start},
    judge::{Failure, Rule},
    schedule::{Fault, Listener},
};

/// Of this length on, a stall is counted.
const STALL: Duration = Duration::from_millis(20);

/// What was done, and what came of it.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Schedules played to their end.
    pub schedules: u64,
    /// Rounds of them.
    pub rounds: u64,
    /// Drains that ended, by how.
    pub ended: BTreeMap<Outcome, u64>,
    /// Drains of which no end was seen: most were lost with the memory of their control plane.
    pub lost: u64,
    /// Drains that were refused.
    pub refused: u64,
    /// Drains that could not be asked for, because the control plane was away.
    pub nobody: u64,
    /// Envoys stopped because they were drained.
    pub stopped: u64,
    /// Faults that were done, by [`Fault::kind`].
    pub faults: [u64; Fault::KINDS.len()],
    /// Faults that could not be done.
    pub skipped: u64,
    /// HTTP requests.
    pub requests: u64,
    /// Those that failed, by the end of their Envoy or by the fault of Ebb.
    pub failed: u64,
    /// Sessions of `tcp_proxy`.
    pub sessions: u64,
    /// Probes of released listeners.
    pub probes: u64,
    /// Promises that were not kept, by rule.
    pub failures: BTreeMap<Rule, u64>,
    /// Worlds that could not be started or put right.
    pub broken: u64,
    /// Stalls of the machine.
    pub stalls: u64,
    /// The longest of them.
    pub longest_stall: Duration,
}

impl Figures {
    /// Counts a round.
    pub fn count(&mut self, journal: &Journal, failures: &[Failure]) {
        self.rounds += 1;
        for drain in &journal.drains {
            match (&drain.start, drain.end) {
                (Start::Refused(..), _) => self.refused += 1,
                (Start::Nobody(_), _) => self.nobody += 1,
                (Start::Accepted(_), Some((_, outcome))) => *self.ended.entry(outcome).or_default() += 1,
                (Start::Accepted(_), None) => self.lost += 1,
            }
        }
        let after = |end: &&crate::journal::EnvoyEnd| matches!(end.why, crate::journal::Why::After(_));
        self.stopped += count(journal.ends.iter().filter(after));
        for seen in &journal.faults {
            match self.faults.get_mut(seen.fault.kind()) {
                Some(number) if seen.skipped.is_none() => *number += 1,
                _ => self.skipped += 1,
            }
        }
        for request in &journal.requests {
            match request.listener {
                Listener::Raw => self.sessions += 1,
                _ => self.requests += 1,
            }
            self.failed += u64::from(matches!(request.answer, Answer::Failed(_)));
        }
        self.probes += count(journal.probes.iter());
        for failure in failures {
            *self.failures.entry(failure.rule).or_default() += 1;
        }
        for stall in journal.stalls.iter().filter(|stall| stall.length >= STALL) {
            self.stalls += 1;
            self.longest_stall = self.longest_stall.max(stall.length);
        }
    }

    /// Everything that must not be.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.values().sum::<u64>() + self.broken
    }
}

fn count<T>(of: impl Iterator<Item = T>) -> u64 {
    of.count() as u64
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} schedules, {} rounds; drains:", self.schedules, self.rounds)?;
        for outcome in Outcome::ALL {
            let number = self.ended.get(&outcome).copied().unwrap_or(0);
            write!(f, " {number} {},", outcome.name())?;
        }
        write!(
            f,
            " {} lost, {} refused, {} not asked (control plane away); {} Envoys stopped once drained; faults:",
            self.lost, self.refused, self.nobody, self.stopped
        )?;
        for (kind, number) in Fault::KINDS.iter().zip(self.faults) {
            write!(f, " {number} {kind},")?;
        }
        write!(
            f,
            " {} not possible; {} requests and {} sessions, {} failed with their Envoy or by fault; {} probes; \
             stalls of {STALL:?} or more: {}, longest {:?}; FAILURES: {}",
            self.skipped,
            self.requests,
            self.sessions,
            self.failed,
            self.probes,
            self.stalls,
            self.longest_stall,
            self.failures()
        )?;
        for (rule, number) in &self.failures {
            write!(f, " {rule:?} {number}")?;
        }
        if self.broken > 0 {
            write!(f, " broken worlds {}", self.broken)?;
        }
        Ok(())
    }
}
