//! Progress of a waited drain line by line, for logs.

use std::{collections::BTreeSet, time::Duration};

use ebb_proto::v1::{Drain, Phase};
use tokio::time::Instant;

use super::report;
use crate::{
    cli::{common::count, fleet, outstanding},
    core::snapshot::unknown_reporters,
};

/// Lines are at least this far apart, unless the phase changes.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// A line comes at least this often, so that a log shows that somebody still waits.
const STILL_EVERY: Duration = Duration::from_secs(10);
/// A new phase asks every reporter: for this long it is no news that some have not answered.
const SETTLE: Duration = Duration::from_millis(300);
/// How many listeners and reporters a line names.
const NAMED: usize = 5;

/// Decides which lines to write, and when: not more than one a second, but every phase and every trouble at once.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// What there is to say; nothing while the control plane cannot be heard.
    latest: Option<Drain>,
    /// Since when its phase waits to be said.
    news: Option<Instant>,
    said: Said,
    /// The warnings that have been said.
    warned: BTreeSet<String>,
}

/// The last line.
#[derive(Debug, Default)]
enum Said {
    #[default]
    Nothing,
    Trouble,
    Drain {
        phase: Phase,
        matter: String,
        at: Instant,
    },
}

impl Lines {
    /// The lines of warnings that have not been said yet.
    pub(super) fn warnings(&mut self, drain: &Drain) -> Vec<String> {
        let all = report::warnings(drain);
        all.filter(|line| self.warned.insert(line.clone())).collect()
    }

    /// The drain as it stands at `now`: the line to write, if any.
    pub(super) fn observe(&mut self, drain: Drain, now: Instant) -> Option<String> {
        let old_phase = match &self.said {
            Said::Drain { phase, .. } => Some(*phase),
            Said::Nothing | Said::Trouble => None,
        };
        if old_phase != Some(drain.phase()) {
            self.news.get_or_insert(now);
        }
        self.latest = Some(drain);
        self.tick(now)
    }

    /// Time has passed: the line to write, if any.
    pub(super) fn tick(&mut self, now: Instant) -> Option<String> {
        let drain = self.latest.as_ref()?;
        let due = match (&self.said, self.news) {
            (_, Some(since)) => {
                drain.unknown_reporters.is_empty() || now.saturating_duration_since(since) >= SETTLE
            }
            (Said::Drain { matter, at, .. }, None) => {
                let pause = if *matter == matter_of(drain) {
                    STILL_EVERY
                } else {
                    LINE_EVERY
                };
                now.saturating_duration_since(*at) >= pause
            }
            (Said::Nothing | Said::Trouble, None) => true,
        };
        if !due {
            return None;
        }
        self.news = None;
        self.said = Said::Drain {
            phase: drain.phase(),
            matter: matter_of(drain),
            at: now,
        };
        Some(line(drain))
    }

    /// The control plane cannot be heard: the line to write, if it has not been written.
    pub(super) fn lost(&mut self, reason: &str) -> Option<String> {
        self.latest = None;
        match std::mem::replace(&mut self.said, Said::Trouble) {
            Said::Trouble => None,
            Said::Nothing | Said::Drain { .. } => Some(format!("{reason}; trying again")),
        }
    }
}

/// What has to change for a line to be worth it: not the age in `silent for 1.5s`.
fn matter_of(drain: &Drain) -> String {
    let mut drain = drain.clone();
    for reporter in &mut drain.unknown_reporters {
        reporter.reason.clear();
    }
    line(&drain)
}

/// `draining: 12 requests in flight (edge-1/ingress 8, edge-2/ingress 4); waits for 1 unknown reporter (…)`.
fn line(drain: &Drain) -> String {
    let mut busy: Vec<_> = drain
        .listeners
        .iter()
        .filter(|listener| listener.in_flight > 0)
        .collect();
    busy.sort_by_key(|listener| std::cmp::Reverse(listener.in_flight));
    let busy = busy
        .iter()
        .map(|listener| format!("{}/{} {}", listener.node, listener.name, listener.in_flight));
    let in_flight = format!("{} in flight{}", count(drain.in_flight, "request"), named(busy));
    let phase = fleet::phase(drain.phase);
    let mut awaited = outstanding::awaited(drain);
    let unknown = unknown_reporters(drain) as u64;
    if unknown > 0 {
        let names = named(drain.unknown_reporters.iter().map(fleet::describe));
        awaited.insert(0, format!("{}{names}", count(unknown, "unknown reporter")));
    }
    if awaited.is_empty() {
        return format!("{phase}: {in_flight}");
    }
    format!("{phase}: {in_flight}; waits for {}", awaited.join(", "))
}

/// ` (a, b, 3 more)`; nothing if there is none.
fn named(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let mut names: Vec<String> = names.take(NAMED).collect();
    if names.is_empty() {
        return String::new();
    }
    if more > 0 {
        names.push(format!("{more} more"));
    }
    format!(" ({})", names.join(", "))
}

