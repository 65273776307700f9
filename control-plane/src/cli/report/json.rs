//! A report for programs.

use std::time::SystemTime;

use ebb_proto::v1::{Evidence, Lever};
use serde::Serialize;

use super::story::{Point, Story};
use crate::cli::{drain::report::Ended, fleet};

/// The JSON of a report: part of the stable command line. What `ebb drain --wait -o json` says, and more.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    ended: Ended,
    phase: &'static str,
    holding: bool,
    started_at: Option<String>,
    evidence: Option<&'static str>,
    lever: Option<&'static str>,
    warnings: Vec<String>,
    requests_finished: u64,
    connections_told: u64,
    idle_connections_told: u64,
    left_in_flight: u64,
    last: Option<Last>,
    saved_ms: Option<i64>,
    timeline: Vec<Sample>,
}

#[derive(Debug, Serialize)]
struct Last {
    node: String,
    listener: String,
    at_ms: u64,
}

#[derive(Debug, Serialize)]
struct Sample {
    at_ms: u64,
    in_flight: u64,
    unknown_reporters: u32,
    phase: &'static str,
}

impl Report {
    pub(super) fn new(story: &Story) -> Self {
        let drain = &story.drain;
        let started_at = drain.started_at.and_then(|at| SystemTime::try_from(at).ok());
        Self {
            ended: Ended::new(drain, story.outcome),
            phase: fleet::phase(drain.phase),
            holding: drain.holding,
            started_at: started_at.map(|at| humantime::format_rfc3339_millis(at).to_string()),
            evidence: match drain.evidence() {
                Evidence::Filter => Some("filter"),
                Evidence::Admin => Some("admin"),
                Evidence::Delay => Some("delay"),
                Evidence::Auto | Evidence::Unspecified => None,
            },
            lever: match drain.lever() {
                Lever::Filter => Some("filter"),
                Lever::Admin => Some("admin"),
                Lever::Unspecified => None,
            },
            warnings: drain.warnings.clone(),
            requests_finished: story.finished,
            connections_told: story.told,
            idle_connections_told: story.idle_told,
            left_in_flight: story.left,
            last: story.last.as_ref().map(|last| Last {
                node: last.node.clone(),
                listener: last.listener.clone(),
                at_ms: fleet::millis(last.at),
            }),
            saved_ms: story.saved_ms,
            timeline: story.points.iter().map(Sample::from).collect(),
        }
    }
}

impl From<&Point> for Sample {
    fn from(point: &Point) -> Self {
        Self {
            at_ms: u64::try_from(point.at.as_millis()).unwrap_or(u64::MAX),
            in_flight: point.in_flight,
            unknown_reporters: point.unknown,
            phase: fleet::phase(point.phase.into()),
        }
    }
}
