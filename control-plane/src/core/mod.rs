//! The pure core: everything the control plane knows and decides, without I/O, clock or async.
//!
//! | file | what |
//! |---|---|
//! | `policy` | how a drain behaves: keys, defaults, what fits together |
//! | `policies` | the policies of single nodes and listeners |
//! | `machine` | one drain: its phases |
//! | `tally` | what a drain counts: members and their sums |
//! | `node` | what one node contributes to them: its reporters, and its Envoy's own count |
//! | `admins` | what each Envoy says of itself, and the lever `/healthcheck/fail` |
//! | `endpoints` | admin endpoints before it is known whose they are, and when they do not answer |
//! | `reading` | what an Envoy says, and how much of it a drain covers |
//! | `queries` | asks that somebody outside waits for |
//! | `coverage` | which drains an Envoy's own count concerns, and the names that only Envoys know |
//! | `scope` | what a drain covers |
//! | `event` | what happens to the control plane, and what follows |
//! | `fleet` | who is attached, and whether their word counts |
//! | `coming` | reporters that come, and streams that are refused |
//! | `leaving` | who is done: reporters that said goodbye, processes that were seen to end |
//! | `outstanding` | what an Envoy still owes its clients beyond the requests in flight |
//! | `settling` | what the Envoys of a drain owe, and whom to look at next |
//! | `owing` | looking at them, and what a drain makes of what is seen |
//! | `drain` | one drain with all that belongs to it |
//! | `refusal` | why one is not started |
//! | `drains` | starting, cancelling and feeding them, and what they have the filters do |
//! | `holding` | drains that have ended and hold |
//! | `restoring` | undoing a lever that no drain here holds |
//! | `twins` | Envoys that share a node's id |
//! | `view` | the same, in the words of the wire |
//! | `snapshot` | what a view of the nodes is made of, elsewhere |
//! | `timeline` | what was in flight over the time of a drain |
//! | `report` | what a drain did |
//! | `blockers` | which requests are in flight, asked of the filters |
//! | `record` | what outlives the control plane |
//!
//! [`Core::handle`] takes an [`Event`] and the time, and leaves [`Effect`]s; the engine carries them out. Data goes
//! round one way: report -> [`fleet::Fleet`] -> [`tally::Tally`] -> [`machine::Machine`] -> command.

pub mod admins;
pub mod blockers;
mod coming;
mod coverage;
pub mod drain;
pub mod drains;
mod endpoints;
mod event;
pub mod fleet;
mod holding;
pub mod leaving;
pub mod machine;
mod node;
pub mod outstanding;
mod owing;
pub mod policies;
pub mod policy;
mod queries;
pub mod reading;
pub mod record;
mod refusal;
pub mod report;
pub mod restoring;
pub mod scope;
pub mod settling;
pub mod snapshot;
pub mod tally;
pub mod timeline;
mod twins;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ebb_proto::v1;

pub use event::{Effect, Event};

use admins::Admin;
use blockers::Inquiries;
use drain::Drain;
use endpoints::Endpoint;
use fleet::{Epoch, Fleet, SUCCEEDS_AFTER};
use policies::Policies;
use queries::Asked;
use record::{Kept, LeftOut, Record};

/// Between two records of who is attached: each is a write to the disk, and a fleet comes all at once.
const KEEP_FLEET_EVERY: Duration = Duration::from_millis(100);

/// The time, read once per event by whoever drives the core.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For everything that is measured.
    pub instant: Instant,
    /// For what people read, and what has to outlive the process.
    pub wall: SystemTime,
}

impl Now {
    /// The time now.
    pub fn read() -> Self {
        Self {
            instant: Instant::now(),
            wall: SystemTime::now(),
        }
    }
}

