//! Who is attached: reporters (one per Wasm VM), the nodes they make up, and whether their word still counts.
//!
//! A reporter is **live** while its stream is open and it speaks in time. Else it is **unknown**: silent (its stream
//! is open, as that of a VM that trapped) or detached (its stream is gone). It is forgotten only when another Envoy
//! process has taken its node's place, or when its whole process has been away for [`FORGET_AFTER`]. One that said
//! goodbye, or whose process was seen to end, has left: that is not unknown, see `leaving`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use ebb_proto::v1;

use super::policy::from_wire;

/// Number of a filter's stream, given by whoever accepted it. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// A reporter's identity: the random epoch of its VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl std::fmt::Display for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// How long a process of which every stream is gone is remembered.
pub const FORGET_AFTER: Duration = Duration::from_secs(60);

/// A reporter is silent after this many of its own intervals.
const MISSED_REPORTS: u32 = 3;

/// Intervals that a filter may ask for; outside them the nearer bound holds.
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(60);

/// Whether a reporter's word counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Attached, and heard of in time.
    Live(StreamId),
    /// Attached, and not heard of in time.
    Silent(StreamId),
    /// Its stream is gone since then.
    Detached(Instant),
}

/// One Wasm VM.
#[derive(Clone, Debug)]
pub struct Reporter {
    /// The node it belongs to.
    pub node: Arc<str>,
    /// Random number of its Envoy process.
    pub process: u64,
    /// Version of the filter.
    pub version: String,
    /// Whether its word counts.
    pub standing: Standing,
    /// When it was last heard of.
    pub last_report: Instant,
    /// Its last counts, as it gave them.
    pub listeners: Vec<v1::ListenerCounts>,
    /// Its last counts of upstream endpoints, if it counts them.
    pub upstreams: Vec<v1::UpstreamCounts>,
    /// Whether it counts them for all of its requests.
    pub counts_upstreams: bool,
    /// The last ask that was put to it on this stream.
    pub asked: u64,
    /// The last ask that it answered on this stream.
    pub answered: u64,
    /// Whether a drain waits for it, so that it has to speak more often.
    pub awaited: bool,
    interval: Duration,
    awaited_interval: Duration,
    /// Its entry in [`Fleet::due`].
    armed: Instant,
}

impl Reporter {
    /// Whether its counts can be relied upon.
    pub fn is_live(&self) -> bool {
        matches!(self.standing, Standing::Live(_))
    }

    /// Its stream, if that is open.
    pub fn stream(&self) -> Option<StreamId> {
        match self.standing {
            Standing::Live(stream) | Standing::Silent(stream) => Some(stream),
            Standing::Detached(_) => None,
        }
    }

    /// Why its word does not count; empty if it does.
    pub fn reason(&self, now: Instant) -> String {
        let ago = |since: Instant| {
            humantime::format_duration(Duration::from_secs(
                now.saturating_duration_since(since).as_secs(),
            ))
        };
        match self.standing {
            Standing::Live(_) => String::new(),
            Standing::Silent(_) => format!("silent for {}", ago(self.last_report)),
            Standing::Detached(since) => format!("stream closed {} ago", ago(since)),
        }
    }

    fn silent_at(&self) -> Instant {
        let interval = if self.awaited {
            self.awaited_interval
        } else {
            self.interval
        };
        self.last_report + interval * MISSED_REPORTS
    }
}

/// All reporters.
#[derive(Debug, Default)]
pub struct Fleet {
    reporters: HashMap<Epoch, Reporter>,
    streams: HashMap<StreamId, Epoch>,
    nodes: BTreeMap<Arc<str>, Node>,
    /// When each live reporter falls silent, or earlier: entries are put right when they come due.
    due: BTreeSet<(Instant, Epoch)>,
}

/// One node: what its reporters have in common.
#[derive(Debug, Default)]
pub struct Node {
    /// Envoy's `node.cluster`.
    pub cluster: String,
    /// Its reporters.
    pub reporters: BTreeSet<Epoch>,
}

