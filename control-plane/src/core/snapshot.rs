//! What there is to show of nodes. To take a snapshot costs the core no more than to count its reporters, as what these said is
//! shared; to make a view of it may take long, and is for others to do.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use ebb_proto::v1;

use super::{
    fleet::{Epoch, Reporter},
    scope::Scope,
};

/// As much of a node's listeners is shown, and as much of its reporters, in bytes on the wire.
const SHOWN: usize = 512 << 10;

/// What a listener, or a reporter, takes on the wire besides its texts, in bytes.
const PER_ENTRY: usize = 40;

/// A node.
#[derive(Clone, Debug)]
pub(super) struct NodeShot {
    pub(super) id: Arc<str>,
    pub(super) cluster: String,
    pub(super) reporters: Vec<(Epoch, Reporter)>,
}

/// A drain that closes something.
#[derive(Clone, Debug)]
pub(super) struct DrainShot {
    pub(super) scope: Scope,
    /// The nodes that it holds; `None` = those in its scope.
    pub(super) nodes: Option<HashSet<Arc<str>>>,
    pub(super) phase: v1::Phase,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// By id.
    pub(super) nodes: Vec<NodeShot>,
    /// The latest first.
    pub(super) drains: Vec<DrainShot>,
    pub(super) asked: Option<u64>,
    pub(super) now: Instant,
}

impl Snapshot {
    /// The nodes, sorted by id.
    pub fn nodes(&self) -> impl Iterator<Item = v1::Node> {
        self.nodes.iter().map(|node| self.node(node))
    }

    fn node(&self, node: &NodeShot) -> v1::Node {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        let mut reporters = Vec::with_capacity(node.reporters.len());
        for (epoch, reporter) in &node.reporters {
            let reason = unknown(reporter, self.asked, self.now);
            for said in reporter.listeners.iter() {
                let sum = sums.entry(&said.name).or_default();
                if reason.is_empty() {
                    *sum = sum.saturating_add(said.in_flight);
                }
            }
            let state = if reason.is_empty() {
                v1::ReporterState::Live
            } else {
                v1::ReporterState::Unknown
            };
            let age = self.now.saturating_duration_since(reporter.last_report);
            reporters.push(v1::Reporter {
                id: epoch.to_string(),
                state: state.into(),
                last_report_age: age.try_into().ok(),
                version: reporter.version.to_string(),
                reason,
            });
        }
        let closing: Vec<&DrainShot> = self.drains.iter().filter(|drain| drain.has(&node.id)).collect();
        let phase = |name: &str| {
            let drain = closing.iter().find(|drain| drain.scope.has_listener(name));
            drain.map_or(v1::Phase::Unspecified, |drain| drain.phase)
        };
        let (sums, listeners_omitted) = shown(
            sums.into_iter().collect(),
            |(_, in_flight)| *in_flight > 0,
            |(name, _)| name.len(),
        );
        let listeners = sums.into_iter().map(|(name, in_flight)| v1::Listener {
            name: name.to_owned(),
            in_flight,
            phase: phase(name).into(),
        });
        let is_unknown = |reporter: &v1::Reporter| !reporter.reason.is_empty();
        let unknown = reporters.iter().filter(|reporter| is_unknown(reporter)).count();
        let (reporters, reporters_omitted) = shown(reporters, is_unknown, |reporter| {
            reporter.id.len() + reporter.version.len() + reporter.reason.len()
        });
        let unknown = unknown - reporters.iter().filter(|reporter| is_unknown(reporter)).count();
        let wire = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        v1::Node {
            id: node.id.to_string(),
            cluster: node.cluster.clone(),
            listeners: listeners.collect(),
            reporters,
            listeners_omitted: wire(listeners_omitted),
            reporters_omitted: wire(reporters_omitted),
            unknown_omitted: wire(unknown),
        }
    }
}

impl DrainShot {
    fn has(&self, node: &Arc<str>) -> bool {
        self.scope.has_node(node) && self.nodes.as_ref().is_none_or(|nodes| nodes.contains(node))
    }
}

/// As many as fit, in their order, and how many do not. Those that matter come before others.
fn shown<T>(all: Vec<T>, matters: impl Fn(&T) -> bool, text: impl Fn(&T) -> usize) -> (Vec<T>, usize) {
    let takes = |one: &T| text(one) + PER_ENTRY;
    if all.iter().map(takes).sum::<usize>() <= SHOWN {
        return (all, 0);
    }
    let mut room = SHOWN;
    let mut fits = |one: &T| {
        let left = room.checked_sub(takes(one));
        room = left.unwrap_or(0);
        left.is_some()
    };
    let mut stays: Vec<bool> = all.iter().map(|one| matters(one) && fits(one)).collect();
    for (stays, one) in stays.iter_mut().zip(&all) {
        *stays = *stays || !matters(one) && fits(one);
    }
    let count = all.len();
    let kept: Vec<T> = all
        .into_iter()
        .zip(stays)
        .filter_map(|(one, stays)| stays.then_some(one))
        .collect();
    let omitted = count - kept.len();
    (kept, omitted)
}

fn unknown(reporter: &Reporter, asked: Option<u64>, now: Instant) -> String {
    match asked {
        Some(ask) if reporter.is_live() && reporter.answered < ask => {
            let age = now.saturating_duration_since(reporter.last_report);
            let age = Duration::from_millis(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
            format!(
                "did not answer; last heard of {} ago",
                humantime::format_duration(age)
            )
        }
        _ => reporter.reason(now),
    }
}

/// How many reporters of a drain are unknown, also those that its view does not name.
#[must_use]
pub fn unknown_reporters(drain: &v1::Drain) -> usize {
    let omitted = usize::try_from(drain.unknown_reporters_omitted).unwrap_or(usize::MAX);
    drain.unknown_reporters.len().saturating_add(omitted)
}