/// Everything the control plane knows.
#[derive(Debug)]
pub struct Core {
    policies: Policies,
    fleet: Fleet,
    /// By node; where several have a node's id, by node and address: see [`Core::admin_found`].
    admins: BTreeMap<Arc<str>, Admin>,
    /// How many Envoys of a node have ended while others of its id went on, and their endpoints not yet.
    ended: BTreeMap<Arc<str>, usize>,
    /// By address.
    endpoints: BTreeMap<String, Endpoint>,
    /// Nodes whose Envoy was told to close, also by an earlier control plane, and not yet told to serve.
    pulled_levers: BTreeSet<Arc<str>>,
    /// By the order in which they were started.
    drains: BTreeMap<u64, Drain>,
    /// Grows with every change of what filters have to do.
    generation: u64,
    /// The last ask put to anybody.
    ask: u64,
    /// The last look at an Envoy.
    looks: u64,
    /// Asks that somebody outside waits for, with those whose answers are missing.
    queries: BTreeMap<u64, HashSet<Asked>>,
    /// Asks for blockers.
    inquiries: Inquiries,
    /// Processes that were seen to end, and until when their streams are listened to.
    ending: BTreeMap<u64, Instant>,
    /// When to look for reporters that are long gone.
    prune_at: Option<Instant>,
    /// When to look for Envoys that share a node's id, and the nodes of which that was said.
    twins_at: Option<Instant>,
    twins: BTreeSet<Arc<str>>,
    /// When to store which reporters came and went.
    keep_fleet_at: Option<Instant>,
}

impl Core {
    /// A control plane that has heard of nobody, with what an earlier one left; and what of that makes no sense and is left
    /// out.
    pub fn new(policies: impl Into<Policies>, kept: Kept, now: Now) -> (Self, Vec<LeftOut>) {
        let mut left_out = Vec::new();
        let mut resume = |record: Record| {
            let id = record.drain.as_ref().map(|drain| drain.id.clone());
            let drain = Drain::resume(record, now);
            let id = id.unwrap_or_default();
            drain.map_err(|why| left_out.push(LeftOut { id, why })).ok()
        };
        let drains = drain::in_order(kept.drains.into_iter().filter_map(&mut resume).collect());
        let millis = now
            .wall
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis();
        let mut core = Self {
            policies: policies.into(),
            fleet: Fleet::default(),
            admins: BTreeMap::new(),
            ended: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            pulled_levers: kept.levers.into_iter().map(Arc::from).collect(),
            drains,
            // Greater than any that an earlier control plane got to by counting.
            generation: u64::try_from(millis).unwrap_or_default(),
            ask: 0,
            looks: 0,
            queries: BTreeMap::new(),
            inquiries: Inquiries::default(),
            ending: BTreeMap::new(),
            prune_at: Some(now.instant + SUCCEEDS_AFTER),
            twins_at: None,
            twins: BTreeSet::new(),
            keep_fleet_at: None,
        };
        for reporter in &kept.reporters {
            core.fleet.expect(reporter, now.instant);
        }
        (core, left_out)
    }

