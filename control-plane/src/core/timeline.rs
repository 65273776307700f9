//! What was in flight over the time of a drain: a bounded list of points, whatever the drain's length and traffic.
//!
//! Every point stands until the next one. While there is room every observation is a point; when the list is full, the
//! time is cut into slots, of which each keeps its greatest count, its most unknown reporters and its last word. Slots
//! double in length as the drain goes on, so a point costs O(1) on average.

use std::time::Duration;

use ebb_proto::v1;

use super::policy::from_wire;

/// The fewest points of a timeline that is shown.
pub const FEWEST: usize = 10;

/// The most points of a timeline that is shown.
pub const MOST: usize = 500;

/// Points that are kept: one less than are shown, as the present comes on top.
const KEPT: usize = MOST - 1;

/// What is left after thinning: so that the next one is far away.
const LEFT: usize = MOST / 2;

/// As many changes of phase are kept whatever their slot. A drain whose traffic flaps has any number of them.
const PHASES: usize = 100;

/// The first length of a slot.
const SLOT: Duration = Duration::from_millis(5);

/// What was known at one moment, and until the next point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Since the start of the drain.
    pub at: Duration,
    /// Requests in flight, of the reporters that were known.
    pub in_flight: u64,
    /// Reporters that were not known.
    pub unknown: u32,
    /// The phase from here on.
    pub phase: v1::Phase,
}

impl Point {
    fn says_as(&self, other: &Self) -> bool {
        (self.in_flight, self.unknown, self.phase) == (other.in_flight, other.unknown, other.phase)
    }

    fn to_proto(self) -> v1::Sample {
        v1::Sample {
            at: self.at.try_into().ok(),
            in_flight: self.in_flight,
            unknown_reporters: self.unknown,
            phase: self.phase.into(),
        }
    }
}

/// The points of one drain, by time.
#[derive(Clone, Debug)]
pub struct Timeline {
    points: Vec<Point>,
    slot: Duration,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            points: Vec::new(),
            slot: SLOT,
        }
    }
}

impl Timeline {
    /// Takes in what is known now. A time before that of the last point counts as that one: time does not go back.
    pub fn observe(&mut self, mut point: Point) {
        if let Some(last) = self.points.last() {
            point.at = point.at.max(last.at);
            // No news, but a point now and then shows that somebody looked.
            if last.says_as(&point) && point.at < last.at.saturating_add(self.slot) {
                return;
            }
        }
        self.points.push(point);
        if self.points.len() > KEPT {
            self.thin();
            while self.points.len() > LEFT {
                self.slot = self.slot.saturating_mul(2);
                self.thin();
            }
        }
    }

    /// Leaves of every slot what matters of it.
    fn thin(&mut self) {
        let phases = self
            .points
            .windows(2)
            .filter(|pair| matches!(pair, [a, b] if a.phase != b.phase))
            .count();
        let slot = self.slot.as_nanos().max(1);
        let mut thinned: Vec<Point> = Vec::with_capacity(self.points.len());
        let mut phase = None;
        for points in self
            .points
            .chunk_by(|a, b| a.at.as_nanos() / slot == b.at.as_nanos() / slot)
        {
            let mut peak = points.iter().map(|point| point.in_flight).max();
            let mut blind = points.iter().map(|point| point.unknown).max();
            for (i, point) in points.iter().enumerate() {
                let begins = phase.replace(point.phase) != Some(point.phase);
                let first = thinned.is_empty();
                let peaks = peak == Some(point.in_flight);
                let blinds = blind == Some(point.unknown);
                if first || peaks || blinds || i + 1 == points.len() || (begins && phases <= PHASES) {
                    thinned.push(*point);
                }
                peak = peak.filter(|_| !peaks);
                blind = blind.filter(|_| !blinds);
            }
        }
        self.points = thinned;
    }

    /// What was known at a time; `None` before the first point.
    pub fn at(&self, time: Duration) -> Option<&Point> {
        let after = self.points.partition_point(|point| point.at <= time);
        self.points.get(after.checked_sub(1)?)
    }

    /// The last point.
    pub fn last(&self) -> Option<&Point> {
        self.points.last()
    }

    /// Everything until now, or until the end of the drain: at least [`FEWEST`] and at most [`MOST`] points, the last
    /// of them now. Nothing if nothing was observed.
    pub fn samples(&self, now: Duration) -> Vec<v1::Sample> {
        let Some(last) = self.points.last() else {
            return Vec::new();
        };
        let now = now.max(last.at);
        let mut points = self.points.clone();
        if last.at < now {
            points.push(Point { at: now, ..*last });
        }
        // Between the first point and now, as nothing is known before the first.
        let first = self.points.first().map_or(now, |point| point.at);
        let missing = u32::try_from(FEWEST.saturating_sub(points.len())).unwrap_or_default();
        let spread = (1..=missing).map(|i| first + (now - first) / (missing + 1) * i);
        points.extend(spread.filter_map(|at| Some(Point { at, ..*self.at(at)? })));
        points.sort_by_key(|point| point.at);
        points.into_iter().map(Point::to_proto).collect()
    }

    /// The points as they are kept in the durable store.
    pub fn records(&self) -> Vec<v1::Sample> {
        self.points.iter().copied().map(Point::to_proto).collect()
    }

    /// The points that an earlier control plane kept; what makes no sense is left out.
    pub fn resume(records: &[v1::Sample]) -> Self {
        let mut timeline = Self::default();
        for record in records {
            let Some(at) = record.at.as_ref().and_then(from_wire) else {
                continue;
            };
            timeline.observe(Point {
                at,
                in_flight: record.in_flight,
                unknown: record.unknown_reporters,
                phase: record.phase(),
            });
        }
        timeline
    }
}

#[cfg(test)]
#[path = "timeline_tests.rs"]
mod tests;
