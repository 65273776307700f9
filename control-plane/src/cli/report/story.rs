//! A report of the wire, read for showing.

use std::time::Duration;

use ebb_proto::v1::{Drain, DrainReport, Evidence, LastRequest, Lever, Phase, Sample};

use crate::{
    cli::{
        common::{count, from_wire, human},
        drain::Outcome,
        fleet::{self, scope},
        outstanding,
    },
    core::snapshot::unknown_reporters,
};

/// The pause that people put between draining and stopping, and that Ebb replaces.
pub(super) const FIXED_SLEEP: Duration = Duration::from_secs(15);

/// What a drain did.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) drain: Drain,
    /// None while it runs.
    pub(super) outcome: Option<Outcome>,
    pub(super) elapsed: Duration,
    /// By time; each stands until the next. At least one.
    pub(super) points: Vec<Point>,
    pub(super) finished: u64,
    pub(super) told: u64,
    /// Of those: after it had first been quiet.
    pub(super) idle_told: u64,
    pub(super) left: u64,
    pub(super) last: Option<LastRequest>,
    /// Milliseconds; negative = it took longer. None while it runs.
    pub(super) saved_ms: Option<i64>,
}

/// What was known at one moment, and until the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) at: Duration,
    pub(super) in_flight: u64,
    pub(super) unknown: u32,
    pub(super) phase: Phase,
}

/// A phase, from when to when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) phase: Phase,
    pub(super) from: Duration,
    pub(super) until: Duration,
}

impl From<DrainReport> for Story {
    fn from(report: DrainReport) -> Self {
        let drain = report.drain.unwrap_or_default();
        let elapsed = from_wire(drain.elapsed);
        let mut points: Vec<Point> = report.timeline.iter().map(Point::from).collect();
        points.sort_by_key(|point| point.at);
        if points.is_empty() {
            points.push(Point {
                at: elapsed,
                in_flight: drain.in_flight,
                unknown: u32::try_from(unknown_reporters(&drain)).unwrap_or(u32::MAX),
                phase: drain.phase(),
            });
        }
        Self {
            outcome: Outcome::of(&drain),
            elapsed,
            points,
            finished: report.requests_finished,
            told: report.connections_told,
            idle_told: report.idle_connections_told,
            left: report.left_in_flight,
            last: report.last,
            saved_ms: report.saved.map(|saved| {
                let seconds = saved.seconds.saturating_mul(1000);
                seconds.saturating_add(i64::from(saved.nanos) / 1_000_000)
            }),
            drain,
        }
    }
}

impl From<&Sample> for Point {
    fn from(sample: &Sample) -> Self {
        Self {
            at: from_wire(sample.at),
            in_flight: sample.in_flight,
            unknown: sample.unknown_reporters,
            phase: sample.phase(),
        }
    }
}

impl Story {
    /// `drained in 1.2s`.
    pub(super) fn end(&self) -> String {
        let elapsed = human(self.elapsed);
        match self.outcome {
            Some(Outcome::Drained) => format!("drained in {elapsed}"),
            Some(Outcome::TimedOut) => format!("timed out after {elapsed}"),
            Some(Outcome::Cancelled) => format!("was cancelled after {elapsed}"),
            Some(Outcome::Cut) if self.drain.cut == 0 => {
                format!("ended after {elapsed} with an Envoy that may have cut requests")
            }
            Some(Outcome::Cut) => format!(
                "ended after {elapsed} with {} cut",
                count(self.drain.cut, "request")
            ),
            None => format!("has run for {elapsed} and is {}", fleet::phase(self.drain.phase)),
        }
    }

    /// `listener ingress of every node`.
    pub(super) fn scope(&self) -> String {
        let Some(wire) = &self.drain.scope else {
            return scope(&[], &[]);
        };
        match wire.upstreams.as_slice() {
            [] => scope(&wire.nodes, &wire.listeners),
            upstreams => format!(
                "{}, towards {}",
                scope(&wire.nodes, &wire.listeners),
                upstreams.join(", ")
            ),
        }
    }

