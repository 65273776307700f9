//! The whole core against a naive model: whatever happens, in whatever order.
//!
//! The model knows what each VM and each Envoy has in flight, and what they told last of it. They speak in any order, late, or
//! never. So a drain may end while something is in flight that began since everybody was asked for the last time; but
//! never against the last word of anybody. What Envoys owe is seen as it is whenever somebody looks, or late, or not at all.

use proptest::prelude::*;

use super::{
    super::{
        admins::{Reading, Requests},
        policy::{Evidence, OnTimeout},
    },
    *,
};
use crate::core::{fleet::StreamId, record::Record};

const NODES: [&str; 2] = ["a", "b"];
const WORKERS: u64 = 2;
const TIMEOUT: u64 = 5_000;
const QUIET: u64 = 200;

#[derive(Clone, Debug)]
enum Step {
    /// A worker's stream opens, or opens anew.
    Attach(usize),
    /// A worker tells what it has.
    Report(usize),
    /// A worker tells what it had when it was last asked, as one does that hangs.
    ReportLate(usize),
    Detach(usize),
    /// A request begins on a worker: on a listener with the filter, or on one without.
    Begin(usize, bool),
    /// All requests of a worker end.
    End(usize),
    FindAdmin(usize),
    /// An Envoy answers what it was asked, or fails to.
    Answer(usize, bool),
    /// An Envoy owes its clients this many bytes from now on, and has so many TCP sessions.
    Owe(usize, u64, u64),
    /// A look at an Envoy is answered: by what there is, or by what can be seen of it, which is nothing.
    See(usize, bool),
    /// Everybody who is attached tells, every Envoy answers, and every look.
    Round,
    /// Everybody is attached, and all their requests have ended.
    Settle,
    Wait(u64),
    Cancel,
    /// The control plane is killed, and another takes its place.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let worker = || 0..NODES.len() * WORKERS as usize;
    let node = || 0..NODES.len();
    let step = prop_oneof![
        1 => worker().prop_map(Step::Attach),
        4 => worker().prop_map(Step::Report),
        12 => Just(Step::Round),
        2 => Just(Step::Settle),
        1 => worker().prop_map(Step::ReportLate),
        1 => worker().prop_map(Step::Detach),
        2 => (worker(), any::<bool>()).prop_map(|(worker, seen)| Step::Begin(worker, seen)),
        1 => worker().prop_map(Step::End),
        1 => node().prop_map(Step::FindAdmin),
        3 => (node(), prop::bool::weighted(0.7)).prop_map(|(node, well)| Step::Answer(node, well)),
        1 => (node(), 0u64..2, 0u64..2).prop_map(|(node, bytes, sessions)| Step::Owe(node, bytes, sessions)),
        2 => (node(), prop::bool::weighted(0.7)).prop_map(|(node, well)| Step::See(node, well)),
        9 => prop_oneof![0u64..60, 150u64..600].prop_map(Step::Wait),
        1 => prop::bool::weighted(0.1).prop_map(|now| if now { Step::Cancel } else { Step::Round }),
        1 => prop::bool::weighted(0.3).prop_map(|now| if now { Step::Restart } else { Step::Round }),
    ];
    prop::collection::vec(step, 1..100)
}

/// A worker, as it is.
#[derive(Clone, Debug, Default)]
struct Worker {
    stream: Option<u64>,
    /// On `ingress`, which has the filter.
    seen: u64,
    /// On `internal`, which has not.
    unseen: u64,
    started: [u64; 2],
    /// Its last report on this stream.
    late: v1::FilterReport,
    /// What it told last on this stream, since the drain began.
    told: Option<u64>,
}

/// The admin endpoint of a node.
#[derive(Clone, Copy, Debug, Default)]
struct Endpoint {
    /// Whether this control plane has found it.
    found: bool,
    /// What it said last to this control plane of the scope, since the drain began; an error is none.
    told: Option<Result<u64, ()>>,
}

/// What an Envoy owes, beyond requests.
#[derive(Clone, Copy, Debug, Default)]
struct Debt {
    bytes: u64,
    sessions: u64,
    /// Bytes and sessions as this control plane saw them last, if it ever did; `None` = it has not looked since the drain
    /// began.
    seen: Option<Option<(u64, u64)>>,
}

struct Model {
    world: World,
    workers: Vec<Worker>,
    /// By node.
    admins: Vec<Endpoint>,
    /// By node.
    debts: Vec<Debt>,
    next_stream: u64,
    policy: PolicyOverrides,
    whole_node: bool,
    started: Instant,
    cancelled: bool,
    /// The last word of somebody, against which the drain ended `drained`.
    drained_against: Option<String>,
}

