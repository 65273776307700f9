//! What a shutdown cut: what its processes had not finished when their time was over, or when they ended by themselves. It
//! is the last that a shutdown says.

mod left;

use std::time::Duration;

pub use left::{Follow, Following, Left, Remains};

use super::tell::{Severity, short};
use crate::core::reading::sum;

/// Why something was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A wait for it came to its bound.
    TimeOver,
    /// Somebody did not want to wait: the signal was repeated, or the drain cancelled.
    Unwanted,
    /// The process ended, and was not meant to.
    Ended,
    /// An Envoy ended that was in the scope of its drain.
    InDrain,
}

/// The account of one shutdown.
#[derive(Debug, Default)]
pub struct Account(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    process: String,
    why: Why,
    left: Given,
}

/// What a process had left.
#[derive(Debug)]
enum Given {
    /// When it was given up. What it counts afterwards is of no request that was waited for.
    Up(Remains),
    /// When it ended, which its drain hears of a moment later.
    Later(Left),
}

/// The times whose length decides what is cut.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// From the beginning of the shutdown until the orchestrator kills.
    pub grace_period: Duration,
    /// The bound of a drain; `None` = nothing is drained.
    pub drain: Option<Duration>,
}

/// What an account comes to, told to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// In words.
    pub text: String,
    /// A warning if anything was cut, or may have been.
    pub severity: Severity,
}

impl Account {
    /// What a process had left is not waited for any longer.
    pub fn note(&mut self, process: &str, why: Why, left: Left) {
        let left = match why {
            Why::TimeOver | Why::Unwanted | Why::InDrain => Given::Up(left.remains()),
            Why::Ended => Given::Later(left),
        };
        self.0.push(Entry {
            process: process.to_owned(),
            why,
            left,
        });
    }

    /// Waits until the drains of processes that ended by themselves know what was cut.
    pub async fn settled(&self) {
        for entry in &self.0 {
            if let Given::Later(left) = &entry.left {
                left.settled().await;
            }
        }
    }

    /// A process has been started again: what its last run left is no matter of the next stop.
    pub fn forget(&mut self, process: &str) {
        self.0.retain(|entry| entry.process != process);
    }

    /// What it comes to.
    #[must_use]
    pub fn verdict(&self, times: Times) -> Verdict {
        let cut = self.0.iter().map(|entry| (entry, entry.remains()));
        let cut: Vec<(&Entry, Remains)> = cut.filter(|(_, remains)| !remains.is_nothing()).collect();
        if cut.is_empty() {
            return Verdict {
                text: "nothing was cut".to_owned(),
                severity: Severity::Info,
            };
        }
        let total = sum(cut.iter().map(|(_, remains)| remains.total()));
        let unknown = cut.iter().any(|(_, remains)| !remains.unknown.is_empty());
        let owed = cut.iter().any(|(_, remains)| remains.owes());
        let were_cut = match total {
            1 => "1 request was cut".to_owned(),
            _ => format!("{total} requests were cut"),
        };
        let head = match (total, unknown) {
            (0, true) => "requests may have been cut, and nobody knows how many".to_owned(),
            (0, false) if owed => "what clients were owed was cut".to_owned(),
            (0, false) => "requests have lost what they needed".to_owned(),
            (_, true) => format!("{were_cut}, as far as is known"),
            (_, false) => were_cut,
        };
        let details: Vec<String> = cut.iter().map(|(entry, remains)| entry.text(remains)).collect();
        let mut text = format!("{head}: {}", details.join("; "));
        if cut.iter().any(|(entry, _)| entry.why == Why::TimeOver) {
            text.push_str("; ");
            text.push_str(&times.advice());
        }
        Verdict {
            text,
            severity: Severity::Warning,
        }
    }
}

impl Entry {
    fn remains(&self) -> Remains {
        match &self.left {
            Given::Up(remains) => remains.clone(),
            Given::Later(left) => left.remains(),
        }
    }

