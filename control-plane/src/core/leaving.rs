//! Who is done. A stream that ends leaves a count that is not known; but a VM that says goodbye has nothing in flight, and
//! of a process that was seen to end nothing can be in flight any more.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use ebb_proto::v1;

use super::{
    Core, Effect, Now,
    fleet::{Epoch, Reporter},
};

/// A reporter that is gone for good, and what it was, if it was known.
type Gone = (Epoch, Option<Reporter>);

/// Why nobody is forgotten.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForgetError {
    /// There is none of that id.
    #[error("no node {0:?} is known")]
    Unknown(String),
    /// It is there.
    #[error("node {0:?} is attached: only reporters that are away can be forgotten")]
    Attached(String),
}

/// How long the streams of a process that has ended are listened to: whatever it wrote is there already.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Whether a report is the last of its VM. One that still counts requests is not: what becomes of them is not known.
pub(super) fn is_goodbye(report: &v1::FilterReport) -> bool {
    let requests = report.listeners.iter().map(|counts| counts.in_flight);
    let attempts = report.upstreams.iter().map(|counts| counts.in_flight);
    report.goodbye && requests.chain(attempts).all(|in_flight| in_flight == 0)
}

impl Core {
    /// A VM has said its last words.
    pub(super) fn said_goodbye(&mut self, epoch: Epoch, now: Now, out: &mut Vec<Effect>) {
        self.answers_no_more(epoch, out);
        let last = self.fleet.leave(epoch);
        if let Some(reporter) = &last
            && self.fleet.of_process(reporter.process).next().is_none()
            && self.fleet.node(&reporter.node).is_some()
        {
            self.one_of_several_ended(&reporter.node, now, out);
        }
        self.left(&[(epoch, last)], true, now, out);
    }

    /// An Envoy process was seen to end, its VMs with it. What their streams still hold is heard first: it may be the zero
    /// of the last request.
    pub(super) fn process_ended(&mut self, process: u64, now: Now, out: &mut Vec<Effect>) {
        if self.has_streams(process) {
            self.ending.entry(process).or_insert(now.instant + LAST_WORDS);
        } else {
            self.process_is_gone(process, now, out);
        }
    }

    fn has_streams(&self, process: u64) -> bool {
        let mut reporters = self.fleet.of_process(process);
        reporters.any(|(_, reporter)| reporter.stream().is_some())
    }

    /// Parts with processes that have ended and whose last words have been heard, or will not be.
    pub(super) fn end_processes(&mut self, now: Now, out: &mut Vec<Effect>) {
        let over = |(process, until): (&u64, &Instant)| {
            (*until <= now.instant || !self.has_streams(*process)).then_some(*process)
        };
        for process in self.ending.iter().filter_map(over).collect::<Vec<_>>() {
            self.ending.remove(&process);
            self.process_is_gone(process, now, out);
        }
    }

    fn process_is_gone(&mut self, process: u64, now: Now, out: &mut Vec<Effect>) {
        let mut gone: BTreeSet<Epoch> = BTreeSet::new();
        let mut nodes: BTreeSet<Arc<str>> = BTreeSet::new();
        for (epoch, reporter) in self.fleet.of_process(process) {
            gone.insert(epoch);
            nodes.insert(reporter.node.clone());
        }
        // An earlier control plane may have known more of them, and some may have said goodbye.
        for drain in self.drains.values() {
            gone.extend(drain.tally.of_process(process).map(|(epoch, _)| epoch));
            nodes.extend(drain.tally.nodes_of(process).cloned());
        }
        let gone: Vec<Gone> = gone.into_iter().map(|epoch| self.part_with(epoch, out)).collect();
        for node in &nodes {
            if self.fleet.node(node).is_none() {
                self.lose_admin(node, now, out);
            } else {
                self.one_of_several_ended(node, now, out);
            }
        }
        self.left(&gone, false, now, out);
        out.push(Effect::FleetChanged);
    }

    /// The only Envoy of a node has ended.
    fn lose_admin(&mut self, node: &Arc<str>, now: Now, out: &mut Vec<Effect>) {
        self.endpoints_ended(node, out);
        let mut concerned = Vec::new();
        for drain in self.drains.values_mut().filter(|drain| !drain.machine.is_ended()) {
            drain.tally.lose_twins(node);
            if drain.tally.own_of(node) {
                let cut = drain.tally.lose_admin(node);
                drain.warn_of_cut(cut);
                concerned.push(drain.sequence);
            }
        }
        for sequence in concerned {
            self.observe(sequence, now, out);
        }
    }

    /// An operator says that the reporters of a node that are not attached are gone for good. Returns how many there were.
    ///
    /// # Errors
    /// [`ForgetError`].
    pub fn forget(&mut self, node: &str, now: Now) -> Result<(usize, Vec<Effect>), ForgetError> {
        if self.fleet.node(node).is_none() {
            return Err(ForgetError::Unknown(node.to_owned()));
        }
        let gone = self.fleet.away_from(node);
        if gone.is_empty() {
            return Err(ForgetError::Attached(node.to_owned()));
        }
        let mut out = Vec::new();
        let gone: Vec<Gone> = gone
            .into_iter()
            .map(|epoch| self.part_with(epoch, &mut out))
            .collect();
        self.left(&gone, false, now, &mut out);
        out.push(Effect::FleetChanged);
        out.extend(self.keep_fleet());
        Ok((gone.len(), out))
    }

    fn part_with(&mut self, epoch: Epoch, out: &mut Vec<Effect>) -> Gone {
        self.answers_no_more(epoch, out);
        (epoch, self.fleet.leave(epoch))
    }

    fn answers_no_more(&mut self, epoch: Epoch, out: &mut Vec<Effect>) {
        out.extend(self.inquiries.lost(epoch).into_iter().map(Effect::Answered));
        self.answered(epoch, u64::MAX, out);
    }

    /// No drain waits for these any longer.
    fn left(&mut self, gone: &[Gone], said_goodbye: bool, now: Now, out: &mut Vec<Effect>) {
        let mut concerned = Vec::new();
        for drain in self.drains.values_mut() {
            let members: Vec<&Gone> = gone.iter().filter(|(epoch, _)| drain.tally.has(*epoch)).collect();
            if members.is_empty() {
                continue;
            }
            if drain.machine.is_ended() {
                for (epoch, _) in members {
                    drain.tally.remove(*epoch);
                }
                continue;
            }
            let before = drain.tally.unheard();
            let scope = &drain.scope;
            let leave = |(epoch, last): &Gone| {
                let lost = last.iter().flat_map(|reporter| {
                    let counts = scope.counts(reporter);
                    counts.map(|said| said.in_flight.saturating_add(said.cut_lately))
                });
                drain
                    .tally
                    .leave(*epoch, lost.fold(0, u64::saturating_add), said_goodbye)
            };
            let cut = members.into_iter().map(leave).fold(0, u64::saturating_add);
            let unheard = drain.tally.unheard() > before;
            drain.warn_of_cut(cut);
            if unheard {
                drain.warn("an Envoy in its scope ended before it had told what was in flight: it may have cut requests".to_owned());
            }
            concerned.push(drain.sequence);
        }
        for sequence in concerned {
            self.observe(sequence, now, out);
        }
        self.release_the_empty(now, out);
    }
}
