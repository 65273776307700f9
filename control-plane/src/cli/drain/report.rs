//! What is said about a drain on standard output: at its start, and at its end.

use ebb_proto::v1::Drain;
use serde::Serialize;

use super::Outcome;
use crate::{
    cli::{
        common::{count, from_wire, human},
        fleet::{self, millis},
        output::one_line,
        outstanding::{self, OutstandingView},
        table::{Column, Table},
    },
    core::snapshot::unknown_reporters,
};

/// The JSON of a drain that was started and is not waited for.
#[derive(Debug, Serialize)]
pub(super) struct Started {
    drain_id: String,
    phase: &'static str,
    holding: bool,
    in_flight: u64,
    elapsed_ms: u64,
    unknown_reporters: usize,
    outstanding: Option<OutstandingView>,
    listeners: Vec<Listener>,
    /// Left out where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// The JSON of a drain that has ended: part of the stable command line.
#[derive(Debug, Serialize)]
pub(crate) struct Ended {
    drain_id: String,
    outcome: Option<Outcome>,
    duration_ms: u64,
    in_flight_at_end: Option<u64>,
    cut: u64,
    unknown_reporters: usize,
    /// Null where nothing is known of it.
    outstanding: Option<OutstandingView>,
    listeners: Vec<Listener>,
    /// Left out where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Listener {
    node: String,
    name: String,
    in_flight: u64,
    requests_during_drain: u64,
}

impl Started {
    pub(super) fn new(drain: &Drain) -> Self {
        Self {
            drain_id: drain.id.clone(),
            phase: fleet::phase(drain.phase),
            holding: drain.holding,
            in_flight: drain.in_flight,
            elapsed_ms: millis(drain.elapsed),
            unknown_reporters: unknown_reporters(drain),
            outstanding: drain.outstanding.as_ref().map(OutstandingView::from),
            listeners: listeners(drain),
            warnings: drain.warnings.clone(),
        }
    }
}

impl Ended {
    /// Of a drain that ended like this; the report of one that still runs has no outcome.
    pub(crate) fn new(drain: &Drain, outcome: Option<Outcome>) -> Self {
        Self {
            drain_id: drain.id.clone(),
            outcome,
            duration_ms: millis(drain.elapsed),
            in_flight_at_end: outcome.map(|_| drain.in_flight),
            cut: drain.cut,
            unknown_reporters: unknown_reporters(drain),
            outstanding: drain.outstanding.as_ref().map(OutstandingView::from),
            listeners: listeners(drain),
            warnings: drain.warnings.clone(),
        }
    }
}

fn listeners(drain: &Drain) -> Vec<Listener> {
    let listeners = drain.listeners.iter().map(|listener| Listener {
        node: listener.node.clone(),
        name: listener.name.clone(),
        in_flight: listener.in_flight,
        requests_during_drain: listener.requests_during_drain,
    });
    listeners.collect()
}

/// The end of a drain for a person: how it ended, what was left, and what still holds.
pub(super) fn text(drain: &Drain, outcome: Outcome) -> Vec<String> {
    let (id, elapsed) = (one_line(&drain.id), human(from_wire(drain.elapsed)));
    let mut lines = vec![match outcome {
        Outcome::Drained => format!("drain {id} drained in {elapsed}"),
        Outcome::TimedOut => format!("drain {id} timed out after {elapsed}: {}", left(drain)),
        Outcome::Cancelled => format!("drain {id} was cancelled after {elapsed}: {}", left(drain)),
        Outcome::Cut if drain.cut == 0 => {
            format!("drain {id} ended after {elapsed}: an Envoy ended meanwhile, and may have cut requests")
        }
        Outcome::Cut => format!(
            "drain {id} ended after {elapsed}: {} cut by an Envoy that ended meanwhile",
            count(drain.cut, "request")
        ),
    }];
    lines.extend(table(drain));
    lines.extend(unknown(drain));
    lines.extend(warnings(drain));
    if drain.holding {
        lines.push(format!(
            "its listeners go on closing connections until `ebb cancel {id}`"
        ));
    }
    lines
}

/// `3 requests in flight, 1 reporter unknown`.
pub(super) fn left(drain: &Drain) -> String {
    let in_flight = format!("{} in flight", count(drain.in_flight, "request"));
    let unknown = match unknown_reporters(drain) as u64 {
        0 => None,
        unknown => Some(format!("{} unknown", count(unknown, "reporter"))),
    };
    let parts: Vec<String> = [Some(in_flight), unknown]
        .into_iter()
        .flatten()
        .chain(outstanding::owed(drain))
        .collect();
    parts.join(", ")
}

/// The listeners of a drain; nothing if it has none.
pub(crate) fn table(drain: &Drain) -> Vec<String> {
    if drain.listeners.is_empty() {
        return Vec::new();
    }
    let mut table = Table::new([
        Column::Text("NODE"),
        Column::Text("LISTENER"),
        Column::Number("IN FLIGHT"),
        Column::Number("REQUESTS"),
    ]);
    for listener in &drain.listeners {
        table.row([
            listener.node.clone(),
            listener.name.clone(),
            listener.in_flight.to_string(),
            listener.requests_during_drain.to_string(),
        ]);
    }
    if drain.listeners_omitted > 0 {
        let more = format!("and {} more", drain.listeners_omitted);
        table.row([String::new(), more, "-".to_owned(), "-".to_owned()]);
    }
    table.lines()
}

/// A line for each reporter whose count is not known.
pub(crate) fn unknown(drain: &Drain) -> impl Iterator<Item = String> {
    let named = drain.unknown_reporters.iter();
    let named = named.map(|reporter| format!("unknown reporter {}", fleet::describe(reporter)));
    let more = Some(drain.unknown_reporters_omitted).filter(|more| *more > 0);
    named.chain(more.map(|more| format!("and {more} more unknown reporters")))
}

/// A line for each warning.
pub(super) fn warnings(drain: &Drain) -> impl Iterator<Item = String> {
    let warnings = drain.warnings.iter();
    warnings.map(|text| format!("warning: {}", one_line(text)))
}
