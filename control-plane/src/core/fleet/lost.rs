//! Processes of which no VM is attached: each counts as unknown until something proves that it is gone. A goodbye, its pid and
//! an operator do; and so does a successor, which is subject to doubt: see [`Fleet::succeeded`].

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use super::{Epoch, Fleet, Node, Peer, Reporter};

/// How long an old process has had to come back before a new one counts as its successor: longer than a filter waits between
/// two tries, which is 5 s at most unless it is configured otherwise.
pub const SUCCEEDS_AFTER: Duration = Duration::from_secs(10);

/// What is known of the process behind some reporters.
#[derive(Clone, Debug)]
pub(super) struct Process {
    /// When it was first heard of; `None` = by an earlier control plane.
    pub(super) met: Option<Instant>,
    pub(super) peer: Option<Peer>,
    /// Its VMs that have said goodbye: others may still list them.
    pub(super) left: Left,
}

/// How many VMs of a process are remembered that have said goodbye, the latest: a process has new ones with every new
/// configuration.
const MOST_LEFT: usize = 4096;

/// VMs that have said goodbye.
#[derive(Clone, Debug, Default)]
pub(super) struct Left {
    epochs: BTreeSet<Epoch>,
    order: VecDeque<Epoch>,
}

impl Left {
    pub(super) fn remember(&mut self, epoch: Epoch) {
        if !self.epochs.insert(epoch) {
            return;
        }
        self.order.push_back(epoch);
        if self.order.len() > MOST_LEFT
            && let Some(oldest) = self.order.pop_front()
        {
            self.epochs.remove(&oldest);
        }
    }

    pub(super) fn contains(&self, epoch: Epoch) -> bool {
        self.epochs.contains(&epoch)
    }
}

impl Fleet {
    /// Reporters of processes that have a successor: another process of the node, on the same host, that was first heard of
    /// after all streams of the old one were gone, while the old one has not come back for [`SUCCEEDS_AFTER`]. Where
    /// several processes of a node are away, none of them can be told to be the one that was replaced.
    pub(super) fn succeeded(&self, node: &Node, now: Instant) -> Vec<Epoch> {
        let mut away: BTreeMap<u64, Option<Instant>> = BTreeMap::new();
        for reporter in node.reporters.iter().filter_map(|epoch| self.get(*epoch)) {
            let since = away.entry(reporter.process).or_insert(Some(reporter.last_report));
            // It is away only if all of it is, and then since the last one went.
            *since = since
                .zip(reporter.away_since())
                .map(|(one, other)| one.max(other));
        }
        let mut lost = away
            .iter()
            .filter_map(|(process, since)| Some((*process, (*since)?)));
        let (Some((process, since)), None) = (lost.next(), lost.next()) else {
            return Vec::new();
        };
        let Some(old) = node.processes.get(&process) else {
            return Vec::new();
        };
        let succeeds =
            |new: &Process| new.met.is_some_and(|met| met > since) && may_be_of_one_host(old.peer, new.peer);
        let succeeded = node
            .processes
            .iter()
            .any(|(other, new)| *other != process && away.get(other) == Some(&None) && succeeds(new));
        if !succeeded || now.saturating_duration_since(since) < SUCCEEDS_AFTER {
            return Vec::new();
        }
        let of_it = |epoch: &&Epoch| {
            self.get(**epoch)
                .is_some_and(|reporter| reporter.process == process)
        };
        node.reporters.iter().filter(of_it).copied().collect()
    }

    /// Reporters of a node that are not attached, for an operator who says that they are gone.
    pub fn away_from(&self, node: &str) -> Vec<Epoch> {
        let reporters = self.node(node).into_iter().flat_map(|node| &node.reporters);
        let away = |epoch: &&Epoch| self.get(**epoch).is_some_and(|r| r.away_since().is_some());
        reporters.filter(away).copied().collect()
    }

    /// Reporters that have not been attached since before a time.
    pub fn away_since(&self, then: Instant) -> impl Iterator<Item = (Epoch, &Reporter)> {
        self.reporters()
            .filter(move |(_, reporter)| reporter.away_since().is_some_and(|since| since <= then))
    }
}

fn may_be_of_one_host(old: Option<Peer>, new: Option<Peer>) -> bool {
    match (old, new) {
        (Some(Peer::Host(old)), Some(Peer::Host(new))) => old == new,
        (Some(Peer::Local(_)), Some(Peer::Host(_))) | (Some(Peer::Host(_)), Some(Peer::Local(_))) => false,
        _ => true,
    }
}