/// What an attach did.
#[derive(Debug, PartialEq, Eq)]
pub struct Attached {
    /// The reporter.
    pub epoch: Epoch,
    /// An older stream of the same VM, which it replaced.
    pub replaced: Option<StreamId>,
}

impl Fleet {
    /// A filter opened a stream.
    pub fn attach(&mut self, stream: StreamId, hello: &v1::FilterHello, now: Instant) -> Attached {
        let epoch = Epoch(hello.epoch);
        let replaced = self.remove(epoch).and_then(|old| old.stream());
        let node: Arc<str> = match self.nodes.get_key_value(hello.node_id.as_str()) {
            Some((known, _)) => known.clone(),
            None => hello.node_id.as_str().into(),
        };
        let entry = self.nodes.entry(node.clone()).or_default();
        entry.cluster.clone_from(&hello.node_cluster);
        entry.reporters.insert(epoch);
        let interval = |wire: &Option<prost_types::Duration>, default| {
            wire.as_ref()
                .and_then(from_wire)
                .unwrap_or(default)
                .clamp(*INTERVALS.start(), *INTERVALS.end())
        };
        let mut reporter = Reporter {
            node,
            process: hello.process,
            version: hello.version.clone(),
            standing: Standing::Live(stream),
            last_report: now,
            listeners: Vec::new(),
            upstreams: Vec::new(),
            counts_upstreams: false,
            asked: 0,
            answered: 0,
            awaited: false,
            interval: interval(&hello.report_interval, Duration::from_secs(5)),
            awaited_interval: interval(&hello.drain_report_interval, Duration::from_millis(500)),
            armed: now,
        };
        reporter.armed = reporter.silent_at();
        self.due.insert((reporter.armed, epoch));
        self.reporters.insert(epoch, reporter);
        self.streams.insert(stream, epoch);
        Attached { epoch, replaced }
    }

    /// A report came on a stream. `None` = the stream is not (or no longer) that of a reporter.
    pub fn report(&mut self, stream: StreamId, report: v1::FilterReport, now: Instant) -> Option<Epoch> {
        let epoch = *self.streams.get(&stream)?;
        let reporter = self.reporters.get_mut(&epoch)?;
        reporter.last_report = now;
        reporter.listeners = report.listeners;
        reporter.upstreams = report.upstreams;
        reporter.counts_upstreams = report.counts_upstreams;
        reporter.answered = reporter.answered.max(report.answers);
        if let Standing::Silent(stream) = reporter.standing {
            reporter.standing = Standing::Live(stream);
            Self::arm(&mut self.due, epoch, reporter, reporter.silent_at());
        }
        Some(epoch)
    }

    /// A stream ended.
    pub fn detach(&mut self, stream: StreamId, now: Instant) -> Option<Epoch> {
        let epoch = self.streams.remove(&stream)?;
        let reporter = self.reporters.get_mut(&epoch)?;
        self.due.remove(&(reporter.armed, epoch));
        reporter.standing = Standing::Detached(now);
        Some(epoch)
    }

    /// Whether a drain waits for this reporter: it then has to speak at its shorter interval.
    pub fn set_awaited(&mut self, epoch: Epoch, awaited: bool, now: Instant) {
        let Some(reporter) = self.reporters.get_mut(&epoch) else {
            return;
        };
        if reporter.awaited == awaited {
            return;
        }
        reporter.awaited = awaited;
        if !reporter.is_live() {
            return;
        }
        // It learns of the shorter interval only now, so its silence counts from now on.
        let at = if awaited {
            now + reporter.awaited_interval * MISSED_REPORTS
        } else {
            reporter.silent_at()
        };
        Self::arm(&mut self.due, epoch, reporter, at);
    }

    fn arm(due: &mut BTreeSet<(Instant, Epoch)>, epoch: Epoch, reporter: &mut Reporter, at: Instant) {
        due.remove(&(reporter.armed, epoch));
        reporter.armed = at;
        due.insert((at, epoch));
    }

