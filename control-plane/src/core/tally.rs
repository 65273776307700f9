//! What a drain counts: the reporters in its scope, summed up without ever walking over all of them on a report.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ebb_proto::v1;

use super::{
    fleet::{Epoch, Reporter},
    machine::Observation,
    record::MemberRecord,
    report::Ended,
};

/// Nodes x listeners; an empty list means all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Scope {
    /// `node.id`s.
    pub nodes: Vec<String>,
    /// Listener names.
    pub listeners: Vec<String>,
}

impl Scope {
    /// Whether it covers a node.
    pub fn has_node(&self, node: &str) -> bool {
        self.nodes.is_empty() || self.nodes.iter().any(|name| name == node)
    }

    /// Whether it covers a listener of a node that it covers.
    pub fn has_listener(&self, listener: &str) -> bool {
        self.listeners.is_empty() || self.listeners.iter().any(|name| name == listener)
    }

    /// Whether it covers anything of this reporter. One that has not yet said what it has may have anything.
    pub fn has(&self, reporter: &Reporter) -> bool {
        self.has_node(&reporter.node)
            && (self.listeners.is_empty()
                || reporter.listeners.is_empty()
                || reporter
                    .listeners
                    .iter()
                    .any(|listener| self.has_listener(&listener.name)))
    }
}

/// Counters of one listener of one member, against where they stood when the drain first heard of it.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    in_flight: u64,
    started: u64,
    marked: u64,
    /// Requests that had ended before: `started - in_flight` of the first report.
    base: u64,
    marked_base: u64,
}

impl Count {
    /// Requests that ended during the drain, and responses that were told to close.
    fn ended(&self) -> (u64, u64) {
        let begun = self.started.saturating_sub(self.base);
        (
            begun.saturating_sub(self.in_flight),
            self.marked.saturating_sub(self.marked_base),
        )
    }
}

#[derive(Clone, Debug)]
struct Member {
    node: Arc<str>,
    process: u64,
    known: bool,
    confirmed: bool,
    listeners: BTreeMap<String, Count>,
}

impl Member {
    fn in_flight(&self) -> u64 {
        if self.known {
            self.listeners.values().map(|count| count.in_flight).sum()
        } else {
            0
        }
    }

    fn arrivals(&self) -> u64 {
        self.listeners
            .values()
            .map(|count| count.started.wrapping_sub(count.base))
            .fold(0, u64::wrapping_add)
    }
}

/// The members of a drain and their sums.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    members: HashMap<Epoch, Member>,
    sums: Observation,
    /// A member is known once it has answered this ask: its counts are then younger than the drain.
    told: u64,
    /// A member has confirmed once it has answered this ask.
    confirm: u64,
    ended: Ended,
}

impl Tally {
    /// From here on a member is known only when it has answered `ask`. The first time, what was counted before the
    /// drain is dropped: its numbers begin with the first answer.
    pub fn told(&mut self, ask: u64) {
        if self.told == 0 {
            for member in self.members.values_mut() {
                member.listeners.clear();
            }
            (self.sums.in_flight, self.sums.arrivals) = (0, 0);
        }
        self.told = ask;
        self.confirm = ask;
    }

    /// From here on a member has confirmed only when it has answered `ask`.
    pub fn confirm(&mut self, ask: u64) {
        self.confirm = ask;
        for member in self.members.values_mut() {
            member.confirmed = false;
        }
        self.sums.unconfirmed = self.members.len();
    }

    /// Takes in what a reporter in scope last said, or that it has become unknown.
    pub fn update(&mut self, epoch: Epoch, reporter: &Reporter, scope: &Scope) {
        let mut member = self.take(epoch).unwrap_or_else(|| Member {
            node: reporter.node.clone(),
            process: reporter.process,
            known: false,
            confirmed: false,
            listeners: BTreeMap::new(),
        });
        member.known = reporter.is_live() && reporter.answered >= self.told;
        member.confirmed = member.known && reporter.answered >= self.confirm;
        if member.known {
            for said in reporter
                .listeners
                .iter()
                .filter(|said| scope.has_listener(&said.name))
            {
                let first = Count {
                    base: said.started.saturating_sub(said.in_flight),
                    marked_base: said.marked,
                    ..Count::default()
                };
                let count = member.listeners.entry(said.name.clone()).or_insert(first);
                let before = count.ended();
                (count.in_flight, count.started, count.marked) = (said.in_flight, said.started, said.marked);
                self.ended.add(&member.node, &said.name, before, count.ended());
            }
            // A listener that the VM no longer names is gone, and was at zero before that.
            for (name, count) in &mut member.listeners {
                if !reporter.listeners.iter().any(|said| said.name == *name) {
                    count.in_flight = 0;
                }
            }
        }
        self.put(epoch, member);
    }

