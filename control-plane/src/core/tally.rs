//! What a drain counts: the reporters in its scope and, beside them, what each Envoy says of itself. It is summed up per
//! node without ever walking over everybody on a report.
//!
//! Whether a word counts is a matter of asks: after the drain has told everybody what to do, a reporter (or an admin
//! endpoint) is **known** once it has answered that ask, and after a call for confirmation it has **confirmed** once it
//! has answered that one. An older word says nothing of the time since.

mod leaving;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ebb_proto::v1;

use super::{
    fleet::{Epoch, Reporter},
    machine::Observation,
    policy::Evidence,
    record::MemberRecord,
    report::Ended,
    scope::Scope,
};

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
    counts: BTreeMap<String, Count>,
}

impl Member {
    fn in_flight(&self) -> u64 {
        if self.known {
            self.counts.values().map(|count| count.in_flight).sum()
        } else {
            0
        }
    }

    fn arrivals(&self) -> u64 {
        let arrived = |count: &Count| count.started.wrapping_sub(count.base);
        self.counts.values().map(arrived).fold(0, u64::wrapping_add)
    }
}

/// What an Envoy says of itself, by its admin endpoint.
#[derive(Clone, Copy, Debug, Default)]
struct Own {
    in_flight: u64,
    /// The last ask that it answered.
    answered: u64,
}

/// Sums of one node.
#[derive(Clone, Debug, Default)]
struct Node {
    members: usize,
    filter: Observation,
    /// `None` = there is no admin endpoint at hand.
    own: Option<Own>,
}

/// The members of a drain and their sums.
#[derive(Clone, Debug)]
pub struct Tally {
    evidence: Evidence,
    members: HashMap<Epoch, Member>,
    /// Who has left for good, with what they counted until then.
    left: Vec<Member>,
    nodes: BTreeMap<Arc<str>, Node>,
    sums: Observation,
    told: u64,
    confirm: u64,
    /// Whether it ever had a member.
    met: bool,
    ended: Ended,
}

impl Tally {
    /// Nobody yet.
    pub fn new(evidence: Evidence) -> Self {
        Self {
            evidence,
            members: HashMap::new(),
            left: Vec::new(),
            nodes: BTreeMap::new(),
            sums: Observation::default(),
            told: 0,
            confirm: 0,
            met: false,
            ended: Ended::default(),
        }
    }

    /// From here on a member is known only when it has answered `ask`. The first time, what was counted before the
    /// drain is dropped: its numbers begin with the first answer.
    pub fn told(&mut self, ask: u64) {
        if self.told == 0 {
            for member in self.members.values_mut() {
                member.counts.clear();
            }
            for node in self.nodes.values_mut() {
                (node.filter.in_flight, node.filter.arrivals) = (0, 0);
            }
        }
        self.told = ask;
        self.confirm = ask;
        self.sum_up();
    }

    /// From here on a member has confirmed only when it has answered `ask`.
    pub fn confirm(&mut self, ask: u64) {
        self.confirm = ask;
        for member in self.members.values_mut() {
            member.confirmed = false;
        }
        for node in self.nodes.values_mut() {
            node.filter.unconfirmed = node.members;
        }
        self.sum_up();
    }

    fn sum_up(&mut self) {
        let mut sums = Observation::default();
        for node in self.nodes.values() {
            add(&mut sums, self.contribution(node));
        }
        self.sums = sums;
    }

    /// What a node contributes, by the evidence that the drain rests on.
    fn contribution(&self, node: &Node) -> Observation {
        match node.own {
            Some(own) if self.rests_on_own(node) => Observation {
                in_flight: own.in_flight,
                arrivals: node.filter.arrivals,
                unknown: usize::from(own.answered < self.told),
                unconfirmed: usize::from(own.answered < self.confirm),
            },
            None if self.evidence == Evidence::Admin => Observation {
                unknown: 1,
                ..node.filter
            },
            _ => node.filter,
        }
    }

    /// Whether a node's own count stands in for its reporters'.
    fn rests_on_own(&self, node: &Node) -> bool {
        let answers = node.own.is_some_and(|own| own.answered >= self.told);
        match self.evidence {
            Evidence::Filter | Evidence::Delay => false,
            Evidence::Admin => true,
            Evidence::Auto => node.members == 0 || node.filter.unknown > 0 && answers,
        }
    }

    /// The evidence that all of it rests on now: the weakest, where nodes differ.
    pub fn rests_on(&self) -> v1::Evidence {
        match self.evidence {
            Evidence::Delay => v1::Evidence::Delay,
            _ if self.nodes.values().any(|node| self.rests_on_own(node)) => v1::Evidence::Admin,
            _ => v1::Evidence::Filter,
        }
    }

