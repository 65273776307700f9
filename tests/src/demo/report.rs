//! What came of act one: judged and put into words.

use std::time::Duration;

use tokio::time::Instant;

use super::clients::{Span, Tally};

/// What the clients of a listener have seen.
#[derive(Clone, Debug)]
pub(super) struct ListenerReport {
    pub(super) http1: Tally,
    pub(super) http2: Tally,
    /// Connections that the clients would open if none were ever closed.
    pub(super) planned: u64,
    /// When its requests began and ended.
    pub(super) spans: Vec<Span>,
}

/// How `ebb drain --wait` ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    /// Its exit code; none after a signal.
    pub(super) code: Option<i32>,
    pub(super) stderr: String,
    /// What its JSON says.
    pub(super) outcome: String,
    /// Requests that were in flight at some time during the drain, by its JSON.
    pub(super) requests: u64,
    /// From its start to its end.
    pub(super) took: Duration,
    /// When it returned.
    pub(super) returned: Instant,
    /// When WatchDrain said `drained`, or why it did not.
    pub(super) drained: Result<Drained, String>,
    /// Requests that `internal` answered from its start to its end.
    pub(super) served_meanwhile: u64,
}

/// The end of the drain, as WatchDrain says it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drained {
    pub(super) at: Instant,
    /// How long nothing had been in flight by then.
    pub(super) quiet_period: Duration,
}

/// The act's result.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) ingress: ListenerReport,
    pub(super) internal: ListenerReport,
    pub(super) drain: Ended,
}

impl ListenerReport {
    fn sum(&self, what: impl Fn(&Tally) -> u64) -> u64 {
        what(&self.http1) + what(&self.http2)
    }

    /// The end of the last request that had begun when the quiet period did.
    fn last_end(&self, drained: &Drained) -> Option<Instant> {
        let begun = self
            .spans
            .iter()
            .filter(|span| span.begin + drained.quiet_period < drained.at);
        begun.map(|span| span.end).max()
    }

    fn faults(&self, name: &str) -> Vec<String> {
        let mut faults = Vec::new();
        for (protocol, tally) in [("HTTP/1.1", &self.http1), ("HTTP/2", &self.http2)] {
            if tally.requests == 0 {
                faults.push(format!("no request over {protocol} on {name} ended"));
            }
            for (failure, number) in &tally.failures {
                faults.push(format!(
                    "{number} requests over {protocol} on {name} failed: {failure}"
                ));
            }
        }
        faults
    }
}

impl Report {
    /// All requests that ended.
    pub(super) fn requests(&self) -> u64 {
        self.ingress.sum(|tally| tally.requests) + self.internal.sum(|tally| tally.requests)
    }

    /// Everything that was not as it should be.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = self.ingress.faults("ingress");
        faults.extend(self.internal.faults("internal"));
        faults.extend(self.drain_faults());
        let (told, all) = (
            self.ingress.sum(|tally| tally.told_to_close),
            self.ingress.planned,
        );
        if told != all {
            faults.push(format!(
                "{told} of {all} connections on ingress were told to close"
            ));
        }
        let internal = &self.internal;
        let told = internal.sum(|tally| tally.told_to_close);
        if told > 0 {
            faults.push(format!("{told} connections on internal were told to close"));
        }
        let opened = internal.sum(|tally| tally.connections);
        if opened != internal.planned {
            let planned = internal.planned;
            faults.push(format!(
                "clients of internal needed {opened} connections, not {planned}"
            ));
        }
        faults
    }

    fn drain_faults(&self) -> Vec<String> {
        let drain = &self.drain;
        let mut faults = Vec::new();
        if drain.code != Some(0) || drain.outcome != "drained" {
            let code = drain
                .code
                .map_or("a signal".to_owned(), |code| format!("exit code {code}"));
            let stderr = drain.stderr.lines().last().unwrap_or_default();
            let outcome = &drain.outcome;
            faults.push(format!(
                "`ebb drain` ended with {code}, outcome {outcome}: {stderr}"
            ));
        }
        match &drain.drained {
            Ok(drained) if self.until_drained(drained).is_none() => {
                faults.push("`drained` came before a request on ingress had ended".to_owned());
            }
            Ok(_) => {}
            Err(error) => faults.push(format!("the drain could not be watched to its end: {error}")),
        }
        faults
    }

    /// From the end of the last response on ingress, as its client saw it, to `drained`, as WatchDrain said it; none
    /// if the order was another.
    fn until_drained(&self, drained: &Drained) -> Option<Duration> {
        drained.at.checked_duration_since(self.ingress.last_end(drained)?)
    }

    /// The report in words, with a table.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            String::new(),
            format!(
                "{:10} {:9} {:>8} {:>7} {:>12}   {}",
                "LISTENER", "PROTOCOL", "REQUESTS", "FAILED", "CONNECTIONS", "TOLD TO CLOSE"
            ),
            row("ingress", "HTTP/1.1", &self.ingress.http1, "Connection: close"),
            row("", "HTTP/2", &self.ingress.http2, "GOAWAY"),
            row("internal", "HTTP/1.1", &self.internal.http1, "Connection: close"),
            row("", "HTTP/2", &self.internal.http2, "GOAWAY"),
            String::new(),
        ];
        lines.extend(self.drain_lines());
        lines.push(String::new());
        lines
    }

    fn drain_lines(&self) -> Vec<String> {
        let drain = &self.drain;
        let (outcome, took, requests) = (&drain.outcome, seconds(drain.took), number(drain.requests));
        let mut lines = vec![format!(
            "ingress   {outcome} after {took}: {requests} requests were in flight meanwhile, {} failed",
            self.ingress.sum(Tally::failed)
        )];
        if let Ok(drained) = &drain.drained {
            lines.extend(self.timing_lines(drained));
        }
        let kept = self.internal.planned;
        let served = number(drain.served_meanwhile);
        if self.internal.sum(|tally| tally.told_to_close) == 0 {
            lines.push(format!(
                "internal  untouched: kept its {kept} connections, and answered {served} requests meanwhile"
            ));
        }
        lines
    }

    fn timing_lines(&self, drained: &Drained) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(after) = self.until_drained(drained) {
            lines.push(format!(
                "          {} ms from the end of the last response, at its client, to `drained`, in WatchDrain;",
                after.as_millis()
            ));
            let quiet = drained.quiet_period.as_millis();
            lines.push(format!("          {quiet} ms of them are the quiet period"));
        }
        let returned = self
            .drain
            .returned
            .saturating_duration_since(drained.at)
            .as_millis();
        let code = self.drain.code.map_or("none".to_owned(), |code| code.to_string());
        lines.push(format!(
            "          {returned} ms later `ebb drain --wait` returned, exit code {code}"
        ));
        lines
    }
}

