//! The core, and what always holds of it: it does not panic, what it has to do is bounded, and no drain runs on after its deadline.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use ebb::core::{
    Core, Effect, Event, Now,
    fleet::Epoch,
    policies::Policies,
    record::{Kept, Record},
};
use ebb_proto::v1::{self, Phase};
use prost::Message;

/// The most that may follow from one event. There are a few reporters and drains in each run, so it is far more than needed.
const MOST_EFFECTS: usize = 20_000;

/// The most that may be due at one moment, one thing after the other: more would go on for ever.
const MOST_TICKS: usize = 200;

pub(crate) struct Watched {
    pub(crate) core: Core,
    pub(crate) now: Now,
    /// What it had kept, as the store has it: in bytes.
    drains: BTreeMap<String, Vec<u8>>,
    levers: Vec<String>,
    reporters: BTreeMap<u64, Vec<u8>>,
    /// Questions to Envoys that have not been answered.
    pub(crate) asked: Vec<(String, u64)>,
    pub(crate) looks: Vec<(String, u64)>,
}

impl Watched {
    /// A control plane that finds this.
    pub(crate) fn new(kept: Kept) -> Self {
        let now = Now {
            instant: Instant::now() + Duration::from_secs(1_000),
            wall: SystemTime::now(),
        };
        let drains = kept.drains.iter().filter_map(|record| {
            let id = record.drain.as_ref()?.id.clone();
            Some((id, record.encode_to_vec()))
        });
        let reporters = kept.reporters.iter();
        let mut watched = Self {
            drains: drains.collect(),
            levers: kept.levers.clone(),
            reporters: reporters
                .map(|record| (record.epoch, record.encode_to_vec()))
                .collect(),
            core: Core::new(Policies::default(), kept, now).0,
            now,
            asked: Vec::new(),
            looks: Vec::new(),
        };
        watched.configure();
        watched
    }

    fn configure(&mut self) {
        self.core
            .expect_endpoints(["unix:/a".to_owned(), "unix:/b".to_owned()]);
        self.due();
    }

    /// It is killed, and another takes its place.
    pub(crate) fn restart(&mut self) {
        let read = |bytes: &Vec<u8>| Record::decode(bytes.as_slice()).expect("what was kept can be read");
        let reporter =
            |bytes: &Vec<u8>| Message::decode(bytes.as_slice()).expect("what was kept can be read");
        let kept = Kept {
            drains: self.drains.values().map(read).collect(),
            levers: self.levers.clone(),
            reporters: self.reporters.values().map(reporter).collect(),
        };
        self.core = Core::new(Policies::default(), kept, self.now).0;
        self.asked.clear();
        self.looks.clear();
        self.configure();
    }

    pub(crate) fn handle(&mut self, event: Event) {
        let effects = self.core.handle(event, self.now);
        self.carry_out(effects);
        self.due();
    }

    pub(crate) fn carry_out(&mut self, effects: Vec<Effect>) {
        assert!(
            effects.len() < MOST_EFFECTS,
            "{} effects of one event",
            effects.len()
        );
        for effect in effects {
            match effect {
                Effect::Store(record) => {
                    let id = record.drain.as_ref().expect("a record of a drain").id.clone();
                    self.drains.insert(id, record.encode_to_vec());
                }
                Effect::Forget(id) => drop(self.drains.remove(&id)),
                Effect::KeepFleet { put, gone } => {
                    self.reporters
                        .extend(put.iter().map(|record| (record.epoch, record.encode_to_vec())));
                    for Epoch(epoch) in gone {
                        self.reporters.remove(&epoch);
                    }
                }
                Effect::KeepLever { node, pulled } => {
                    self.levers.retain(|other| *other != node);
                    self.levers.extend(pulled.then_some(node));
                }
                Effect::AskAdmin { node, ask, .. } => self.asked.push((node, ask)),
                Effect::AskOutstanding { node, ask, .. } => self.looks.push((node, ask)),
                Effect::Send { command, .. } => drop(command.encode_to_vec()),
                _ => {}
            }
        }
    }

    /// Time passes, one deadline after the other.
    pub(crate) fn wait(&mut self, span: Duration) {
        let until = self.now.instant + span;
        // As a control plane that was not run meanwhile: of many deadlines only some are kept to.
        for _ in 0..8 {
            match self.core.next_deadline() {
                Some(at) if at > self.now.instant && at < until => self.advance(at),
                _ => break,
            }
            self.due();
        }
        self.advance(until);
        self.due();
    }

    fn advance(&mut self, at: Instant) {
        self.now.wall += at.saturating_duration_since(self.now.instant);
        self.now.instant = at;
    }

    /// Does what is due, and looks at what has to hold.
    fn due(&mut self) {
        let mut ticks = 0;
        while self.core.next_deadline().is_some_and(|at| at <= self.now.instant) {
            let effects = self.core.handle(Event::Tick, self.now);
            self.carry_out(effects);
            ticks += 1;
            assert!(ticks < MOST_TICKS, "it is never done: {:?}", self.drains());
        }
        for drain in self.drains() {
            if !matches!(drain.phase(), Phase::Announced | Phase::Draining | Phase::Quiet) {
                continue;
            }
            let timeout = drain.policy.as_ref().and_then(|policy| policy.timeout);
            let (timeout, elapsed) = (timeout.expect("a timeout"), drain.elapsed.expect("a time"));
            let is_late = (elapsed.seconds, elapsed.nanos) >= (timeout.seconds, timeout.nanos);
            assert!(!is_late, "it runs on after its deadline: {drain:?}");
        }
    }

    /// All drains.
    pub(crate) fn drains(&self) -> Vec<v1::Drain> {
        self.core.drains_after(None, usize::MAX, usize::MAX, self.now).0
    }

    /// Shows everything to everybody.
    pub(crate) fn show(&mut self) {
        for node in self.core.snapshot(None, None, self.now).nodes() {
            drop(node.encode_to_vec());
            drop(self.core.ports(&node.id, &["a".to_owned(), "b".to_owned()]));
        }
        for drain in self.drains() {
            let report: Option<v1::DrainReport> = self.core.report(&drain.id, self.now);
            drop(report.map(|report| report.encode_to_vec()));
        }
        for all in [false, true] {
            drop(self.core.levers_to_undo(|_| all));
        }
    }
}
