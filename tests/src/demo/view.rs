//! What the act looks like at one moment: a table of the listeners, with bars for what is in flight.

use std::time::Duration;

use ebb_proto::v1::{Listener, Phase};

use super::{clients::Tally, report::number, screen::Picture};

const BAR: usize = 20;

/// One listener.
#[derive(Clone, Debug)]
pub(super) struct Row {
    name: &'static str,
    phase: String,
    /// What the control plane counts.
    pub(super) in_flight: u64,
    requests: u64,
    failed: u64,
    open: u64,
    connections: u64,
}

impl Row {
    /// From what the control plane says (none = nothing yet) and what the clients have seen.
    pub(super) fn new(name: &'static str, listener: Option<&Listener>, http1: &Tally, http2: &Tally) -> Self {
        Self {
            name,
            phase: listener.map_or_else(|| "?".to_owned(), |listener| word(listener.phase())),
            in_flight: listener.map_or(0, |listener| listener.in_flight),
            requests: http1.requests + http2.requests,
            failed: http1.failed() + http2.failed(),
            open: http1.open + http2.open,
            connections: http1.connections + http2.connections,
        }
    }
}

/// The listeners at `elapsed`; `most` in flight is a full bar.
pub(super) fn picture(elapsed: Duration, rows: &[Row], most: u64) -> Picture {
    let seconds = elapsed.as_secs_f64();
    let mut lines = vec![
        String::new(),
        format!(
            "{seconds:5.1} s  {:9} {:9} {:BAR$}     {:>8} {:>6}  IN USE",
            "LISTENER", "PHASE", "IN FLIGHT", "REQUESTS", "FAILED"
        ),
    ];
    lines.extend(rows.iter().map(|row| {
        let bar = "█".repeat(bar_length(row.in_flight, most));
        format!(
            "         {:9} {:9} {bar:BAR$} {:3} {:>8} {:>6} {:>3}/{}",
            row.name,
            row.phase,
            row.in_flight,
            number(row.requests),
            row.failed,
            row.open,
            row.connections
        )
    }));
    let parts = rows.iter().map(|row| {
        format!(
            "{} {}, {} in flight, {} of {} connections in use, {} requests, {} failed",
            row.name,
            row.phase,
            row.in_flight,
            row.open,
            row.connections,
            number(row.requests),
            row.failed
        )
    });
    let line = format!("{seconds:5.1} s  {}", parts.collect::<Vec<_>>().join(" | "));
    Picture { lines, line }
}

/// At least one column for whatever is not zero.
fn bar_length(value: u64, most: u64) -> usize {
    let columns = (value * BAR as u64).div_ceil(most.max(1));
    usize::try_from(columns).unwrap_or(BAR).min(BAR)
}

/// `draining`, `timed_out`; a listener that no drain holds serves.
fn word(phase: Phase) -> String {
    match phase {
        Phase::Unspecified => "serving".to_owned(),
        phase => phase.as_str_name().trim_start_matches("PHASE_").to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_a_terminal_of_80_columns() {
        let row = Row {
            name: "internal",
            phase: "announced".to_owned(),
            in_flight: 999,
            requests: 99_999,
            failed: 99_999,
            open: 999,
            connections: 999,
        };
        for line in picture(Duration::from_secs(999), &[row], 999).lines {
            assert!(line.chars().count() < 80, "{line}");
        }
    }

    #[test]
    fn whatever_is_in_flight_has_a_bar() {
        assert_eq!(
            [0, 1, 50, 100, 200].map(|value| bar_length(value, 100)),
            [0, 1, 10, 20, 20]
        );
    }
}
