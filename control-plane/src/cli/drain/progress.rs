//! Progress of a waited drain on standard error: a live table on a terminal, otherwise lines.

use std::time::Duration;

use console::Term;
use ebb_proto::v1::{Drain, Phase};
use tokio::time::Instant;

use super::report;
use crate::cli::{
    common::{from_wire, human},
    fleet, output,
    screen::Screen,
};

/// Lines are at least this far apart, unless the phase changes.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// A line comes at least this often, so that a log shows that somebody still waits.
const STILL_EVERY: Duration = Duration::from_secs(10);
/// How many of the busiest listeners a line names.
const NAMED: usize = 5;

/// Where the progress is shown.
pub(super) enum Progress {
    /// On a terminal, painted over in place.
    Live(Screen, Option<Sight>),
    /// Line by line.
    Lines(Lines),
}

/// What was last heard.
pub(super) struct Sight {
    drain: Drain,
    at: Instant,
    lost: Option<String>,
}

impl Progress {
    pub(super) fn new() -> Self {
        match Screen::on(Term::buffered_stderr()) {
            Some(screen) => Self::Live(screen, None),
            None => Self::Lines(Lines::default()),
        }
    }

    /// The drain as it stands at `now`.
    pub(super) fn observe(&mut self, drain: Drain, now: Instant) {
        match self {
            Self::Live(screen, sight) => {
                let seen = sight.insert(Sight {
                    drain,
                    at: now,
                    lost: None,
                });
                screen.paint(&seen.frame(now));
            }
            Self::Lines(lines) => say(lines.observe(drain, now)),
        }
    }

    /// The control plane cannot be heard.
    pub(super) fn lost(&mut self, reason: &str, now: Instant) {
        match self {
            Self::Live(_, sight) => {
                if let Some(sight) = sight {
                    sight.lost = Some(reason.to_owned());
                }
                self.tick(now);
            }
            Self::Lines(lines) => say(lines.lost(reason)),
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant) {
        match self {
            Self::Live(screen, Some(sight)) => screen.paint(&sight.frame(now)),
            Self::Live(_, None) => {}
            Self::Lines(lines) => say(lines.tick(now)),
        }
    }

    /// Makes room for the result.
    pub(super) fn clear(&mut self) {
        if let Self::Live(screen, _) = self {
            screen.clear();
        }
    }
}

fn say(line: Option<String>) {
    if let Some(line) = line {
        output::say(&line);
    }
}

impl Sight {
    /// The lines on the terminal.
    fn frame(&self, now: Instant) -> Vec<String> {
        let elapsed = from_wire(self.drain.elapsed).saturating_add(now.saturating_duration_since(self.at));
        let timeout = from_wire(self.drain.policy.as_ref().and_then(|policy| policy.timeout));
        let mut lines = vec![format!(
            "drain {}  {}  {} of {}  {}",
            output::one_line(&self.drain.id),
            fleet::phase(self.drain.phase),
            human(elapsed),
            human(timeout),
            report::left(&self.drain),
        )];
        lines.extend(report::table(&self.drain));
        lines.extend(report::unknown(&self.drain).map(|line| format!("waits for {line}")));
        if let Some(reason) = &self.lost {
            lines.push(format!("{}; trying again", output::one_line(reason)));
        }
        lines
    }
}

/// Decides which lines to write, and when: not more than one a second, but every phase and every trouble at once.
#[derive(Debug, Default)]
pub(super) struct Lines {
    latest: Option<Drain>,
    said: Option<(String, Instant)>,
    phase: Option<Phase>,
    lost: bool,
}

impl Lines {
    fn observe(&mut self, drain: Drain, now: Instant) -> Option<String> {
        let news = self.phase != Some(drain.phase()) || self.lost;
        self.phase = Some(drain.phase());
        self.lost = false;
        self.latest = Some(drain);
        if news { self.speak(now) } else { self.tick(now) }
    }

