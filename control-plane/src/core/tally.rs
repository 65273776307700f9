//! What a drain counts: the reporters in its scope and, beside them, what each Envoy says of itself. It is summed up per
//! node without ever walking over everybody on a report.
//!
//! Whether a word counts is a matter of asks: after the drain has told everybody what to do, a reporter (or an admin
//! endpoint) is **known** once it has answered that ask, and after a call for confirmation it has **confirmed** once it
//! has answered that one. An older word says nothing of the time since.

mod leaving;
mod member;
mod own;
pub(super) mod rows;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ebb_proto::v1;

use super::{
    fleet::{Epoch, Reporter},
    machine::Observation,
    node::{Node, Terms, has_answered},
    policy::Evidence,
    record::MemberRecord,
    report::Ended,
    scope::Scope,
};
use member::Member;
use rows::Rows;

/// The most that is believed of anybody to be in flight, so that no sum overflows, whatever a filter says.
pub(super) const MOST: u64 = 1 << 40;

/// The members of a drain and their sums.
#[derive(Clone, Debug)]
pub struct Tally {
    terms: Terms,
    members: HashMap<Epoch, Member>,
    /// Those whose count is not known.
    unknown: BTreeSet<Epoch>,
    /// How many there are of each Envoy process.
    processes: HashMap<u64, usize>,
    /// Envoy processes of which members have left for good, and their nodes.
    left: BTreeSet<(u64, Arc<str>)>,
    rows: Rows,
    nodes: BTreeMap<Arc<str>, Node>,
    sums: Observation,
    /// Nodes that go by their Envoy's own count.
    by_own: usize,
    /// Admin endpoints that concern the drain and have not been reached: nobody knows what their Envoys do.
    unreached: BTreeSet<String>,
    /// Requests that were cut by Envoys that ended.
    cut: u64,
    /// Reporters that left before anybody knew what they had in flight.
    unheard: u64,
    /// Whether it ever had a member.
    met: bool,
    ended: Ended,
}

impl Tally {
    /// Nobody yet.
    pub fn new(evidence: Evidence) -> Self {
        Self {
            terms: Terms {
                evidence,
                told: 0,
                confirm: 0,
            },
            members: HashMap::new(),
            unknown: BTreeSet::new(),
            processes: HashMap::new(),
            left: BTreeSet::new(),
            rows: Rows::default(),
            nodes: BTreeMap::new(),
            sums: Observation::default(),
            by_own: 0,
            unreached: BTreeSet::new(),
            cut: 0,
            unheard: 0,
            met: false,
            ended: Ended::default(),
        }
    }

    /// From here on a member is known only when it has answered `ask`. The first time, what was counted before the
    /// drain is dropped: its numbers begin with the first answer.
    pub fn told(&mut self, ask: u64) {
        if self.terms.told == 0 {
            self.members.values_mut().for_each(Member::start_over);
            self.rows = Rows::default();
            self.nodes.values_mut().for_each(Node::start_over);
        }
        self.terms.told = ask;
        self.terms.confirm = ask;
        self.sum_up();
    }

    /// From here on a member has confirmed only when it has answered `ask`.
    pub fn confirm(&mut self, ask: u64) {
        self.terms.confirm = ask;
        for member in self.members.values_mut() {
            member.confirmed = false;
        }
        self.nodes.values_mut().for_each(Node::confirm);
        self.sum_up();
    }

    fn sum_up(&mut self) {
        let mut sums = Observation::default();
        let mut by_own = 0;
        for node in self.nodes.values() {
            add(&mut sums, node.contribution(self.terms));
            by_own += usize::from(node.rests_on_own(self.terms));
        }
        (self.sums, self.by_own) = (sums, by_own);
    }

    /// The evidence that all of it rests on now: the weakest, where nodes differ.
    pub fn rests_on(&self) -> v1::Evidence {
        match self.terms.evidence {
            Evidence::Delay => v1::Evidence::Delay,
            _ if self.by_own > 0 => v1::Evidence::Admin,
            _ => v1::Evidence::Filter,
        }
    }

    /// Changes a node, and the sums with it.
    fn change<T>(&mut self, name: &Arc<str>, change: impl FnOnce(&mut Node) -> T) -> T {
        let contribution = |node: Option<&Node>| {
            node.map_or((Observation::default(), false), |node| {
                (node.contribution(self.terms), node.rests_on_own(self.terms))
            })
        };
        let known = self.nodes.remove(name);
        let (before, was_by_own) = contribution(known.as_ref());
        let mut node = known.unwrap_or_default();
        let result = change(&mut node);
        let stays = !node.is_deserted();
        let (after, is_by_own) = contribution(Some(&node).filter(|_| stays));
        self.by_own = (self.by_own + usize::from(is_by_own)).saturating_sub(usize::from(was_by_own));
        self.sums.in_flight = self.sums.in_flight.saturating_sub(before.in_flight);
        self.sums.arrivals = self.sums.arrivals.wrapping_sub(before.arrivals);
        self.sums.unknown = self.sums.unknown.saturating_sub(before.unknown);
        self.sums.unconfirmed = self.sums.unconfirmed.saturating_sub(before.unconfirmed);
        add(&mut self.sums, after);
        if stays {
            self.nodes.insert(name.clone(), node);
        }
        result
    }

