//! What came of act two: who stopped when and why it waited, judged and put into words.

use std::{collections::HashMap, time::Duration};

use ebb_proto::v1::ShutdownEvent;

use super::{clients::Tally, report::number};
use crate::gateway::since;

/// Columns of the time from the signal to the end.
const BAR: usize = 44;

/// The act's result.
#[derive(Clone, Debug)]
pub(super) struct StopReport {
    pub(super) http1: Tally,
    pub(super) http2: Tally,
    /// Connections that the clients would open if none were ever closed.
    pub(super) planned: u64,
    /// What happened, as the control plane told it, or why it did not.
    pub(super) events: Result<Vec<ShutdownEvent>, String>,
    /// What each process waited for, one thing after the other, in words.
    pub(super) waited_for: HashMap<String, Vec<String>>,
    /// From SIGTERM to the end of `ebb run`.
    pub(super) took: Duration,
    /// How `ebb run` ended, in words, and whether it ended well.
    pub(super) ended: String,
    pub(super) well: bool,
}

/// One process in the stop.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row<'r> {
    name: &'r str,
    /// When it was told to stop.
    told: Duration,
    /// When it had exited.
    gone: Duration,
}

impl StopReport {
    /// All requests that ended.
    pub(super) fn requests(&self) -> u64 {
        self.http1.requests + self.http2.requests
    }

    /// Everything that was not as it should be.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (protocol, tally) in [("HTTP/1.1", &self.http1), ("HTTP/2", &self.http2)] {
            if tally.requests == 0 {
                faults.push(format!("no request over {protocol} to the gateway ended"));
            }
            for (failure, number) in &tally.failures {
                faults.push(format!(
                    "{number} requests over {protocol} to the gateway failed: {failure}"
                ));
            }
        }
        let told = self.http1.told_to_close + self.http2.told_to_close;
        if told != self.planned {
            faults.push(format!(
                "{told} of {} connections to the gateway were told to close",
                self.planned
            ));
        }
        if !self.well {
            faults.push(format!("`ebb run` ended with {}", self.ended));
        }
        match &self.events {
            Err(error) => faults.push(format!("the stop could not be followed: {error}")),
            Ok(events) => {
                let rows = rows(events);
                if rows.len() < 3 {
                    faults.push(format!("{} of 3 processes were told to stop", rows.len()));
                }
                let overlaps = rows.windows(2).filter_map(|pair| match pair {
                    [above, below] if below.told < above.gone => Some((above.name, below.name)),
                    _ => None,
                });
                faults.extend(
                    overlaps
                        .map(|(above, below)| format!("{below} was told to stop before {above} had exited")),
                );
                faults.extend(
                    events
                        .iter()
                        .filter(|event| event.warning)
                        .map(|event| format!("{}: {}", event.process, event.text)),
                );
            }
        }
        faults
    }

    /// The report in words, with a picture of the time.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![String::new()];
        if let Ok(events) = &self.events {
            lines.extend(events.iter().map(event_line));
            lines.push(String::new());
            for row in rows(events) {
                lines.push(self.bar_line(&row));
                lines.push(self.wait_line(&row));
            }
            lines.push(String::new());
        }
        lines.push(format!(
            "gateway   stopped after {}, {}: {} requests, {} failed",
            seconds(self.took),
            self.ended,
            number(self.requests()),
            self.http1.failed() + self.http2.failed()
        ));
        lines.push(format!(
            "          {} connections told to leave by `Connection: close`, {} by GOAWAY",
            self.http1.told_to_close, self.http2.told_to_close
        ));
        lines.push(String::new());
        lines
    }

    fn bar_line(&self, row: &Row<'_>) -> String {
        let column = |at: Duration| {
            let share = at.as_secs_f64() / self.took.as_secs_f64().max(f64::EPSILON);
            // Rounding to the nearest column; it is within the bar.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let column = (share * BAR as f64).round() as usize;
            column.min(BAR)
        };
        let told = column(row.told).min(BAR - 1);
        let gone = column(row.gone.min(self.took)).max(told + 1);
        let took = row.gone.min(self.took).saturating_sub(row.told).as_millis();
        let bar = format!("{}{}", "░".repeat(told), "█".repeat(gone - told));
        format!("{:16} {bar} exit in {took} ms", row.name)
    }

    fn wait_line(&self, row: &Row<'_>) -> String {
        let told = seconds(row.told);
        match self.waited_for.get(row.name) {
            Some(waits) => format!("  waited {told} for {}", waits.join(", ")),
            None => format!("  told to stop after {told}"),
        }
    }
}