    fn tick(&mut self, now: Instant) -> Option<String> {
        if self.lost {
            return None;
        }
        let matter = matter(self.latest.as_ref()?);
        let (said, at) = self.said.as_ref()?;
        let quiet = now.saturating_duration_since(*at);
        let due = if *said == matter { STILL_EVERY } else { LINE_EVERY };
        if quiet >= due { self.speak(now) } else { None }
    }

    fn lost(&mut self, reason: &str) -> Option<String> {
        if std::mem::replace(&mut self.lost, true) {
            return None;
        }
        self.said = None;
        Some(format!("{reason}; trying again"))
    }

    fn speak(&mut self, now: Instant) -> Option<String> {
        let drain = self.latest.as_ref()?;
        self.said = Some((matter(drain), now));
        Some(line(drain))
    }
}

/// What has to change for a line to be worth it: not the age in `silent for 1.5s`.
fn matter(drain: &Drain) -> String {
    let mut drain = drain.clone();
    for reporter in &mut drain.unknown_reporters {
        reporter.reason.clear();
    }
    line(&drain)
}

/// `draining: 12 requests in flight (edge-1/ingress 8, edge-2/ingress 4); waits for unknown reporter …`.
fn line(drain: &Drain) -> String {
    let mut busy: Vec<_> = drain
        .listeners
        .iter()
        .filter(|listener| listener.in_flight > 0)
        .collect();
    busy.sort_by_key(|listener| std::cmp::Reverse(listener.in_flight));
    let mut names: Vec<String> = busy
        .iter()
        .take(NAMED)
        .map(|listener| format!("{}/{} {}", listener.node, listener.name, listener.in_flight))
        .collect();
    if busy.len() > NAMED {
        names.push(format!("{} more", busy.len() - NAMED));
    }
    let names = if names.is_empty() {
        String::new()
    } else {
        format!(" ({})", names.join(", "))
    };
    let unknown: String = report::unknown(drain)
        .map(|line| format!("; waits for {line}"))
        .collect();
    format!(
        "{}: {}{names}{unknown}",
        fleet::phase(drain.phase),
        report::left(drain)
    )
}

#[cfg(test)]
mod tests {
    use ebb_proto::v1::{DrainListener, Policy, UnknownReporter};

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
            policy: Some(Policy {
                timeout: Duration::from_secs(30).try_into().ok(),
                ..Policy::default()
            }),
            elapsed: Duration::from_millis(1_500).try_into().ok(),
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
        assert!(
            lines
                .observe(with_unknown(drain(Phase::Draining, &[0]), "silent for 1s"), start)
                .is_some()
        );
        // Only the age in the reason has changed.
        let later = lines.observe(
            with_unknown(drain(Phase::Draining, &[0]), "silent for 9s"),
            after(start, 8_000),
        );
        assert_eq!(later, None);
        let said = lines.tick(after(start, 10_000)).expect("a sign of life");
        assert!(
            said.ends_with("1 reporter unknown; waits for unknown reporter edge-0/a2: silent for 9s"),
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
    fn many_listeners_make_no_long_line() {
        let said = line(&drain(Phase::Draining, &[1, 9, 8, 7, 6, 5, 4]));
        assert!(
            said.contains("(edge-1/ingress 9, ") && said.ends_with("edge-5/ingress 5, 2 more)"),
            "{said}"
        );
    }

    #[test]
    fn the_screen_shows_the_clock_the_counts_and_what_is_waited_for() {
        let start = Instant::now();
        let drain = with_unknown(drain(Phase::Draining, &[3]), "silent for 1.5s");
        let sight = Sight {
            drain,
            at: start,
            lost: Some("connection refused".into()),
        };
        assert_eq!(
            sight.frame(after(start, 1_000)),
            [
                "drain d-1  draining  2.5s of 30s  3 requests in flight, 1 reporter unknown",
                "NODE    LISTENER  IN FLIGHT  REQUESTS",
                "edge-0  ingress           3         0",
                "waits for unknown reporter edge-0/a2: silent for 1.5s",
                "connection refused; trying again",
            ]
        );
    }
}