fn row(listener: &str, protocol: &str, tally: &Tally, word: &str) -> String {
    let told = match tally.told_to_close {
        0 => "0".to_owned(),
        told => format!("{told}, by {word}"),
    };
    format!(
        "{listener:10} {protocol:9} {:>8} {:>7} {:>12}   {told}",
        number(tally.requests),
        number(tally.failed()),
        number(tally.connections)
    )
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// `1,234,567`.
pub(super) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Failure;

    const QUIET: Duration = Duration::from_millis(200);

    fn tally(told: u64) -> Tally {
        Tally {
            requests: 100,
            connections: 5,
            told_to_close: told,
            ..Tally::default()
        }
    }

    fn good() -> Report {
        let now = Instant::now();
        let listener = |told| ListenerReport {
            http1: tally(told),
            http2: tally(told),
            planned: 10,
            spans: vec![Span {
                begin: now,
                end: now + Duration::from_secs(2),
            }],
        };
        let at = now + Duration::from_secs(2) + QUIET;
        let drain = Ended {
            code: Some(0),
            stderr: String::new(),
            outcome: "drained".to_owned(),
            requests: 10,
            took: Duration::from_secs(2),
            returned: at,
            drained: Ok(Drained {
                at,
                quiet_period: QUIET,
            }),
            served_meanwhile: 10,
        };
        Report {
            ingress: listener(5),
            internal: listener(0),
            drain,
        }
    }

    fn faults_of(spoil: impl FnOnce(&mut Report)) -> Vec<String> {
        let mut report = good();
        spoil(&mut report);
        report.faults()
    }

    #[test]
    fn a_good_drain_has_no_fault() {
        assert_eq!(good().faults(), Vec::<String>::new());
        let lines = good().lines().join("\n");
        assert!(
            lines.contains("200 ms from the end of the last response"),
            "{lines}"
        );
    }

    #[test]
    fn every_fault_is_seen() {
        let one = |spoil: fn(&mut Report)| {
            let faults = faults_of(spoil);
            assert_eq!(faults.len(), 1, "{faults:?}");
        };
        one(|report| report.ingress.http2.failures.extend([(Failure::Truncated, 1)]));
        one(|report| report.internal.http1.failures.extend([(Failure::ServerError, 1)]));
        one(|report| report.internal.http2.requests = 0);
        one(|report| report.ingress.http1.told_to_close = 4);
        one(|report| report.internal.http1.told_to_close = 1);
        one(|report| report.internal.http1.connections = 6);
        one(|report| report.drain.code = Some(3));
        one(|report| report.drain.outcome = "timed_out".to_owned());
        one(|report| report.drain.drained = Err("the stream ended".to_owned()));
    }

    #[test]
    fn a_drain_that_ends_before_a_request_is_a_fault_and_one_that_a_request_follows_is_none() {
        let early = faults_of(|report| {
            for span in &mut report.ingress.spans {
                span.end += Duration::from_millis(201);
            }
        });
        assert_eq!(early, ["`drained` came before a request on ingress had ended"]);
        let late = faults_of(|report| {
            let begin = report.drain.returned;
            let end = begin + Duration::from_secs(1);
            report.ingress.spans.push(Span { begin, end });
        });
        assert!(late.is_empty(), "{late:?}");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(number),
            ["0", "999", "1,000", "1,234,567"]
        );
    }
}