impl Model {
    fn new(evidence: Evidence, whole_node: bool, on_timeout: OnTimeout, admins: [bool; 2]) -> Self {
        let mut model = Self {
            world: World::new(),
            workers: vec![Worker::default(); NODES.len() * WORKERS as usize],
            admins: vec![Endpoint::default(); NODES.len()],
            debts: vec![Debt::default(); NODES.len()],
            next_stream: 1,
            policy: PolicyOverrides {
                evidence: Some(evidence),
                timeout: Some(Duration::from_millis(TIMEOUT)),
                quiet_period: Some(Duration::from_millis(QUIET)),
                on_timeout: Some(on_timeout),
                ..PolicyOverrides::default()
            },
            whole_node,
            started: Instant::now(),
            cancelled: false,
            drained_against: None,
        };
        model.world.seen = None;
        for worker in 0..model.workers.len() {
            model.take(&Step::Attach(worker));
            model.take(&Step::Report(worker));
        }
        for (node, found) in admins.into_iter().enumerate() {
            if found || evidence == Evidence::Admin {
                model.take(&Step::FindAdmin(node));
                model.take(&Step::Answer(node, true));
            }
        }
        model
    }

    fn start(&mut self) {
        self.started = self.world.now.instant;
        let listeners: &[&str] = if self.whole_node { &[] } else { &["ingress"] };
        self.world
            .start_with("d", "", &[], listeners, self.policy.clone())
            .expect("started");
        self.workers.iter_mut().for_each(|worker| worker.told = None);
        self.admins.iter_mut().for_each(|admin| admin.told = None);
        self.debts.iter_mut().for_each(|debt| debt.seen = None);
    }

    fn evidence(&self) -> Evidence {
        self.policy.evidence.expect("set")
    }

    fn node_of(worker: usize) -> usize {
        worker / WORKERS as usize
    }

    fn counts(&self, worker: usize) -> v1::FilterReport {
        let worker = &self.workers[worker];
        let listener = v1::ListenerCounts {
            name: "ingress".to_owned(),
            in_flight: worker.seen,
            started: worker.started[0],
            ..v1::ListenerCounts::default()
        };
        v1::FilterReport {
            listeners: vec![listener],
            ..v1::FilterReport::default()
        }
    }

    fn reading(&self, node: usize) -> Reading {
        let sum = |count: &dyn Fn(&Worker) -> u64| -> u64 {
            let workers = self.workers.iter().enumerate();
            workers
                .filter(|(at, _)| Self::node_of(*at) == node)
                .map(|(_, worker)| count(worker))
                .sum()
        };
        let requests = |in_flight: u64, begun: u64| Requests {
            in_flight,
            begun: Some(begun),
        };
        Reading {
            listeners: [
                (
                    "ingress".to_owned(),
                    requests(sum(&|w| w.seen), sum(&|w| w.started[0])),
                ),
                (
                    "internal".to_owned(),
                    requests(sum(&|w| w.unseen), sum(&|w| w.started[1])),
                ),
            ]
            .into(),
            upstreams: None,
            sessions: None,
        }
    }

    fn happen(&mut self, event: Event) {
        self.world.happen(event);
    }

    fn report(&mut self, at: usize, report: v1::FilterReport) {
        let Some(stream) = self.workers[at].stream else {
            return;
        };
        let worker = &mut self.workers[at];
        worker.told = Some(report.listeners[0].in_flight);
        worker.late = report.clone();
        self.happen(Event::Reported {
            stream: StreamId(stream),
            report,
        });
    }

    /// Takes a step, and looks at the drain after each part of it.
    fn take(&mut self, step: &Step) {
        match step {
            Step::Round => {
                (0..self.workers.len()).for_each(|at| self.take(&Step::Report(at)));
                (0..NODES.len()).for_each(|node| self.take(&Step::Answer(node, true)));
                (0..NODES.len()).for_each(|node| self.take(&Step::See(node, true)));
            }
            Step::Settle => {
                (0..NODES.len()).for_each(|node| self.take(&Step::Owe(node, 0, 0)));
                for at in 0..self.workers.len() {
                    self.take(&Step::End(at));
                    if self.workers[at].stream.is_none() {
                        self.take(&Step::Attach(at));
                    }
                }
            }
            step => {
                let drained = |model: &Self| {
                    let drain = model.world.core.drain("d", model.world.now);
                    drain.is_some_and(|drain| drain.phase() == v1::Phase::Drained)
                };
                let was_drained = drained(self);
                self.act(step);
                if !was_drained && drained(self) {
                    self.drained_against = self.objection();
                }
            }
        }
    }

