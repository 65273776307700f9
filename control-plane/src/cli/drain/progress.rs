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