    /// Whether a node's own count is needed: it has been asked for, or reporters of the node are unknown.
    pub fn needs_own(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|node| match self.evidence {
            Evidence::Filter | Evidence::Delay => false,
            Evidence::Admin => true,
            Evidence::Auto => node.members == 0 || node.filter.unknown > 0,
        })
    }

    /// Changes a node, and the sums with it.
    fn change(&mut self, name: &Arc<str>, change: impl FnOnce(&mut Node)) {
        let mut node = self.nodes.remove(name).unwrap_or_default();
        let before = self.contribution(&node);
        change(&mut node);
        let after = self.contribution(&node);
        self.sums.in_flight = self.sums.in_flight.saturating_sub(before.in_flight);
        self.sums.arrivals = self.sums.arrivals.wrapping_sub(before.arrivals);
        self.sums.unknown = self.sums.unknown.saturating_sub(before.unknown);
        self.sums.unconfirmed = self.sums.unconfirmed.saturating_sub(before.unconfirmed);
        add(&mut self.sums, after);
        if node.members > 0 || node.own.is_some() {
            self.nodes.insert(name.clone(), node);
        } else {
            self.sums.arrivals = self.sums.arrivals.wrapping_sub(after.arrivals);
            self.sums.unknown = self.sums.unknown.saturating_sub(after.unknown);
        }
    }

    /// A node of which an admin endpoint is at hand.
    pub fn has_admin(&mut self, node: &Arc<str>) {
        self.change(node, |node| {
            node.own.get_or_insert_with(Own::default);
        });
    }

    /// What a node's Envoy says of itself, in answer to `ask`; `None` = it did not answer.
    pub fn own_count(&mut self, node: &Arc<str>, ask: u64, in_flight: Option<u64>) {
        self.change(node, |node| {
            node.own = Some(match in_flight {
                Some(in_flight) => Own {
                    in_flight,
                    answered: ask,
                },
                None => Own::default(),
            });
        });
    }

    /// Takes in what a reporter in scope last said, or that it has become unknown.
    pub fn update(&mut self, epoch: Epoch, reporter: &Reporter, scope: &Scope) {
        let mut member = self.take(epoch).unwrap_or_else(|| Member {
            node: reporter.node.clone(),
            process: reporter.process,
            known: false,
            confirmed: false,
            counts: BTreeMap::new(),
        });
        member.known = reporter.is_live() && reporter.answered >= self.told;
        member.confirmed = member.known && reporter.answered >= self.confirm;
        if member.known {
            let mut gone: Vec<String> = member.counts.keys().cloned().collect();
            for (name, [in_flight, started, marked]) in scope.counts(reporter) {
                let first = Count {
                    base: started.saturating_sub(in_flight),
                    marked_base: marked,
                    ..Count::default()
                };
                let count = member.counts.entry(name.to_owned()).or_insert(first);
                let before = count.ended();
                (count.in_flight, count.started, count.marked) = (in_flight, started, marked);
                self.ended.add(&member.node, name, before, count.ended());
                gone.retain(|other| other != name);
            }
            // What the VM no longer names is gone, and was at zero before that.
            for name in gone {
                if let Some(count) = member.counts.get_mut(&name) {
                    count.in_flight = 0;
                }
            }
        }
        self.put(epoch, member);
    }

    /// A reporter that an earlier control plane knew: unknown until it comes back.
    pub fn expect(&mut self, epoch: Epoch, node: &str, process: u64) {
        let member = Member {
            node: node.into(),
            process,
            known: false,
            confirmed: false,
            counts: BTreeMap::new(),
        };
        self.put(epoch, member);
    }

    /// A reporter was forgotten.
    pub fn remove(&mut self, epoch: Epoch) {
        self.take(epoch);
    }

    fn take(&mut self, epoch: Epoch) -> Option<Member> {
        let member = self.members.remove(&epoch)?;
        self.change(&member.node, |node| {
            node.members = node.members.saturating_sub(1);
            node.filter.in_flight = node.filter.in_flight.saturating_sub(member.in_flight());
            node.filter.arrivals = node.filter.arrivals.wrapping_sub(member.arrivals());
            node.filter.unknown = node.filter.unknown.saturating_sub(usize::from(!member.known));
            node.filter.unconfirmed = node
                .filter
                .unconfirmed
                .saturating_sub(usize::from(!member.confirmed));
        });
        Some(member)
    }

    fn put(&mut self, epoch: Epoch, member: Member) {
        self.change(&member.node, |node| {
            node.members += 1;
            node.filter.in_flight = node.filter.in_flight.saturating_add(member.in_flight());
            node.filter.arrivals = node.filter.arrivals.wrapping_add(member.arrivals());
            node.filter.unknown += usize::from(!member.known);
            node.filter.unconfirmed += usize::from(!member.confirmed);
        });
        self.met = true;
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

    /// Whether everybody is gone; never of nodes that only their admin endpoint tells of.
    pub fn is_deserted(&self) -> bool {
        self.members.is_empty() && (self.met || self.nodes.is_empty())
    }

    /// The nodes that have members, or an admin endpoint.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<str>> {
        self.nodes.keys()
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

    /// Per node and listener (or upstream endpoint), sorted.
    pub fn listeners(&self) -> Vec<v1::DrainListener> {
        let mut sums: BTreeMap<(&str, &str), v1::DrainListener> = BTreeMap::new();
        for member in self.members.values().chain(&self.left) {
            for (name, count) in &member.counts {
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

fn add(sums: &mut Observation, part: Observation) {
    sums.in_flight = sums.in_flight.saturating_add(part.in_flight);
    sums.arrivals = sums.arrivals.wrapping_add(part.arrivals);
    sums.unknown += part.unknown;
    sums.unconfirmed += part.unconfirmed;
}
