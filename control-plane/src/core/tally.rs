//! What a drain counts: the reporters in its scope and, beside them, what each Envoy says of itself. It is summed up per
//! node without ever walking over everybody on a report.
//!
//! Whether a word counts is a matter of asks: after the drain has told everybody what to do, a reporter (or an admin
//! endpoint) is **known** once it has answered that ask, and after a call for confirmation it has **confirmed** once it
//! has answered that one. An older word says nothing of the time since.

mod leaving;
mod own;

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

/// The most that is believed of anybody to be in flight, so that no sum overflows, whatever a filter says.
pub(super) const MOST: u64 = 1 << 40;

/// Counters of one listener of one member, against where they stood when the drain first heard of it.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    in_flight: u64,
    started: u64,
    probes: u64,
    marked: u64,
    cut: u64,
    /// Requests that had ended before: `started - in_flight` of the first report.
    base: u64,
    probes_base: u64,
    marked_base: u64,
    cut_base: u64,
}

impl Count {
    /// Requests that Envoy cut during the drain.
    fn cut(&self) -> u64 {
        self.cut.saturating_sub(self.cut_base)
    }

    /// Requests that finished during the drain, and responses that were told to close.
    fn ended(&self) -> (u64, u64) {
        let begun = self.started.saturating_sub(self.base);
        (
            begun.saturating_sub(self.in_flight).saturating_sub(self.cut()),
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
            self.counts
                .values()
                .fold(0, |sum: u64, count| sum.saturating_add(count.in_flight))
                .min(MOST)
        } else {
            0
        }
    }

    /// Requests that have begun during the drain. A load balancer goes on probing whatever is told to clients.
    fn arrivals(&self) -> u64 {
        let arrived = |count: &Count| {
            let probes = count.probes.wrapping_sub(count.probes_base);
            count.started.wrapping_sub(count.base).wrapping_sub(probes)
        };
        self.counts.values().map(arrived).fold(0, u64::wrapping_add)
    }
}

/// The members of a drain and their sums.
#[derive(Clone, Debug)]
pub struct Tally {
    terms: Terms,
    members: HashMap<Epoch, Member>,
    /// Who has left for good, with what they counted until then.
    left: Vec<Member>,
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
            left: Vec::new(),
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
            for member in self.members.values_mut() {
                member.counts.clear();
            }
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
        let mut member = self.take(epoch).unwrap_or_else(|| Member {
            node: reporter.node.clone(),
            process: reporter.process,
            known: false,
            confirmed: false,
            counts: BTreeMap::new(),
        });
        let answered = |ask| has_answered(reporter.answered, ask);
        member.known = reporter.is_live() && answered(self.terms.told) && scope.is_counted_by(reporter);
        member.confirmed = member.known && answered(self.terms.confirm);
        if member.known {
            let mut gone: Vec<String> = member.counts.keys().cloned().collect();
            for said in scope.counts(reporter) {
                let first = Count {
                    base: said.started.saturating_sub(said.in_flight),
                    probes_base: said.probes,
                    marked_base: said.marked,
                    // A cut may come with the first answer: the one before it may have been passed over.
                    cut_base: said.cut.saturating_sub(said.cut_lately),
                    ..Count::default()
                };
                let count = member.counts.entry(said.name.to_owned()).or_insert(first);
                let before = count.ended();
                (count.in_flight, count.started) = (said.in_flight, said.started);
                (count.probes, count.marked, count.cut) = (said.probes, said.marked, said.cut);
                self.ended.add(&member.node, said.name, before, count.ended());
                gone.retain(|other| other != said.name);
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
            node.part(member.process);
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
            node.join(member.process);
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
                let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
                add(&mut sum.in_flight, if member.known { count.in_flight } else { 0 });
                add(
                    &mut sum.requests_during_drain,
                    count.started.saturating_sub(count.base),
                );
                add(
                    &mut sum.marked_during_drain,
                    count.marked.saturating_sub(count.marked_base),
                );
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

#[cfg(test)]
mod tests;
