//! Records in words.

use std::{fmt, time::Duration};

use super::{
    machine::{Cause, DrainOutcome, Force, Record, Wait, What},
    plan::Plan,
};

/// Milliseconds are all that people want to read.
pub(super) fn short(duration: Duration) -> humantime::FormattedDuration {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    humantime::format_duration(Duration::from_millis(milliseconds))
}

/// How bad a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// As it should be.
    Info,
    /// Somebody should look at it.
    Warning,
}

impl Record {
    /// How bad it is.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match &self.what {
            What::NotReady(_)
            | What::Died(_)
            | What::Leftovers(_)
            | What::Forced(_)
            | What::NotClosed(_)
            | What::WaitTimedOut(_)
            | What::Killed(_)
            | What::Abandoned(_) => Severity::Warning,
            What::DrainEnded(DrainOutcome::Drained | DrainOutcome::NoneStays) => Severity::Info,
            What::DrainEnded(_) => Severity::Warning,
            What::ShutdownBegan(Cause::Critical(..) | Cause::StartFailed(..) | Cause::NothingLeft(_)) => {
                Severity::Warning
            }
            _ => Severity::Info,
        }
    }

    /// In words, without the name of the process it is about.
    #[must_use]
    pub fn text(&self, plan: &Plan) -> String {
        match &self.what {
            What::Started(pid) => format!("started as pid {pid}"),
            What::Ready(after) => format!("ready after {}", short(*after)),
            What::NotReady(why) => why.clone(),
            What::Stopped(status) => status.to_string(),
            What::Died(status) => format!("{status}, unasked"),
            What::Leftovers(status) => format!("{status}, unasked; others of its group are still alive"),
            What::Restarting(after, nth) => format!("restart {nth} in {}", short(*after)),
            What::ShutdownBegan(cause) => format!("shutting down: {}", cause.text(plan)),
            What::SignalIgnored(signal) => {
                format!("{signal} again: the shutdown goes on; once more within 2s kills everything")
            }
            What::Forced(Force::Deadline) => "the grace period is over: killing everything".to_owned(),
            What::Forced(Force::Signal(signal)) => format!("{signal} repeated: killing everything"),
            What::Draining => "draining".to_owned(),
            What::DrainEnded(outcome) => outcome.to_string(),
            What::Closed => "accepts no more connections".to_owned(),
            What::NotClosed(why) => format!("still accepts connections: {why}"),
            What::WaitTimedOut(wait) => format!("{wait}: not in time, going on"),
            What::GateQuiet => "nothing in flight towards it".to_owned(),
            What::Signalled(signal) => format!("sent {signal}"),
            What::Killed(Duration::ZERO) => "killed".to_owned(),
            What::Killed(after) => format!("killed: it did not stop within {}", short(*after)),
            What::Abandoned(left) => format!("still alive after SIGKILL: {}", left.join(", ")),
            What::Ended(code) => format!("all stopped, exit code {code}"),
        }
    }
}

impl Cause {
    /// In words.
    #[must_use]
    pub fn text(&self, plan: &Plan) -> String {
        match self {
            Self::Signal(signal) => format!("received {signal}"),
            Self::TerminalLost => "the terminal is gone".to_owned(),
            Self::Request => "requested".to_owned(),
            Self::Critical(id, status) => format!("critical process {} {status}", plan.name(*id)),
            Self::StartFailed(id, why, _) => format!("{} did not start: {why}", plan.name(*id)),
            Self::NothingLeft(_) => "every process has ended".to_owned(),
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drain => "waiting for its requests to end",
            Self::Close => "waiting for its listeners to close",
            Self::Listeners => "waiting for its last connections",
            Self::Gate => "waiting for traffic towards it to end",
        })
    }
}