    /// Marks everybody silent who is, and returns them.
    pub fn tick(&mut self, now: Instant) -> Vec<Epoch> {
        let mut silent = Vec::new();
        while let Some((at, epoch)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, epoch));
            let Some(reporter) = self.reporters.get_mut(&epoch) else {
                continue;
            };
            let Standing::Live(stream) = reporter.standing else {
                continue;
            };
            let silent_at = reporter.silent_at();
            if silent_at > now {
                Self::arm(&mut self.due, epoch, reporter, silent_at);
            } else {
                reporter.standing = Standing::Silent(stream);
                silent.push(epoch);
            }
        }
        silent
    }

    /// Forgets who has been replaced or is long gone, of one node or of all, and returns them. Whom `keep` names stays.
    pub fn prune(&mut self, node: Option<&str>, now: Instant, keep: impl Fn(Epoch) -> bool) -> Vec<Epoch> {
        let nodes: Vec<&Node> = match node {
            Some(node) => self.nodes.get(node).into_iter().collect(),
            None => self.nodes.values().collect(),
        };
        let gone: Vec<Epoch> = nodes
            .into_iter()
            .flat_map(|node| self.gone(node, now))
            .filter(|e| !keep(*e))
            .collect();
        for epoch in &gone {
            self.remove(*epoch);
        }
        gone
    }

    /// Reporters of a process that has no stream left, once another has taken its place or its time is over.
    fn gone(&self, node: &Node, now: Instant) -> Vec<Epoch> {
        let reporters = || {
            node.reporters
                .iter()
                .filter_map(|epoch| Some((*epoch, self.reporters.get(epoch)?)))
        };
        let attached: BTreeSet<u64> = reporters()
            .filter(|(_, r)| r.stream().is_some())
            .map(|(_, r)| r.process)
            .collect();
        reporters()
            .filter(|(_, reporter)| match reporter.standing {
                Standing::Detached(since) if !attached.contains(&reporter.process) => {
                    !attached.is_empty() || now.saturating_duration_since(since) >= FORGET_AFTER
                }
                _ => false,
            })
            .map(|(epoch, _)| epoch)
            .collect()
    }

    /// The reporters of an Envoy process.
    pub fn of_process(&self, process: u64) -> impl Iterator<Item = (Epoch, &Reporter)> {
        self.reporters()
            .filter(move |(_, reporter)| reporter.process == process)
    }

    /// A reporter has left for good. Whatever still comes on its stream is nobody's.
    pub fn leave(&mut self, epoch: Epoch) {
        self.remove(epoch);
    }

    fn remove(&mut self, epoch: Epoch) -> Option<Reporter> {
        let reporter = self.reporters.remove(&epoch)?;
        self.due.remove(&(reporter.armed, epoch));
        if let Some(stream) = reporter.stream() {
            self.streams.remove(&stream);
        }
        if let Some(node) = self.nodes.get_mut(&reporter.node) {
            node.reporters.remove(&epoch);
            if node.reporters.is_empty() {
                self.nodes.remove(&reporter.node);
            }
        }
        Some(reporter)
    }

    /// When [`Fleet::tick`] has something to do next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Whose stream this is.
    pub fn epoch(&self, stream: StreamId) -> Option<Epoch> {
        self.streams.get(&stream).copied()
    }

    /// One reporter.
    pub fn get(&self, epoch: Epoch) -> Option<&Reporter> {
        self.reporters.get(&epoch)
    }

    /// One reporter, to be asked.
    pub fn get_mut(&mut self, epoch: Epoch) -> Option<&mut Reporter> {
        self.reporters.get_mut(&epoch)
    }

    /// All reporters, in no order.
    pub fn reporters(&self) -> impl Iterator<Item = (Epoch, &Reporter)> {
        self.reporters.iter().map(|(epoch, reporter)| (*epoch, reporter))
    }

    /// One node.
    pub fn node(&self, id: &str) -> Option<&Node> {
        self.nodes.get(id)
    }

    /// All nodes, sorted by id.
    pub fn nodes(&self) -> impl Iterator<Item = (&Arc<str>, &Node)> {
        self.nodes.iter()
    }
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