    /// Takes in what a reporter in scope last said, or that it has become unknown.
    pub fn update(&mut self, epoch: Epoch, reporter: &Reporter, scope: &Scope) {
        let mut member = self
            .take(epoch)
            .unwrap_or_else(|| Member::new(reporter.node.clone(), reporter.process));
        let answered = |ask| has_answered(reporter.answered, ask);
        let was_known = member.known;
        member.known = reporter.is_live() && answered(self.terms.told) && scope.is_counted_by(reporter);
        member.confirmed = member.known && answered(self.terms.confirm);
        if member.known {
            let said = scope.counts(reporter);
            member.hear(said, was_known, &mut self.rows, &mut self.ended);
        } else if was_known {
            member.is_unknown(&mut self.rows);
        }
        self.put(epoch, member);
    }

    /// A reporter that an earlier control plane knew: unknown until it comes back.
    pub fn expect(&mut self, epoch: Epoch, node: &str, process: u64) {
        self.remove(epoch);
        self.put(epoch, Member::new(node.into(), process));
    }

    /// A reporter was forgotten.
    pub fn remove(&mut self, epoch: Epoch) {
        if let Some(mut member) = self.take(epoch) {
            member.leave(false, &mut self.rows);
        }
    }

    fn take(&mut self, epoch: Epoch) -> Option<Member> {
        let member = self.members.remove(&epoch)?;
        self.unknown.remove(&epoch);
        if let Some(members) = self.processes.get_mut(&member.process) {
            *members -= 1;
            if *members == 0 {
                self.processes.remove(&member.process);
            }
        }
        let (in_flight, arrivals) = (member.in_flight(), member.arrivals());
        self.change(&member.node, |node| {
            node.part(member.process);
            node.filter.in_flight = node.filter.in_flight.saturating_sub(in_flight);
            node.filter.arrivals = node.filter.arrivals.wrapping_sub(arrivals);
            node.filter.unknown = node.filter.unknown.saturating_sub(usize::from(!member.known));
            node.filter.unconfirmed = node
                .filter
                .unconfirmed
                .saturating_sub(usize::from(!member.confirmed));
        });
        Some(member)
    }

    fn put(&mut self, epoch: Epoch, member: Member) {
        let (in_flight, arrivals) = (member.in_flight(), member.arrivals());
        self.change(&member.node, |node| {
            node.join(member.process);
            node.filter.in_flight = node.filter.in_flight.saturating_add(in_flight);
            node.filter.arrivals = node.filter.arrivals.wrapping_add(arrivals);
            node.filter.unknown += usize::from(!member.known);
            node.filter.unconfirmed += usize::from(!member.confirmed);
        });
        self.met = true;
        if !member.known {
            self.unknown.insert(epoch);
        }
        *self.processes.entry(member.process).or_default() += 1;
        self.members.insert(epoch, member);
    }

    /// The sums.
    pub fn observation(&self) -> Observation {
        let unreached = self.unreached.len();
        Observation {
            unknown: self.sums.unknown + unreached,
            unconfirmed: self.sums.unconfirmed + unreached,
            cut: self.cut.saturating_add(self.unheard),
            ..self.sums
        }
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

    /// How many members a node has.
    pub fn members_of(&self, node: &str) -> usize {
        self.nodes.get(node).map_or(0, |node| node.members)
    }

    /// The nodes that have members.
    pub fn member_nodes(&self) -> impl Iterator<Item = &Arc<str>> {
        let nodes = self.nodes.iter().filter(|(_, node)| node.members > 0);
        nodes.map(|(name, _)| name)
    }

    /// Whether a node has members, or an admin endpoint.
    pub fn has_node(&self, node: &str) -> bool {
        self.nodes.contains_key(node)
    }

    /// The nodes that have members, or an admin endpoint.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
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

    /// Members whose count is not known, with their node; in order.
    pub fn unknown(&self) -> impl ExactSizeIterator<Item = (Epoch, Arc<str>)> {
        let node = |epoch: &Epoch| self.members.get(epoch).map(|member| member.node.clone());
        self.unknown
            .iter()
            .map(move |epoch| (*epoch, node(epoch).unwrap_or_default()))
    }

    /// Per node and listener (or upstream endpoint), sorted: as many as are shown, and how many are not. Those with requests
    /// in flight come before others.
    pub fn listeners(&self) -> (Vec<v1::DrainListener>, usize) {
        self.rows.shown()
    }
}

fn add(sums: &mut Observation, part: Observation) {
    sums.in_flight = sums.in_flight.saturating_add(part.in_flight);
    sums.arrivals = sums.arrivals.wrapping_add(part.arrivals);
    sums.unknown += part.unknown;
    sums.unconfirmed += part.unconfirmed;
}

#[cfg(test)]
mod tests;