    fn act(&mut self, step: &Step) {
        match *step {
            Step::Attach(at) => {
                let stream = self.next_stream;
                self.next_stream += 1;
                self.workers[at].stream = Some(stream);
                let hello = v1::FilterHello {
                    node_id: NODES[Self::node_of(at)].to_owned(),
                    process: Self::node_of(at) as u64 + 1,
                    epoch: at as u64 + 1,
                    ..v1::FilterHello::default()
                };
                let report = self.counts(at);
                (self.workers[at].late, self.workers[at].told) = (report.clone(), None);
                self.happen(Event::Attached {
                    stream: StreamId(stream),
                    hello,
                    peer: None,
                    report,
                });
            }
            Step::Report(at) => {
                let stream = self.workers[at].stream.unwrap_or_default();
                let answers = self.world.told.get(&stream).map_or(0, |command| command.ask);
                let report = v1::FilterReport {
                    answers,
                    ..self.counts(at)
                };
                self.report(at, report);
            }
            Step::ReportLate(at) => self.report(at, self.workers[at].late.clone()),
            Step::Detach(at) => {
                self.workers[at].told = None;
                if let Some(stream) = self.workers[at].stream.take() {
                    self.happen(Event::Detached {
                        stream: StreamId(stream),
                    });
                }
            }
            Step::Begin(at, seen) => {
                let worker = &mut self.workers[at];
                if seen {
                    worker.seen += 1;
                    worker.started[0] += 1;
                } else {
                    worker.unseen += 1;
                    worker.started[1] += 1;
                }
            }
            Step::End(at) => (self.workers[at].seen, self.workers[at].unseen) = (0, 0),
            Step::FindAdmin(node) => {
                self.admins[node].found = true;
                let started = self.world.now.wall - Duration::from_secs(3600);
                self.happen(Event::AdminFound {
                    address: format!("unix:/{}.sock", NODES[node]),
                    node: NODES[node].to_owned(),
                    started,
                });
            }
            Step::Answer(node, well) => {
                let Some(ask) = self.world.asked.remove(NODES[node]) else {
                    return;
                };
                let reading = if well {
                    Ok(self.reading(node))
                } else {
                    Err("refused".to_owned())
                };
                let sum = |reading: &Reading| {
                    let covered = |name: &str| self.whole_node || name == "ingress";
                    let counts = reading.listeners.iter().filter(|(name, _)| covered(name));
                    counts.map(|(_, requests)| requests.in_flight).sum()
                };
                self.admins[node].told = Some(reading.as_ref().map(sum).map_err(drop));
                self.happen(Event::AdminAnswered {
                    node: NODES[node].to_owned(),
                    ask,
                    reading,
                });
            }
            Step::Owe(node, bytes, sessions) => {
                let debt = &mut self.debts[node];
                (debt.bytes, debt.sessions) = (bytes, sessions);
            }
            Step::See(node, well) => self.see(node, well),
            Step::Round | Step::Settle => {}
            Step::Wait(millis) => self.world.wait(millis),
            Step::Cancel => {
                if let Some(effects) = self.world.core.cancel("d", self.world.now) {
                    self.world.take(effects);
                    self.cancelled = true;
                }
            }
            Step::Restart => {
                let kept = self.world.stored.last().cloned().into_iter().collect();
                let now = self.world.now;
                let mut next = World::after_at(kept, now);
                next.stored = std::mem::take(&mut self.world.stored);
                self.world = next;
                for worker in &mut self.workers {
                    (worker.stream, worker.told) = (None, None);
                }
                self.world.seen = None;
                self.admins.fill(Endpoint::default());
                self.debts.iter_mut().for_each(|debt| debt.seen = None);
            }
        }
    }

    fn see(&mut self, node: usize, well: bool) {
        let Some(at) = self.world.looks.iter().position(|(name, _)| name == NODES[node]) else {
            return;
        };
        let (name, ask) = self.world.looks.remove(at);
        let debt = &mut self.debts[node];
        let before = debt.seen.flatten();
        debt.seen = Some(if well {
            Some((debt.bytes, debt.sessions))
        } else {
            before
        });
        let (bytes, sessions) = (debt.bytes, debt.sessions);
        let seen = Outstanding {
            tcp: Some(sessions),
            unsent: Some(Unsent {
                queued: bytes,
                ..Unsent::default()
            }),
            upstream: Some(0),
        };
        self.happen(Event::OutstandingTold {
            node: name,
            ask,
            outstanding: if well { seen } else { Outstanding::default() },
        });
    }

