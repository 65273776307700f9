//! How a watched fleet is shown: a live table, lines, or objects.

use std::collections::BTreeMap;

use console::Term;
use tokio::time::Instant;

use crate::cli::{
    blockers::Teller,
    common::{Format, count},
    exit::Failure,
    fleet::{Fleet, scope},
    output::{self, Reader, one_line},
    processes::ProcessView,
    screen::Screen,
};

/// Where the fleet is shown, and what was shown last.
pub(super) enum View {
    /// On a terminal, painted over in place.
    Live { screen: Screen, last: Vec<String> },
    /// A line for each change.
    Lines {
        last: Option<BTreeMap<String, String>>,
        lost: bool,
        teller: Teller,
    },
    /// An object for each change.
    Json { last: Option<Fleet>, lost: bool },
}

impl View {
    /// On standard output.
    pub(super) fn new(format: Format) -> Self {
        match (format, Screen::on(Term::buffered_stdout())) {
            (Format::Json, _) => Self::Json {
                last: None,
                lost: false,
            },
            (Format::Text, Some(screen)) => Self::Live {
                screen,
                last: Vec::new(),
            },
            (Format::Text, None) => Self::Lines {
                last: None,
                lost: false,
                teller: Teller::default(),
            },
        }
    }

    /// Shows what has changed.
    ///
    /// # Errors
    /// As [`output::print`].
    pub(super) fn show(&mut self, fleet: Fleet) -> Result<Reader, Failure> {
        match self {
            Self::Live { screen, last } => {
                *last = fleet.lines();
                screen.paint(last);
            }
            Self::Lines { last, lost, teller } => {
                *lost = false;
                let now = facts(&fleet);
                let oldest = fleet
                    .blockers
                    .as_deref()
                    .and_then(|blockers| teller.tell(blockers, Instant::now()));
                let mut changes = match last {
                    Some(last) => changes(last, &now),
                    None => changes(&BTreeMap::new(), &facts(&current(fleet))),
                };
                *last = Some(now);
                changes.extend(oldest);
                if !changes.is_empty() {
                    return output::print(&changes.join("\n"));
                }
            }
            Self::Json { last, lost } => {
                *lost = false;
                if last.as_ref().map(timeless) != Some(timeless(&fleet)) {
                    let reader = output::print_json(&fleet)?;
                    *last = Some(fleet);
                    return Ok(reader);
                }
            }
        }
        Ok(Reader::There)
    }

    /// The control plane cannot be heard.
    pub(super) fn lost(&mut self, reason: &str) {
        let reason = format!("{reason}; trying again");
        match self {
            Self::Live { screen, last } => {
                let note = [String::new(), one_line(&reason)];
                screen.paint(&last.iter().cloned().chain(note).collect::<Vec<_>>());
            }
            Self::Lines { lost, .. } | Self::Json { lost, .. } => {
                if !std::mem::replace(lost, true) {
                    output::say(&reason);
                }
            }
        }
    }

    /// Leaves the last state on the terminal, without the `^C` that Ctrl-C has put under it.
    pub(super) fn end(&mut self) {
        if let Self::Live { screen, last } = self {
            screen.paint(last);
        }
    }
}

/// Without what was over before anybody watched.
fn current(mut fleet: Fleet) -> Fleet {
    fleet.drains.retain(|drain| drain.holding || !drain.has_ended());
    fleet
}

/// Time passing is no change.
fn timeless(fleet: &Fleet) -> Fleet {
    let mut fleet = fleet.clone();
    for drain in &mut fleet.drains {
        drain.elapsed_ms = 0;
    }
    let blockers = fleet.blockers.iter_mut().flatten();
    blockers.for_each(|blocker| *blocker = blocker.timeless());
    fleet.processes.iter_mut().for_each(ProcessView::forget_time);
    fleet
}

/// What can be said in a line each, by the thing that it is about.
fn facts(fleet: &Fleet) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    for node in &fleet.nodes {
        let unknown = match node.unknown_reporters {
            0 => String::new(),
            unknown => format!(", {unknown} unknown"),
        };
        let reporters = format!("{}{unknown}", count(node.reporters as u64, "reporter"));
        facts.insert(format!("node {}", one_line(&node.id)), reporters);
        for listener in &node.listeners {
            let name = format!("listener {}/{}", one_line(&node.id), one_line(&listener.name));
            facts.insert(
                name,
                format!("{}, {} in flight", listener.phase, listener.in_flight),
            );
        }
    }
    for drain in &fleet.drains {
        let holding = if drain.has_ended() && !drain.holding {
            ", released"
        } else {
            ""
        };
        let scope = one_line(&scope(&drain.nodes, &drain.listeners));
        let text = format!(
            "{}{holding}, {} in flight{} ({scope})",
            drain.phase,
            drain.in_flight,
            drain.more()
        );
        facts.insert(format!("drain {}", one_line(&drain.id)), text);
    }
    for process in &fleet.processes {
        facts.insert(format!("process {}", process.name), process.fact());
    }
    facts
}

/// A line for each thing that is new, different or gone.
fn changes(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<String> {
    let changed = now
        .iter()
        .filter(|(thing, fact)| before.get(*thing) != Some(*fact));
    let gone = before.keys().filter(|thing| !now.contains_key(*thing));
    changed
        .map(|(thing, fact)| format!("{thing}: {fact}"))
        .chain(gone.map(|thing| format!("{thing}: gone")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_about_what_changed() {
        let facts = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .map(|(thing, fact)| ((*thing).to_owned(), (*fact).to_owned()))
                .collect()
        };
        let before = facts(&[("node a", "1"), ("node b", "1"), ("node c", "1")]);
        let now = facts(&[("node a", "1"), ("node b", "2"), ("node d", "1")]);
        assert_eq!(changes(&before, &now), ["node b: 2", "node d: 1", "node c: gone"]);
        assert!(changes(&now, &now).is_empty());
    }
}