    /// What its counts rest on, in words.
    pub(super) fn evidence(&self) -> &'static str {
        match self.drain.evidence() {
            Evidence::Filter => "the filter's count in every worker",
            Evidence::Admin => "Envoy's own count (its admin endpoint)",
            Evidence::Delay => "nobody's count: it waited for its whole time",
            Evidence::Auto | Evidence::Unspecified => "nothing",
        }
    }

    /// What closed the connections, in words.
    pub(super) fn lever(&self) -> &'static str {
        match self.drain.lever() {
            Lever::Filter => "the filter, response by response",
            Lever::Admin => "Envoy itself, told by /healthcheck/fail",
            Lever::Unspecified => "nothing",
        }
    }

    /// What is or was left, in words.
    pub(super) fn leftovers(&self) -> String {
        let requests = if self.outcome.is_some() {
            self.left
        } else {
            self.drain.in_flight
        };
        let mut parts = outstanding::owed(&self.drain);
        let unknown = unknown_reporters(&self.drain) as u64;
        if unknown > 0 {
            parts.insert(0, format!("{} unknown", count(unknown, "reporter")));
        }
        let in_flight = match requests {
            0 if parts.is_empty() => "nothing in flight".to_owned(),
            requests => format!("{} in flight", count(requests, "request")),
        };
        parts.insert(0, in_flight);
        parts.join(", ")
    }

    /// How many connections were told to close, in words.
    pub(super) fn told(&self) -> String {
        let told = count(self.told, "connection");
        match self.idle_told {
            0 => told,
            idle => format!("{told}, {idle} after it had first been quiet"),
        }
    }

    /// Where and when the last request ended, in words.
    pub(super) fn last_to_finish(&self) -> Option<String> {
        let last = self.last.as_ref()?;
        let at = human(from_wire(last.at));
        Some(format!("{}/{}, {at} after the start", last.node, last.listener))
    }

    /// What it is worth against a fixed sleep, in words; only a drain that reached its end can be compared.
    pub(super) fn against_sleep(&self) -> Option<String> {
        let saved = self.saved_ms.filter(|_| self.outcome == Some(Outcome::Drained))?;
        let by = human(Duration::from_millis(saved.unsigned_abs()));
        if saved >= 0 {
            return Some(format!("{by} sooner than `sleep 15`"));
        }
        let cut = match self.at(FIXED_SLEEP).in_flight {
            0 => String::new(),
            cut => format!(", which would have cut {}", count(cut, "request")),
        };
        Some(format!("{by} later than `sleep 15`{cut}"))
    }

    /// The most that was in flight.
    pub(super) fn peak(&self) -> u64 {
        self.points
            .iter()
            .map(|point| point.in_flight)
            .max()
            .unwrap_or_default()
    }

    /// What was known at a time.
    pub(super) fn at(&self, time: Duration) -> Point {
        let after = self.points.partition_point(|point| point.at <= time);
        let point = self.points.get(after.saturating_sub(1)).or(self.points.first());
        point.copied().unwrap_or(Point {
            at: time,
            in_flight: 0,
            unknown: 0,
            phase: Phase::Unspecified,
        })
    }

    /// What was known at any moment between two times: at the first, and what came after it.
    pub(super) fn between(&self, from: Duration, until: Duration) -> impl Iterator<Item = Point> {
        let inside = self
            .points
            .iter()
            .filter(move |point| point.at > from && point.at < until);
        std::iter::once(self.at(from)).chain(inside.copied())
    }

    /// Its phases, one after the other, without its end.
    pub(super) fn phases(&self) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        for point in &self.points {
            match spans.last_mut() {
                Some(span) if span.phase == point.phase => span.until = point.at,
                last => {
                    if let Some(span) = last {
                        span.until = point.at;
                    }
                    spans.push(Span {
                        phase: point.phase,
                        from: point.at,
                        until: point.at,
                    });
                }
            }
        }
        spans.retain(|span| {
            matches!(span.phase, Phase::Announced | Phase::Draining | Phase::Quiet) && span.until > span.from
        });
        spans
    }
}