/// Processes in the order in which they were told to stop.
fn rows(events: &[ShutdownEvent]) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for event in events {
        if event.text.starts_with("sent SIG") {
            let told = since(event);
            rows.push(Row {
                name: &event.process,
                told,
                // Not before it is told so.
                gone: Duration::MAX,
            });
        } else if let Some(row) = rows
            .iter_mut()
            .find(|row| row.name == event.process && row.gone == Duration::MAX)
        {
            row.gone = since(event);
        }
    }
    rows
}

fn event_line(event: &ShutdownEvent) -> String {
    format!(
        "+{:<7} {:16} {}",
        seconds(since(event)),
        event.process,
        event.text
    )
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::proto, client::Failure};

    fn event(milliseconds: u64, process: &str, text: &str) -> ShutdownEvent {
        ShutdownEvent {
            since: Some(proto(Duration::from_millis(milliseconds))),
            process: process.to_owned(),
            text: text.to_owned(),
            ..ShutdownEvent::default()
        }
    }

    fn good() -> StopReport {
        let tally = Tally {
            requests: 100,
            told_to_close: 4,
            ..Tally::default()
        };
        let events = vec![
            event(0, "", "shutting down: received SIGTERM"),
            event(0, "router", "draining"),
            event(2000, "router", "drained"),
            event(2000, "router", "sent SIGTERM"),
            event(2100, "router", "exited with code 0"),
            event(2100, "policy-engine", "sent SIGTERM"),
            event(2110, "policy-engine", "exited with code 0"),
            event(2110, "python-executor", "sent SIGTERM"),
            event(2120, "python-executor", "exited with code 0"),
            event(2120, "", "all stopped, exit code 0"),
        ];
        let router = ["its requests", "its listeners to close", "its last connections"];
        let waits = [
            ("router", router.as_slice()),
            ("policy-engine", &["router to exit"]),
        ];
        let own = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let waits = waits.map(|(name, words)| (name.to_owned(), own(words)));
        StopReport {
            http1: tally.clone(),
            http2: tally,
            planned: 8,
            events: Ok(events),
            waited_for: waits.into(),
            took: Duration::from_millis(2130),
            ended: "exit code 0".to_owned(),
            well: true,
        }
    }

    #[test]
    fn a_good_stop_has_no_fault_and_says_who_waited_for_what() {
        assert_eq!(good().faults(), Vec::<String>::new());
        let lines = good().lines().join("\n");
        for part in [
            "+2.00 s  router           drained",
            "waited 2.00 s for its requests, its listeners to close, its last connections",
            "█ exit in 100 ms",
            "waited 2.10 s for router to exit",
            "stopped after 2.13 s, exit code 0: 200 requests, 0 failed",
        ] {
            assert!(lines.contains(part), "no `{part}` in\n{lines}");
        }
        assert!(
            good().lines().iter().all(|line| line.chars().count() < 80),
            "{lines}"
        );
    }

    #[test]
    fn every_fault_is_seen() {
        let one = |spoil: fn(&mut StopReport)| {
            let mut report = good();
            spoil(&mut report);
            let faults = report.faults();
            assert_eq!(faults.len(), 1, "{faults:?}");
        };
        one(|report| report.http2.failures.extend([(Failure::NoResponse, 1)]));
        one(|report| report.http1.requests = 0);
        one(|report| report.http1.told_to_close = 3);
        one(|report| report.well = false);
        one(|report| report.events = Err("lost".to_owned()));
        let event = |report: &mut StopReport, place: usize, change: fn(&mut ShutdownEvent)| {
            let events = report.events.as_mut().expect("events");
            events.get_mut(place).map(change).expect("an event");
        };
        let mut early = good();
        event(&mut early, 5, |told| {
            told.since = Some(proto(Duration::from_millis(2050)))
        });
        assert_eq!(
            early.faults(),
            ["policy-engine was told to stop before router had exited"]
        );
        let mut missing = good();
        event(&mut missing, 7, |told| told.text = "killed".to_owned());
        assert_eq!(missing.faults(), ["2 of 3 processes were told to stop"]);
        let mut late = good();
        event(&mut late, 2, |drained| drained.warning = true);
        assert_eq!(late.faults(), ["router: drained"]);
    }
}