    /// Takes one event.
    pub fn handle(&mut self, event: Event, now: Now) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Attached {
                stream,
                hello,
                peer,
                report,
            } => self.attached(stream, &hello, peer, report, now, &mut out),
            Event::Reported { stream, mut report } => {
                let blockers = std::mem::take(&mut report.blockers);
                let goodbye = leaving::is_goodbye(&report);
                match self.fleet.report(stream, report, now.instant) {
                    Ok(None) => {}
                    Err(excess) => self.refuse(stream, &excess.to_string(), now, &mut out),
                    Ok(Some(epoch)) => {
                        let answered = self.fleet.get(epoch).map_or(0, |reporter| reporter.answered);
                        self.answered(epoch, answered, &mut out);
                        self.heard_blockers(epoch, &blockers, &mut out);
                        self.look_at(epoch, now, &mut out);
                        if goodbye {
                            self.said_goodbye(epoch, now, &mut out);
                        }
                        out.push(Effect::FleetChanged);
                    }
                }
            }
            Event::Refused { stream, why } => self.refuse(stream, &why, now, &mut out),
            Event::ProcessEnded { process } => self.process_ended(process, now, &mut out),
            Event::Detached { stream } => {
                let live = self.is_live(stream);
                if let Some(epoch) = self.fleet.detach(stream, now.instant) {
                    self.prune_at.get_or_insert(now.instant + SUCCEEDS_AFTER);
                    self.became_unknown(epoch, live, now, &mut out);
                }
            }
            Event::AdminHeard { address, result } => self.endpoint_heard(&address, result, now, &mut out),
            Event::AdminFound {
                address,
                node,
                started,
            } => self.admin_found(&address, &node, started, now, &mut out),
            Event::AdminAnswered { node, ask, reading } => {
                self.admin_answered(&node, ask, reading, now, &mut out)
            }
            Event::OutstandingTold {
                node,
                ask,
                outstanding,
            } => self.outstanding_told(&node, ask, outstanding, now, &mut out),
            Event::LeverDone { node, close, result } => self.lever_done(&node, close, result, now, &mut out),
            Event::Tick => self.tick(now, &mut out),
        }
        if !self.ending.is_empty() {
            self.end_processes(now, &mut out);
        }
        self.step_admins(now, &mut out);
        self.step_looks(now, &mut out);
        if self.fleet.has_changed() {
            self.keep_fleet_at.get_or_insert(now.instant + KEEP_FLEET_EVERY);
        }
        out
    }

    /// What the store has to know of the reporters, if there is any.
    pub fn keep_fleet(&mut self) -> Option<Effect> {
        self.keep_fleet_at = None;
        self.fleet.has_changed().then(|| {
            let (put, gone) = self.fleet.take_changed();
            Effect::KeepFleet { put, gone }
        })
    }

    fn tick(&mut self, now: Now, out: &mut Vec<Effect>) {
        for epoch in self.fleet.tick(now.instant) {
            self.became_unknown(epoch, true, now, out);
        }
        self.tick_drains(now, out);
        if self.prune_at.is_some_and(|at| at <= now.instant) {
            self.prune_at = None;
            self.prune(None, now, out);
            self.release_the_gone(now, out);
            if self
                .fleet
                .reporters()
                .any(|(_, reporter)| reporter.stream().is_none())
            {
                self.prune_at = Some(now.instant + SUCCEEDS_AFTER);
            }
        }
        self.look_for_twins(now, out);
        if self.keep_fleet_at.is_some_and(|at| at <= now.instant) {
            out.extend(self.keep_fleet());
        }
    }

    fn became_unknown(&mut self, epoch: Epoch, was_live: bool, now: Now, out: &mut Vec<Effect>) {
        out.extend(self.inquiries.lost(epoch).into_iter().map(Effect::Answered));
        if was_live {
            self.answered(epoch, u64::MAX, out);
        }
        self.look_at(epoch, now, out);
        out.push(Effect::FleetChanged);
    }

    /// Forgets who has a successor, but for those that a running drain counts on.
    fn prune(&mut self, node: Option<&str>, now: Now, out: &mut Vec<Effect>) {
        let drains = &self.drains;
        let counted = |epoch| {
            drains
                .values()
                .any(|drain| !drain.machine.is_ended() && drain.tally.has(epoch))
        };
        let gone = self.fleet.prune(node, now.instant, counted);
        if gone.is_empty() {
            return;
        }
        for drain in self.drains.values_mut() {
            for epoch in &gone {
                drain.tally.remove(*epoch);
            }
        }
        self.release_the_empty(now, out);
        out.push(Effect::FleetChanged);
    }

    /// When [`Event::Tick`] is due next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let drains = self.drains.values().filter_map(Drain::next_deadline).min();
        let admins = self.admins.values().filter_map(Admin::next_deadline).min();
        [
            self.fleet.next_deadline(),
            drains,
            admins,
            self.prune_at,
            self.twins_at,
            self.keep_fleet_at,
            self.ending.values().min().copied(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Tells one reporter what it has to do, and asks for its counts.
    fn send(&mut self, epoch: Epoch, now: Now, out: &mut Vec<Effect>) {
        let (ask, generation) = (self.ask, self.generation);
        let node = self
            .fleet
            .get(epoch)
            .map(|reporter| reporter.node.clone())
            .unwrap_or_else(|| "".into());
        // An admin endpoint is that of one process.
        let envoy_closes = self.admins.get(&node).is_some_and(Admin::closes) && !self.fleet.is_shared(&node);
        let closing = self
            .drains
            .values()
            .filter(|drain| drain.machine.closing_since().is_some());
        let drains = closing.filter(|drain| drain.tally.has(epoch));
        let directives: Vec<_> = drains
            .flat_map(|drain| drain.directives(envoy_closes && admins::pulls_lever(drain), now.instant))
            .collect();
        // Just what the filter goes by: it must not be held silent for what it was never told.
        let awaited = directives.iter().any(|directive| directive.awaited);
        self.fleet.set_awaited(epoch, awaited, now.instant);
        let Some(reporter) = self.fleet.get_mut(epoch) else {
            return;
        };
        let Some(stream) = reporter.stream() else { return };
        reporter.asked = ask;
        out.push(Effect::Send {
            stream,
            command: v1::FilterCommand {
                generation,
                directives,
                ask,
                blockers: self.inquiries.limit(epoch),
                ..Default::default()
            },
        });
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
