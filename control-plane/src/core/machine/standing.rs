//! Where a drain stands, for those who ask.

use std::time::{Duration, Instant};

use ebb_proto::v1;

use super::{Machine, Outcome, State};

impl Machine {
    /// Whether it has ended.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended { .. })
    }

    /// Whether it had ended at a time.
    pub fn has_ended_by(&self, then: Instant) -> bool {
        matches!(self.state, State::Ended { at, .. } if at <= then)
    }

    /// From its start until now, or until its end.
    pub fn elapsed(&self, now: Instant) -> Duration {
        let until = if let State::Ended { at, .. } = self.state {
            at
        } else {
            now
        };
        until.saturating_duration_since(self.started)
    }

    /// Where it stands, in the words of the wire.
    pub fn phase(&self) -> v1::Phase {
        match self.state {
            State::Announced => v1::Phase::Announced,
            State::Draining => v1::Phase::Draining,
            State::Quiet { .. } => v1::Phase::Quiet,
            State::Ended {
                outcome: Outcome::Drained,
                ..
            } => v1::Phase::Drained,
            State::Ended {
                outcome: Outcome::TimedOut,
                ..
            } => v1::Phase::TimedOut,
            State::Ended {
                outcome: Outcome::Cancelled,
                ..
            } => v1::Phase::Cancelled,
            State::Ended {
                outcome: Outcome::Cut,
                ..
            } => v1::Phase::Cut,
        }
    }
}