#[cfg(test)]
mod tests {
    use ebb_proto::v1::{DrainListener, Outstanding, UnknownReporter};

    use super::*;

    fn drain(phase: Phase, in_flight: &[u64]) -> Drain {
        let listener = |(i, in_flight): (usize, &u64)| DrainListener {
            node: format!("edge-{i}"),
            name: "ingress".into(),
            in_flight: *in_flight,
            ..DrainListener::default()
        };
        Drain {
            id: "d-1".into(),
            phase: phase.into(),
            in_flight: in_flight.iter().sum(),
            listeners: in_flight.iter().enumerate().map(listener).collect(),
            ..Drain::default()
        }
    }

    fn with_unknown(drain: Drain, reason: &str) -> Drain {
        let unknown = UnknownReporter {
            node: "edge-0".into(),
            reporter: "a2".into(),
            reason: reason.into(),
        };
        Drain {
            unknown_reporters: vec![unknown],
            ..drain
        }
    }

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn lines_are_a_second_apart_but_a_phase_is_said_at_once() {
        let (mut lines, start) = (Lines::default(), Instant::now());
        let said = lines.observe(drain(Phase::Draining, &[3, 4]), start);
        assert_eq!(
            said.as_deref(),
            Some("draining: 7 requests in flight (edge-1/ingress 4, edge-0/ingress 3)")
        );
        assert_eq!(
            lines.observe(drain(Phase::Draining, &[2, 4]), after(start, 300)),
            None
        );
        assert_eq!(lines.tick(after(start, 900)), None);
        let said = lines.tick(after(start, 1_000));
        assert_eq!(
            said.as_deref(),
            Some("draining: 6 requests in flight (edge-1/ingress 4, edge-0/ingress 2)")
        );
        let said = lines.observe(drain(Phase::Quiet, &[0, 0]), after(start, 1_100));
        assert_eq!(said.as_deref(), Some("quiet: 0 requests in flight"));
    }

    #[test]
    fn nothing_new_is_said_every_ten_seconds() {
        let (mut lines, start) = (Lines::default(), Instant::now());
        let unknown = with_unknown(drain(Phase::Draining, &[0]), "silent for 1s");
        assert_eq!(lines.observe(unknown, start), None, "it may be about to answer");
        assert!(lines.tick(after(start, 400)).is_some());
        // Only the age in the reason has changed.
        let later = lines.observe(
            with_unknown(drain(Phase::Draining, &[0]), "silent for 9s"),
            after(start, 8_400),
        );
        assert_eq!(later, None);
        let said = lines.tick(after(start, 10_400)).expect("a sign of life");
        assert!(
            said.ends_with("0 requests in flight; waits for 1 unknown reporter (edge-0/a2: silent for 9s)"),
            "{said}"
        );
    }

    #[test]
    fn trouble_is_said_once_and_its_end_too() {
        let (mut lines, start) = (Lines::default(), Instant::now());
        assert!(lines.observe(drain(Phase::Draining, &[1]), start).is_some());
        assert_eq!(
            lines.lost("no such file").as_deref(),
            Some("no such file; trying again")
        );
        assert_eq!(lines.lost("no such file"), None);
        assert_eq!(lines.tick(after(start, 60_000)), None);
        assert!(
            lines
                .observe(drain(Phase::Draining, &[1]), after(start, 60_100))
                .is_some()
        );
    }

    #[test]
    fn it_says_what_clients_have_not_received_and_that_it_lingers() {
        let mut quiet = drain(Phase::Quiet, &[0]);
        let owed = Outstanding {
            unsent_bytes: Some(37_000),
            unsent_clients: Some(1),
            ..Outstanding::default()
        };
        quiet.outstanding = Some(owed);
        assert_eq!(
            line(&quiet),
            "quiet: 0 requests in flight; waits for 37 kB towards 1 client"
        );
        let mut busy = with_unknown(drain(Phase::Draining, &[1]), "silent for 1s");
        busy.outstanding = Some(Outstanding {
            tcp_sessions: Some(2),
            ..Outstanding::default()
        });
        assert!(
            line(&busy).ends_with("waits for 1 unknown reporter (edge-0/a2: silent for 1s), 2 TCP sessions"),
            "{}",
            line(&busy)
        );
        quiet.outstanding = Some(Outstanding {
            unseen_nodes: 3,
            ..Outstanding::default()
        });
        assert_eq!(
            line(&quiet),
            "quiet: 0 requests in flight; waits for clients of 3 nodes, unseen"
        );
    }

    #[test]
    fn many_listeners_make_no_long_line() {
        let said = line(&drain(Phase::Draining, &[1, 9, 8, 7, 6, 5, 4]));
        assert!(
            said.contains("(edge-1/ingress 9, ") && said.ends_with("edge-5/ingress 5, 2 more)"),
            "{said}"
        );
    }
}