    fn text(&self, remains: &Remains) -> String {
        let left = remains.text();
        match self.why {
            Why::TimeOver | Why::Unwanted => format!("{left} when {} was stopped", self.process),
            Why::Ended => format!("{left} when {} ended by itself", self.process),
            Why::InDrain => format!("{left} in the drain of {}", self.process),
        }
    }
}

impl Times {
    fn advice(self) -> String {
        let grace = short(self.grace_period);
        match self.drain {
            Some(drain) => format!(
                "raise the grace period ({grace}) or drain.timeout ({})",
                short(drain)
            ),
            None => format!("raise the grace period ({grace})"),
        }
    }
}

impl Verdict {
    /// Logs it.
    pub fn log(&self) {
        match self.severity {
            Severity::Info => tracing::info!("{}", self.text),
            Severity::Warning => tracing::warn!("{}", self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const TIMES: Times = Times {
        grace_period: Duration::from_secs(30),
        drain: Some(Duration::from_secs(15)),
    };

    fn on_ingress(count: u64) -> Remains {
        Remains {
            requests: BTreeMap::from([("on ingress of edge".to_owned(), count)]),
            ..Remains::default()
        }
    }

    fn said(entries: impl IntoIterator<Item = (Why, Remains)>) -> String {
        let mut account = Account::default();
        for (why, remains) in entries {
            let left = Left::default();
            left.set(remains);
            account.note("router", why, left);
        }
        let verdict = account.verdict(TIMES);
        let is_clean = verdict.text == "nothing was cut";
        assert_eq!(verdict.severity == Severity::Info, is_clean, "{verdict:?}");
        verdict.text
    }

    #[test]
    fn what_was_cut_is_said_with_what_to_do() {
        assert_eq!(said([]), "nothing was cut");
        assert_eq!(said([(Why::TimeOver, Remains::default())]), "nothing was cut");
        assert_eq!(
            said([(Why::TimeOver, on_ingress(5))]),
            "5 requests were cut: 5 in flight on ingress of edge when router was stopped; raise the grace period (30s) or \
             drain.timeout (15s)"
        );
        let unknown = Remains {
            last_told: 2,
            unknown: vec!["reporter 00a1 of edge unknown (silent for 2s)".to_owned()],
            ..on_ingress(10)
        };
        assert_eq!(
            said([(Why::TimeOver, unknown)]),
            "12 requests were cut, as far as is known: 10 in flight on ingress of edge, 2 in flight when last heard of, \
             reporter 00a1 of edge unknown (silent for 2s) when router was stopped; raise the grace period (30s) or \
             drain.timeout (15s)"
        );
        assert_eq!(
            said([(Why::Ended, on_ingress(1))]),
            "1 request was cut: 1 in flight on ingress of edge when router ended by itself"
        );
    }

    #[test]
    fn what_was_owed_is_no_request() {
        let sessions = Remains {
            sessions: 2,
            ..Remains::default()
        };
        assert_eq!(
            said([(Why::TimeOver, sessions)]),
            "what clients were owed was cut: 2 TCP sessions when router was stopped; raise the grace period (30s) or \
             drain.timeout (15s)"
        );
    }

    #[test]
    fn what_is_not_known_is_not_nothing() {
        assert_eq!(
            said([(Why::Unwanted, Remains::unknown("it was serving".to_owned()))]),
            "requests may have been cut, and nobody knows how many: it was serving when router was stopped"
        );
        let towards = Remains {
            towards: BTreeMap::from([("towards 127.0.0.1:80".to_owned(), 4)]),
            ..Remains::default()
        };
        assert_eq!(
            said([(Why::TimeOver, towards)]),
            "requests have lost what they needed: 4 in flight towards 127.0.0.1:80 when router was stopped; raise the grace \
             period (30s) or drain.timeout (15s)"
        );
    }
}