    /// Why the drain must not have ended now, by what was seen of Envoys.
    fn owing(&self) -> Option<String> {
        let debts = self.debts.iter();
        let owes = |debt: &&Debt| match debt.seen {
            Some(Some((bytes, sessions))) => bytes + sessions > 0,
            Some(None) => false,
            None => true,
        };
        debts.clone().find(owes).map(|debt| format!("owes {debt:?}"))
    }

    /// Why the drain must not have ended now, by the last words of all.
    fn objection(&self) -> Option<String> {
        if let Some(owing) = self.owing() {
            return Some(owing);
        }
        (0..NODES.len()).find_map(|node| {
            let mut workers = self.workers.iter().enumerate();
            let mine = |at: &usize| Self::node_of(*at) == node;
            let known_zero = workers
                .clone()
                .filter(|(at, _)| mine(at))
                .all(|(_, worker)| worker.told == Some(0));
            let is_live = |at: usize| {
                self.world
                    .core
                    .fleet
                    .get(Epoch(at as u64 + 1))
                    .is_some_and(|r| r.is_live())
            };
            let busy = workers
                .any(|(at, worker)| mine(&at) && is_live(at) && worker.told.is_some_and(|told| told > 0));
            let own = self.admins[node].told;
            let by_filter = known_zero && !busy;
            let allowed = match self.evidence() {
                Evidence::Filter => by_filter,
                Evidence::Admin => own == Some(Ok(0)),
                // An Envoy that does not answer does not hold up its filters.
                _ if self.whole_node && self.admins[node].found => {
                    !busy && (own == Some(Ok(0)) || by_filter && own == Some(Err(())))
                }
                _ => !busy && (known_zero || own == Some(Ok(0))),
            };
            (!allowed).then(|| format!("{}: {:?} {:?}", NODES[node], self.workers, own))
        })
    }

    fn phase(&self) -> v1::Phase {
        self.world.phase("d")
    }

    fn is_ended(&self) -> bool {
        matches!(
            self.phase(),
            v1::Phase::Drained | v1::Phase::TimedOut | v1::Phase::Cancelled
        )
    }
}

impl World {
    fn after_at(records: Vec<Record>, now: Now) -> Self {
        let mut world = Self::new();
        let kept = record::Kept {
            drains: records,
            ..Default::default()
        };
        (world.core, _) = Core::new(Policies::default(), kept, now);
        (world.start, world.now) = (now, now);
        world
    }
}

fn evidence() -> impl Strategy<Value = Evidence> {
    prop_oneof![3 => Just(Evidence::Auto), 1 => Just(Evidence::Filter), 1 => Just(Evidence::Admin)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_whole_core_keeps_the_rules(
        steps in steps(),
        evidence in evidence(),
        whole_node: bool,
        abort: bool,
        admins: [bool; 2],
    ) {
        let on_timeout = if abort { OnTimeout::Abort } else { OnTimeout::Proceed };
        let mut model = Model::new(evidence, whole_node, on_timeout, admins);
        // Some of the traffic is there before the drain.
        let (before, after) = steps.split_at(steps.len() / 8);
        for step in before {
            if !matches!(step, Step::Restart | Step::Cancel | Step::Detach(_)) {
                model.take(step);
            }
        }
        model.start();
        for step in after {
            let (was_ended, was_cancelled) = (model.is_ended(), model.cancelled);
            let phase = model.phase();
            model.take(step);
            let late = model.world.now.instant >= model.started + Duration::from_millis(TIMEOUT);
            prop_assert_eq!(&model.drained_against, &None, "drained against a word");
            prop_assert!(!was_ended || model.phase() == phase, "an outcome stays");
            if model.phase() == v1::Phase::Drained && !was_ended {
                let drain = model.world.drain("d");
                prop_assert_eq!(drain.in_flight, 0);
                let all_tell = drain.evidence() == v1::Evidence::Admin || drain.unknown_reporters.is_empty();
                prop_assert!(all_tell, "drained with unknown reporters: {:?}", drain);
                prop_assert!(!late, "drained after the deadline");
            }
            if model.cancelled && !was_cancelled && !was_ended {
                let expected = if late { v1::Phase::TimedOut } else { v1::Phase::Cancelled };
                prop_assert_eq!(model.phase(), expected);
            }
            if model.cancelled {
                prop_assert!(!model.world.drain("d").holding);
            }
            if late {
                // The time that passes is told of at the latest by the next tick.
                model.world.wait(0);
                prop_assert!(model.is_ended(), "not ended by the deadline");
            }
        }
        // It ends by its deadline, whatever happened.
        model.world.wait(TIMEOUT);
        prop_assert!(model.is_ended());
        prop_assert!(model.world.core.next_deadline().is_none_or(|at| at > model.world.now.instant));
    }
}
