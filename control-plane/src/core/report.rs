//! What a drain did, while it runs and for good when it has ended.
//!
//! The tally says what has ended ([`Ended`]), the recorder adds up and puts times to it. What it has is kept with
//! the drain's record; of a drain that outlives its control plane, what ended between the last record and the restart
//! is missing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ebb_proto::v1;

use super::{
    Core, Effect, Now, machine,
    timeline::{Point, Timeline},
};

/// What Ebb is there to replace: the pause that people put between draining and stopping.
pub const FIXED_SLEEP: Duration = Duration::from_secs(15);

/// A drain whose traffic flaps changes its phase many times a second, and each record is a write to the disk.
const KEEP_EVERY: Duration = Duration::from_secs(2);

/// What ended since it was last looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    requests: u64,
    told: u64,
    last: Option<(Arc<str>, String)>,
}

impl Ended {
    /// How many requests have ended on a listener, and how many responses were told to close their connection:
    /// `before` and `now`. Attempts that have no endpoint yet do not end: they go on under its name.
    pub fn add(&mut self, node: &Arc<str>, listener: &str, before: (u64, u64), now: (u64, u64)) {
        if listener.is_empty() {
            return;
        }
        let requests = now.0.saturating_sub(before.0);
        self.requests = self.requests.saturating_add(requests);
        self.told = self.told.saturating_add(now.1.saturating_sub(before.1));
        if requests > 0 {
            self.last = Some((node.clone(), listener.to_owned()));
        }
    }
}

/// What a drain did so far, as it is kept in the durable store.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReportRecord {
    /// Its points.
    #[prost(message, repeated, tag = "1")]
    pub timeline: Vec<v1::Sample>,
    /// Requests that ended during it.
    #[prost(uint64, tag = "2")]
    pub requests_finished: u64,
    /// Responses that were told to close their connection.
    #[prost(uint64, tag = "3")]
    pub connections_told: u64,
    /// Where the last request ended.
    #[prost(message, optional, tag = "4")]
    pub last: Option<v1::LastRequest>,
    /// Of those that were told: after it had first been quiet.
    #[prost(uint64, tag = "5")]
    pub idle_connections_told: u64,
}

/// Records one drain.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    timeline: Timeline,
    finished: u64,
    told: u64,
    /// Of those: after it had first been quiet; `None` = it has not been.
    told_since_quiet: Option<u64>,
    last: Option<v1::LastRequest>,
    kept: Option<Instant>,
}

impl Recorder {
    /// What an earlier control plane recorded.
    pub fn resume(record: ReportRecord) -> Self {
        let was_quiet = record
            .timeline
            .iter()
            .any(|sample| sample.phase() == v1::Phase::Quiet);
        Self {
            timeline: Timeline::resume(&record.timeline),
            finished: record.requests_finished,
            told: record.connections_told,
            told_since_quiet: was_quiet.then_some(record.idle_connections_told),
            last: record.last,
            kept: None,
        }
    }

    /// What has to be kept.
    pub fn record(&self) -> ReportRecord {
        ReportRecord {
            timeline: self.timeline.records(),
            requests_finished: self.finished,
            connections_told: self.told,
            last: self.last.clone(),
            idle_connections_told: self.told_since_quiet.unwrap_or(0),
        }
    }

    /// Takes in how the drain stands, and what ended since the last time. Returns whether the phase is another.
    pub fn observe(&mut self, point: Point, ended: Ended) -> bool {
        self.finished = self.finished.saturating_add(ended.requests);
        self.told = self.told.saturating_add(ended.told);
        if let Some(told) = &mut self.told_since_quiet {
            *told = told.saturating_add(ended.told);
        } else if point.phase == v1::Phase::Quiet {
            self.told_since_quiet = Some(0);
        }
        if let Some((node, listener)) = ended.last {
            self.last = Some(v1::LastRequest {
                node: node.to_string(),
                listener,
                at: point.at.try_into().ok(),
            });
        }
        let before = self.timeline.last().map(|last| last.phase);
        self.timeline.observe(point);
        before != Some(point.phase)
    }

    /// When it was last kept.
    pub(super) fn kept(&self) -> Option<Instant> {
        self.kept
    }

    /// It is kept now.
    pub(super) fn keep(&mut self, now: Instant) {
        self.kept = Some(now);
    }

    /// Whether it was last kept long enough ago.
    fn is_due(&self, now: Instant) -> bool {
        self.kept
            .is_none_or(|kept| now.saturating_duration_since(kept) >= KEEP_EVERY)
    }

    /// The report of a drain that looks like this; `ended` = that is how it ended.
    pub fn report(&self, drain: v1::Drain, elapsed: Duration, ended: bool) -> v1::DrainReport {
        v1::DrainReport {
            timeline: self.timeline.samples(elapsed),
            requests_finished: self.finished,
            connections_told: self.told,
            left_in_flight: if ended { drain.in_flight } else { 0 },
            last: self.last.clone(),
            // Where requests were cut, nothing was saved.
            saved: (ended && drain.phase() != v1::Phase::Cut).then(|| saved(elapsed)),
            idle_connections_told: self.told_since_quiet.unwrap_or(0),
            drain: Some(drain),
        }
    }
}

/// How much sooner than [`FIXED_SLEEP`]; negative if later.
fn saved(elapsed: Duration) -> prost_types::Duration {
    let wire = |span: Duration| prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or_default(),
    };
    match FIXED_SLEEP.checked_sub(elapsed) {
        Some(sooner) => wire(sooner),
        None => {
            let later = wire(elapsed.saturating_sub(FIXED_SLEEP));
            prost_types::Duration {
                seconds: -later.seconds,
                nanos: -later.nanos,
            }
        }
    }
}

impl Core {
    /// Records how a drain stands, up to its end. A change of phase is kept, also one that the machine does not want
    /// kept: so that a drain that is resumed has what it had.
    pub(super) fn note(
        &mut self,
        sequence: u64,
        effects: &[machine::Effect],
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        // Once it has ended it stays as it was.
        let Some(drain) = self
            .drains
            .get_mut(&sequence)
            .filter(|drain| drain.last.is_none())
        else {
            return;
        };
        let mut seen = drain.tally.observation();
        // What was counted before it began says nothing of it: at first nobody has answered.
        if drain.recorder.timeline.last().is_none() && !drain.machine.is_ended() {
            (seen.in_flight, seen.unknown) = (0, drain.tally.members().count());
        }
        let point = Point {
            at: drain.machine.elapsed(now.instant),
            in_flight: seen.in_flight,
            unknown: u32::try_from(seen.unknown).unwrap_or(u32::MAX),
            phase: drain.machine.phase(),
        };
        let turned = drain.recorder.observe(point, drain.tally.take_ended());
        let keeps = effects.contains(&machine::Effect::Keep);
        let due = turned && drain.recorder.is_due(now.instant);
        if keeps || due {
            drain.recorder.kept = Some(now.instant);
        }
        if due && !keeps {
            self.keep(sequence, now, out);
        }
    }

    /// What a drain did so far, or did. `None` = no drain of that id.
    pub fn report(&self, id: &str, now: Now) -> Option<v1::DrainReport> {
        let drain = self.find(id)?;
        let view = self.shown(drain, now.instant);
        let elapsed = drain.machine.elapsed(now.instant);
        Some(drain.recorder.report(view, elapsed, drain.machine.is_ended()))
    }
}