    /// A reporter that an earlier control plane knew: unknown until it comes back.
    pub fn expect(&mut self, epoch: Epoch, node: &str, process: u64) {
        let listeners = BTreeMap::new();
        self.put(
            epoch,
            Member {
                node: node.into(),
                process,
                known: false,
                confirmed: false,
                listeners,
            },
        );
    }

    /// A reporter was forgotten.
    pub fn remove(&mut self, epoch: Epoch) {
        self.take(epoch);
    }

    fn take(&mut self, epoch: Epoch) -> Option<Member> {
        let member = self.members.remove(&epoch)?;
        self.sums.in_flight = self.sums.in_flight.saturating_sub(member.in_flight());
        self.sums.arrivals = self.sums.arrivals.wrapping_sub(member.arrivals());
        self.sums.unknown = self.sums.unknown.saturating_sub(usize::from(!member.known));
        self.sums.unconfirmed = self
            .sums
            .unconfirmed
            .saturating_sub(usize::from(!member.confirmed));
        Some(member)
    }

    fn put(&mut self, epoch: Epoch, member: Member) {
        self.sums.in_flight = self.sums.in_flight.saturating_add(member.in_flight());
        self.sums.arrivals = self.sums.arrivals.wrapping_add(member.arrivals());
        self.sums.unknown += usize::from(!member.known);
        self.sums.unconfirmed += usize::from(!member.confirmed);
        self.members.insert(epoch, member);
    }

    /// The sums.
    pub fn observation(&self) -> Observation {
        self.sums
    }

    /// What ended since this was last asked.
    pub fn take_ended(&mut self) -> Ended {
        std::mem::take(&mut self.ended)
    }

    /// The members.
    pub fn members(&self) -> impl Iterator<Item = Epoch> {
        self.members.keys().copied()
    }

    /// The members, as they are kept in the durable store.
    pub fn records(&self) -> Vec<MemberRecord> {
        let record = |(epoch, member): (&Epoch, &Member)| MemberRecord {
            epoch: epoch.0,
            node: member.node.to_string(),
            process: member.process,
        };
        self.members.iter().map(record).collect()
    }

    /// Whether a reporter is a member.
    pub fn has(&self, epoch: Epoch) -> bool {
        self.members.contains_key(&epoch)
    }

    /// Whether an Envoy process has a member.
    pub fn has_process(&self, process: u64) -> bool {
        self.members.values().any(|member| member.process == process)
    }

    /// Members whose count is not known, with their node.
    pub fn unknown(&self) -> Vec<(Epoch, Arc<str>)> {
        let mut unknown: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| !member.known)
            .map(|(epoch, member)| (*epoch, member.node.clone()))
            .collect();
        unknown.sort();
        unknown
    }

    /// Per node and listener, sorted.
    pub fn listeners(&self) -> Vec<v1::DrainListener> {
        let mut sums: BTreeMap<(&str, &str), v1::DrainListener> = BTreeMap::new();
        for member in self.members.values() {
            for (name, count) in &member.listeners {
                let sum = sums
                    .entry((&member.node, name))
                    .or_insert_with(|| v1::DrainListener {
                        node: member.node.to_string(),
                        name: name.clone(),
                        ..Default::default()
                    });
                sum.in_flight += if member.known { count.in_flight } else { 0 };
                sum.requests_during_drain += count.started.saturating_sub(count.base);
                sum.marked_during_drain += count.marked.saturating_sub(count.marked_base);
            }
        }
        sums.into_values().collect()
    }
}
