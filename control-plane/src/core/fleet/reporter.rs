//! One reporter: who it is, where it speaks from, and whether its word counts.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ebb_proto::v1;

use super::{FORGET_AFTER, StreamId};
use crate::core::policy::from_wire;

/// A reporter is silent after this many of its own intervals.
pub(super) const MISSED_REPORTS: u32 = 3;

/// Intervals that a filter may ask for; outside them the nearer bound holds.
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(60);

/// A process of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Local {
    /// Its pid, in the namespace of the control plane.
    pub pid: u32,
    /// Its process group: a wrapper that started it leads that.
    pub group: u32,
    /// When it was started, in ticks since the boot: with the pid, that is this process and no other.
    pub started: u64,
}

/// Where a reporter speaks from, as the system tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A process of this machine.
    Local(Local),
    /// A host of the network.
    Host(IpAddr),
}

/// Whether a reporter's word counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Attached, and heard of in time.
    Live(StreamId),
    /// Attached, and not heard of in time.
    Silent(StreamId),
    /// Its stream is gone since then.
    Detached(Instant),
    /// Known since then, by an earlier control plane or by another VM of its process, and not attached yet.
    Expected(Instant),
}

/// One Wasm VM.
#[derive(Clone, Debug)]
pub struct Reporter {
    /// The node it belongs to.
    pub node: Arc<str>,
    /// Random number of its Envoy process.
    pub process: u64,
    /// Where it speaks from; `None` = the system does not tell.
    pub peer: Option<Peer>,
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
    /// What Envoy cut between the last two reports.
    pub cut_lately: CutLately,
    /// The last ask that was put to it on this stream.
    pub asked: u64,
    /// The last ask that it answered on this stream.
    pub answered: u64,
    /// Whether a drain waits for it, so that it has to speak more often.
    pub awaited: bool,
    interval: Duration,
    awaited_interval: Duration,
    /// When it is looked at for whether it is silent.
    pub(super) armed: Instant,
}

/// Requests that Envoy cut between two reports. What had none is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CutLately {
    /// By listener.
    pub listeners: BTreeMap<String, u64>,
    /// By upstream endpoint.
    pub upstreams: BTreeMap<String, u64>,
}

impl Reporter {
    /// One that has just opened a stream.
    pub(super) fn attached(
        node: Arc<str>,
        stream: StreamId,
        hello: &v1::FilterHello,
        peer: Option<Peer>,
        now: Instant,
    ) -> Self {
        let interval = |wire: &Option<prost_types::Duration>, default| {
            wire.as_ref()
                .and_then(from_wire)
                .unwrap_or(default)
                .clamp(*INTERVALS.start(), *INTERVALS.end())
        };
        let mut reporter = Self {
            version: hello.version.clone(),
            standing: Standing::Live(stream),
            interval: interval(&hello.report_interval, Duration::from_secs(5)),
            awaited_interval: interval(&hello.drain_report_interval, Duration::from_millis(500)),
            ..Self::expected(node, hello.process, peer, now)
        };
        reporter.armed = reporter.silent_at();
        reporter
    }

    /// One that has not attached yet.
    pub(super) fn expected(node: Arc<str>, process: u64, peer: Option<Peer>, now: Instant) -> Self {
        Self {
            node,
            process,
            peer,
            version: String::new(),
            standing: Standing::Expected(now),
            last_report: now,
            listeners: Vec::new(),
            upstreams: Vec::new(),
            counts_upstreams: false,
            cut_lately: CutLately::default(),
            asked: 0,
            answered: 0,
            awaited: false,
            interval: *INTERVALS.start(),
            awaited_interval: *INTERVALS.start(),
            armed: now,
        }
    }

    /// Whether its counts can be relied upon.
    pub fn is_live(&self) -> bool {
        matches!(self.standing, Standing::Live(_))
    }

    /// Its stream, if that is open.
    pub fn stream(&self) -> Option<StreamId> {
        match self.standing {
            Standing::Live(stream) | Standing::Silent(stream) => Some(stream),
            Standing::Detached(_) | Standing::Expected(_) => None,
        }
    }

    /// Since when it has had no stream.
    pub(super) fn away_since(&self) -> Option<Instant> {
        match self.standing {
            Standing::Live(_) | Standing::Silent(_) => None,
            Standing::Detached(since) | Standing::Expected(since) => Some(since),
        }
    }

    /// Why its word does not count; empty if it does.
    pub fn reason(&self, now: Instant) -> String {
        let ago = |since: Instant| {
            humantime::format_duration(Duration::from_secs(
                now.saturating_duration_since(since).as_secs(),
            ))
        };
        // From here on it is likely that somebody has to say that it is gone for good.
        let advice = match self.away_since() {
            Some(since) if now.saturating_duration_since(since) >= FORGET_AFTER => {
                format!("; if that Envoy is gone: ebb forget {}", self.node)
            }
            _ => String::new(),
        };
        match self.standing {
            Standing::Live(_) => String::new(),
            Standing::Silent(_) => format!("silent for {}", ago(self.last_report)),
            Standing::Detached(since) => format!("stream closed {} ago{advice}", ago(since)),
            Standing::Expected(since) => format!("expected, and not attached for {}{advice}", ago(since)),
        }
    }

    pub(super) fn silent_at(&self) -> Instant {
        self.last_report + self.longest_silence()
    }

    /// How long it may be silent.
    pub(super) fn longest_silence(&self) -> Duration {
        let interval = if self.awaited {
            self.awaited_interval
        } else {
            self.interval
        };
        interval * MISSED_REPORTS
    }
}
