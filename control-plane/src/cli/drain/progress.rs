//! Progress of a waited drain on standard error: a live table on a terminal, otherwise lines.

use console::Term;
use ebb_proto::v1::Drain;
use tokio::time::Instant;

use super::{lines::Lines, report};
use crate::cli::{
    blockers::{self, BlockerView, Collected, Teller},
    common::{from_wire, human},
    fleet, output,
    screen::Screen,
};

/// Where the progress is shown.
pub(super) enum Progress {
    /// On a terminal, painted over in place.
    Live(Screen, Option<Sight>),
    /// Line by line.
    Lines(Lines, Teller),
}

/// What was last heard.
pub(super) struct Sight {
    drain: Drain,
    at: Instant,
    lost: Option<String>,
    blockers: Option<Collected>,
}

impl Progress {
    pub(super) fn new() -> Self {
        match Screen::on(Term::buffered_stderr()) {
            Some(screen) => Self::Live(screen, None),
            None => Self::Lines(Lines::default(), Teller::default()),
        }
    }

    /// The drain as it stands at `now`.
    pub(super) fn observe(&mut self, drain: Drain, now: Instant) {
        match self {
            Self::Live(screen, sight) => {
                // They stand until others are collected, or none is left.
                let blockers = sight.take().and_then(|before| before.blockers);
                let seen = sight.insert(Sight {
                    blockers: blockers.filter(|_| drain.in_flight > 0),
                    drain,
                    at: now,
                    lost: None,
                });
                screen.paint(&seen.frame(now));
            }
            Self::Lines(lines, _) => {
                lines.warnings(&drain).iter().for_each(|line| output::say(line));
                say(lines.observe(drain, now));
            }
        }
    }

    /// The oldest requests that it waits for, as they are at `now`.
    pub(super) fn blockers(&mut self, blockers: Vec<BlockerView>, now: Instant) {
        match self {
            Self::Live(_, sight) => {
                if let Some(sight) = sight {
                    sight.blockers = Some(Collected::new(blockers, now));
                }
                self.tick(now);
            }
            Self::Lines(_, teller) => say(teller.tell(&blockers, now)),
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
            Self::Lines(lines, _) => say(lines.lost(reason)),
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant) {
        match self {
            Self::Live(screen, Some(sight)) => screen.paint(&sight.frame(now)),
            Self::Live(_, None) => {}
            Self::Lines(lines, _) => say(lines.tick(now)),
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
        lines.extend(report::warnings(&self.drain));
        if let Some(blockers) = &self.blockers {
            lines.extend(blockers::lines(&blockers.at(now)));
        }
        if let Some(reason) = &self.lost {
            lines.push(format!("{}; trying again", output::one_line(reason)));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ebb_proto::v1::{DrainListener, Phase, Policy, UnknownReporter};

    use super::*;

    #[test]
    fn the_screen_shows_the_clock_the_counts_and_what_is_waited_for() {
        let listener = DrainListener {
            node: "edge-0".into(),
            name: "ingress".into(),
            in_flight: 3,
            ..DrainListener::default()
        };
        let unknown = UnknownReporter {
            node: "edge-0".into(),
            reporter: "a2".into(),
            reason: "silent for 1.5s".into(),
        };
        let drain = Drain {
            id: "d-1".into(),
            phase: Phase::Draining.into(),
            policy: Some(Policy {
                timeout: Duration::from_secs(30).try_into().ok(),
                ..Policy::default()
            }),
            elapsed: Duration::from_millis(1_500).try_into().ok(),
            in_flight: 3,
            listeners: vec![listener],
            unknown_reporters: vec![unknown],
            ..Drain::default()
        };
        let at = Instant::now();
        let sight = Sight {
            drain,
            at,
            lost: Some("connection refused".into()),
            blockers: None,
        };
        assert_eq!(
            sight.frame(at + Duration::from_secs(1)),
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
