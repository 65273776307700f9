//! The core against simulated filters: they answer what they are told, or do not.

use std::time::Duration;

use super::{
    drains::{StartError, StartRequest},
    outstanding::{Outstanding, Unsent},
    policy::PolicyOverrides,
    scope::Scope,
    *,
};
use crate::core::{fleet::StreamId, record::Record};

#[path = "leaving_tests.rs"]
mod leaving;

/// Where an admin endpoint is.
const ADMIN: &str = "unix:/a.sock";

/// Drives a core by hand, with its own clock.
struct World {
    core: Core,
    start: Now,
    now: Now,
    /// What each stream was last told.
    told: BTreeMap<u64, v1::FilterCommand>,
    stored: Vec<Record>,
    /// The last question to each Envoy.
    asked: BTreeMap<String, u64>,
    /// What is seen of every Envoy, at once whenever it is looked at; `None` = nobody answers.
    seen: Option<Outstanding>,
    /// Looks that nobody answered: node and question.
    looks: Vec<(String, u64)>,
}

/// Of an Envoy that can be seen, and owes nothing.
const SETTLED: Outstanding = Outstanding::SETTLED;

impl World {
    fn new() -> Self {
        Self::after(Vec::new())
    }

    fn after(records: Vec<Record>) -> Self {
        let now = Now {
            instant: Instant::now(),
            wall: SystemTime::now(),
        };
        let (core, left_out) = Core::new(
            Policies::default(),
            record::Kept {
                drains: records,
                ..Default::default()
            },
            now,
        );
        assert_eq!(left_out, Vec::<record::LeftOut>::new());
        Self {
            core,
            start: now,
            now,
            told: BTreeMap::new(),
            stored: Vec::new(),
            asked: BTreeMap::new(),
            seen: Some(SETTLED),
            looks: Vec::new(),
        }
    }

    fn take(&mut self, mut effects: Vec<Effect>) -> Vec<Effect> {
        let mut follows = Vec::new();
        for effect in &effects {
            match effect {
                Effect::AskOutstanding { node, ask, .. } => follows.push((node.clone(), *ask)),
                Effect::Send { stream, command } => {
                    self.told.insert(stream.0, command.clone());
                }
                Effect::AskAdmin { node, ask, .. } => {
                    self.asked.insert(node.clone(), *ask);
                }
                Effect::Store(record) => self.stored.push((**record).clone()),
                _ => {}
            }
        }
        for (node, ask) in follows {
            match self.seen {
                Some(seen) => effects.extend(self.told_outstanding(&node, ask, seen)),
                None => self.looks.push((node, ask)),
            }
        }
        effects
    }

    fn told_outstanding(&mut self, node: &str, ask: u64, outstanding: Outstanding) -> Vec<Effect> {
        self.happen(Event::OutstandingTold {
            node: node.to_owned(),
            ask,
            outstanding,
        })
    }

    fn happen(&mut self, event: Event) -> Vec<Effect> {
        let effects = self.core.handle(event, self.now);
        self.take(effects)
    }

    fn attach(&mut self, stream: u64, node: &str, process: u64, epoch: u64, listeners: &[(&str, u64)]) {
        let hello = v1::FilterHello {
            node_id: node.to_owned(),
            process,
            epoch,
            ..Default::default()
        };
        let report = report(listeners, 0);
        self.happen(Event::Attached {
            stream: StreamId(stream),
            hello,
            peer: None,
            report,
        });
    }

    /// A report that answers the last ask, as a filter's every report does.
    fn report(&mut self, stream: u64, listeners: &[(&str, u64)]) -> Vec<Effect> {
        self.report_that(stream, report(listeners, 0))
    }

    fn report_that(&mut self, stream: u64, report: v1::FilterReport) -> Vec<Effect> {
        let answers = self.told.get(&stream).map_or(0, |command| command.ask);
        self.happen(Event::Reported {
            stream: StreamId(stream),
            report: v1::FilterReport { answers, ..report },
        })
    }

    fn wait(&mut self, millis: u64) {
        let until = self.now.instant + Duration::from_millis(millis);
        while let Some(at) = self.core.next_deadline().filter(|at| *at <= until) {
            assert!(
                at >= self.now.instant || self.core.next_deadline() != Some(at),
                "a deadline in the past"
            );
            self.now.wall += at.saturating_duration_since(self.now.instant);
            self.now.instant = self.now.instant.max(at);
            self.happen(Event::Tick);
        }
        self.now.wall += until - self.now.instant;
        self.now.instant = until;
    }

    fn start(&mut self, id: &str, listeners: &[&str]) -> Result<String, StartError> {
        self.start_with(id, "", &[], listeners, PolicyOverrides::default())
    }

    fn start_with(
        &mut self,
        id: &str,
        request_id: &str,
        nodes: &[&str],
        listeners: &[&str],
        overrides: PolicyOverrides,
    ) -> Result<String, StartError> {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let request = StartRequest {
            id: id.to_owned(),
            request_id: request_id.to_owned(),
            scope: Scope {
                nodes: names(nodes),
                listeners: names(listeners),
                upstreams: Vec::new(),
            },
            overrides,
            of_a_stop: false,
        };
        let (id, effects) = self.core.start(request, self.now)?;
        self.take(effects);
        Ok(id)
    }

    fn drain(&self, id: &str) -> v1::Drain {
        self.core.drain(id, self.now).expect("the drain is known")
    }

    fn phase(&self, id: &str) -> v1::Phase {
        self.drain(id).phase()
    }

    fn directives(&self, stream: u64) -> Vec<String> {
        let command = self.told.get(&stream).expect("the stream was told something");
        command
            .directives
            .iter()
            .map(|directive| directive.listener.clone())
            .collect()
    }
}

/// Counters of a VM in which 100 requests have begun so far.
fn report(listeners: &[(&str, u64)], answers: u64) -> v1::FilterReport {
    let counts = |(name, in_flight): &(&str, u64)| v1::ListenerCounts {
        name: (*name).to_owned(),
        in_flight: *in_flight,
        started: 100,
        ..Default::default()
    };
    v1::FilterReport {
        listeners: listeners.iter().map(counts).collect(),
        answers,
        ..Default::default()
    }
}

/// One node of two VMs, with `ingress` and `internal`.
fn two_workers() -> World {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, &[("ingress", 0), ("internal", 0)]);
    world.attach(2, "a", 5, 12, &[("ingress", 0), ("internal", 0)]);
    world
}

#[test]
fn counts_are_summed_per_listener_over_the_reporters_of_a_node() {
    let mut world = two_workers();
    world.report(1, &[("ingress", 3), ("internal", 1)]);
    world.report(2, &[("ingress", 4), ("internal", 0)]);
    let nodes = world.core.nodes(None, world.now);
    let sums: Vec<_> = nodes[0]
        .listeners
        .iter()
        .map(|l| (l.name.as_str(), l.in_flight))
        .collect();
    assert_eq!(sums, [("ingress", 7), ("internal", 1)]);
    assert_eq!(nodes[0].reporters.len(), 2);
}

#[test]
fn a_drain_ends_when_every_worker_has_answered_zero_twice_around_the_quiet_period() {
    let mut world = two_workers();
    world.start("d", &["ingress"]).unwrap();
    assert_eq!(world.directives(1), ["ingress"]);
    world.report(1, &[("ingress", 0), ("internal", 9)]);
    assert_eq!(world.phase("d"), v1::Phase::Draining);
    assert_eq!(
        world.drain("d").unknown_reporters[0].reason,
        "has not answered yet"
    );
    world.report(2, &[("ingress", 1), ("internal", 0)]);
    assert_eq!(world.drain("d").in_flight, 1);
    world.report(2, &[("ingress", 0), ("internal", 0)]);
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
    world.wait(200);
    assert_eq!(
        world.phase("d"),
        v1::Phase::Quiet,
        "it waits for the confirmation"
    );
    world.report(1, &[("ingress", 0), ("internal", 9)]);
    world.report(2, &[("ingress", 0), ("internal", 0)]);
    assert_eq!(world.phase("d"), v1::Phase::Drained);
    let drain = world.drain("d");
    assert!(drain.holding);
    assert_eq!(drain.listeners.len(), 1);
    assert_eq!(drain.listeners[0].requests_during_drain, 1);
}

#[test]
fn counts_from_before_the_drain_do_not_end_it() {
    let mut world = two_workers();
    world.report(1, &[("ingress", 0)]);
    world.report(2, &[("ingress", 0)]);
    world.start("d", &["ingress"]).unwrap();
    world.wait(1000);
    assert_eq!(world.phase("d"), v1::Phase::Draining);
}

#[test]
fn a_silent_reporter_is_unknown_and_blocks_until_it_is_back() {
    let mut world = two_workers();
    world.start("d", &["ingress"]).unwrap();
    world.report(1, &[("ingress", 0)]);
    world.report(2, &[("ingress", 2)]);
    world.wait(1000);
    world.report(1, &[("ingress", 0)]);
    world.wait(1000);
    let drain = world.drain("d");
    assert_eq!((drain.in_flight, drain.unknown_reporters.len()), (0, 1));
    assert_eq!(drain.unknown_reporters[0].reason, "silent for 2s");
    assert_eq!(drain.phase(), v1::Phase::Draining);
    world.report(2, &[("ingress", 0)]);
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
}

#[test]
fn a_reporter_that_goes_in_the_quiet_period_blocks_the_end() {
    let mut world = two_workers();
    world.start("d", &["ingress"]).unwrap();
    world.report(1, &[("ingress", 0)]);
    world.report(2, &[("ingress", 0)]);
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
    world.happen(Event::Detached { stream: StreamId(2) });
    assert_eq!(world.phase("d"), v1::Phase::Draining);
    world.wait(29_999);
    let unknown = world.drain("d").unknown_reporters;
    assert_eq!(
        (unknown[0].reason.as_str(), unknown[1].reason.as_str()),
        ("silent for 29s", "stream closed 29s ago")
    );
    world.wait(1);
    assert_eq!(world.phase("d"), v1::Phase::TimedOut);
    assert_eq!(world.drain("d").unknown_reporters.len(), 2);
}

#[test]
fn a_vm_that_comes_back_is_told_and_counts_again_once_it_has_answered() {
    let mut world = two_workers();
    world.start("d", &["ingress"]).unwrap();
    world.report(1, &[("ingress", 0)]);
    world.happen(Event::Detached { stream: StreamId(2) });
    world.attach(3, "a", 5, 12, &[("ingress", 0)]);
    assert_eq!(world.directives(3), ["ingress"]);
    assert_eq!(world.phase("d"), v1::Phase::Draining);
    world.report(3, &[("ingress", 0)]);
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
}

#[test]
fn a_node_that_joins_is_told_at_once() {
    let mut world = two_workers();
    world.start("d", &[]).unwrap();
    world.attach(3, "b", 6, 13, &[("edge", 0)]);
    assert_eq!(world.directives(3), [""]);
    assert_eq!(world.drain("d").unknown_reporters.len(), 3);
}

#[test]
fn overlapping_drains_compose() {
    let mut world = two_workers();
    world.start("one", &["ingress"]).unwrap();
    world.start("two", &["ingress", "internal"]).unwrap();
    assert_eq!(world.directives(1), ["ingress", "ingress", "internal"]);
    let effects = world.core.cancel("two", world.now).unwrap();
    world.take(effects);
    assert_eq!(world.directives(1), ["ingress"]);
    let effects = world.core.cancel("one", world.now).unwrap();
    world.take(effects);
    assert!(world.directives(1).is_empty());
}

#[test]
fn an_ended_drain_holds_its_processes_but_not_the_envoy_that_takes_their_place() {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, &[("ingress", 0)]);
    let overrides = PolicyOverrides {
        timeout: Some(Duration::ZERO),
        ..Default::default()
    };
    world.start_with("d", "", &[], &["ingress"], overrides).unwrap();
    assert_eq!(world.phase("d"), v1::Phase::TimedOut);
    assert_eq!(world.directives(1), ["ingress"]);
    // The same process, another VM: still held.
    world.attach(2, "a", 5, 12, &[("ingress", 0)]);
    assert_eq!(world.directives(2), ["ingress"]);
    // A new process under the same node id serves, and with the old one long gone nothing is held.
    world.attach(3, "a", 6, 13, &[("ingress", 0)]);
    assert!(world.directives(3).is_empty());
    world.happen(Event::Detached { stream: StreamId(1) });
    world.happen(Event::Detached { stream: StreamId(2) });
    assert!(world.drain("d").holding, "it may come back");
    world.wait(70_000);
    let drain = world.drain("d");
    assert_eq!((drain.phase(), drain.holding), (v1::Phase::TimedOut, false));
    assert_eq!(
        world.core.nodes(None, world.now)[0].listeners[0].phase(),
        v1::Phase::Unspecified
    );
}

#[test]
fn a_lease_is_renewed_for_as_long_as_the_drain_holds() {
    let mut world = two_workers();
    let lease = Some(Duration::from_secs(3));
    let overrides = PolicyOverrides {
        lease,
        timeout: Some(Duration::ZERO),
        ..Default::default()
    };
    world.start_with("d", "", &[], &["ingress"], overrides).unwrap();
    for _ in 0..5 {
        world.told.clear();
        world.wait(1000);
        assert_eq!(world.directives(1), ["ingress"]);
    }
    let effects = world.core.cancel("d", world.now).unwrap();
    world.take(effects);
    world.told.clear();
    world.wait(5000);
    assert!(world.told.is_empty());
}

#[test]
fn the_same_request_id_is_the_same_drain() {
    let mut world = two_workers();
    let none = PolicyOverrides::default();
    assert_eq!(
        world
            .start_with("one", "deploy-7", &[], &["ingress"], none.clone())
            .unwrap(),
        "one"
    );
    assert_eq!(
        world
            .start_with("two", "deploy-7", &[], &["ingress"], none.clone())
            .unwrap(),
        "one"
    );
    let error = world
        .start_with("two", "deploy-7", &[], &["internal"], none)
        .unwrap_err();
    assert!(matches!(error, StartError::TakenRequestId { drain, .. } if drain == "one"));
}

#[test]
fn a_scope_that_is_not_there_is_refused_with_what_is() {
    assert_eq!(
        World::new().start("d", &[]).unwrap_err(),
        StartError::NobodyAttached
    );
    let mut world = two_workers();
    let error = world.start("d", &["ingres"]).unwrap_err().to_string();
    assert_eq!(
        error,
        "no listener \"ingres\" on the nodes in scope; known: ingress, internal"
    );
    let error = world
        .start_with("d", "", &["b"], &[], PolicyOverrides::default())
        .unwrap_err()
        .to_string();
    assert_eq!(error, "no node \"b\" is attached; attached: a");
    assert!(world.core.drains(world.now).is_empty());
}

#[test]
fn a_query_is_answered_by_the_last_live_reporter_to_answer_or_to_go() {
    let mut world = two_workers();
    let (ask, effects) = world.core.query(world.now);
    world.take(effects);
    assert!(
        !world
            .report(1, &[("ingress", 1)])
            .contains(&Effect::Answered(ask))
    );
    let effects = world.happen(Event::Detached { stream: StreamId(2) });
    assert!(effects.contains(&Effect::Answered(ask)));
    let (ask, effects) = world.core.query(world.now);
    world.take(effects);
    let nodes = world.core.nodes(Some(ask), world.now);
    assert!(
        nodes[0]
            .reporters
            .iter()
            .all(|reporter| reporter.state() == v1::ReporterState::Unknown)
    );
    assert!(
        world
            .report(1, &[("ingress", 1)])
            .contains(&Effect::Answered(ask))
    );
    assert_eq!(
        world.core.nodes(Some(ask), world.now)[0].listeners[0].in_flight,
        1
    );
}

#[test]
fn a_query_waits_for_those_who_were_asked_whoever_comes_in_between() {
    let mut world = two_workers();
    let (ask, effects) = world.core.query(world.now);
    world.take(effects);
    world.attach(3, "a", 1, 13, &[("ingress", 0)]);
    for stream in [3, 1] {
        let effects = world.report(stream, &[("ingress", 0)]);
        assert!(!effects.contains(&Effect::Answered(ask)), "after {stream}");
    }
    // To say it twice is not to say it for two.
    let effects = world.report(1, &[("ingress", 0)]);
    assert!(!effects.contains(&Effect::Answered(ask)));
    let effects = world.report(2, &[("ingress", 0)]);
    assert!(effects.contains(&Effect::Answered(ask)));
}

#[test]
fn a_refusal_names_as_many_as_fit_into_a_header() {
    let mut world = World::new();
    for n in 0..1000 {
        let name = format!("{n:04}{}", "x".repeat(500));
        world.attach(n + 1, &name, n + 1, n + 1, &[]);
    }
    let wrong = "\u{e4}".repeat(600);
    let error = world
        .start_with("d", "", &[&wrong], &[], PolicyOverrides::default())
        .unwrap_err()
        .to_string();
    assert!(error.len() < 4096, "{} bytes", error.len());
    assert!(error.ends_with(" and 980 more"), "{error}");
}

#[test]
fn who_starts_a_drain_waits_for_its_members_and_asks_nobody_twice() {
    let mut world = two_workers();
    world.attach(3, "other", 9, 9, &[("ingress", 1)]);
    let elsewhere = world.told[&3].clone();
    let id = world
        .start_with("d", "", &["a"], &[], PolicyOverrides::default())
        .unwrap();
    let (ask, effects) = world.core.query_drain(&id, world.now);
    assert!(effects.is_empty(), "they have been asked already: {effects:?}");
    assert_eq!(world.told[&3], elsewhere, "a node out of scope is not told");
    let answered = Effect::Answered(ask);
    assert!(!world.report(1, &[("ingress", 1)]).contains(&answered));
    // A later ask of everybody is nothing that a member has answered.
    let (_, effects) = world.core.query(world.now);
    world.take(effects);
    assert!(!world.report(3, &[("ingress", 1)]).contains(&answered));
    assert!(world.report(2, &[("ingress", 1)]).contains(&answered));
    let (_, effects) = world.core.query_drain("none", world.now);
    assert!(matches!(effects[..], [Effect::Answered(_)]), "{effects:?}");
}

#[test]
fn what_is_stored_comes_before_what_is_sent() {
    let mut world = two_workers();
    let request = StartRequest {
        id: "d".to_owned(),
        ..Default::default()
    };
    let (_, effects) = world.core.start(request, world.now).unwrap();
    let stored = effects
        .iter()
        .position(|effect| matches!(effect, Effect::Store(_)))
        .unwrap();
    let sent = effects
        .iter()
        .position(|effect| matches!(effect, Effect::Send { .. }))
        .unwrap();
    assert!(stored < sent);
}

#[test]
fn a_running_drain_survives_its_control_plane_and_waits_for_who_was_there() {
    let mut first = two_workers();
    first.start("d", &["ingress"]).unwrap();
    let record = first.stored.last().cloned().unwrap();

    let mut second = World::after(vec![record]);
    second.attach(1, "a", 5, 11, &[("ingress", 0)]);
    assert_eq!(second.directives(1), ["ingress"]);
    second.report(1, &[("ingress", 0)]);
    let drain = second.drain("d");
    assert_eq!(drain.phase(), v1::Phase::Draining);
    assert_eq!(
        drain.unknown_reporters[0].reason,
        "has not come back since the control plane restarted"
    );
    second.attach(2, "a", 5, 12, &[("ingress", 0)]);
    second.report(2, &[("ingress", 0)]);
    second.wait(200);
    second.report(1, &[("ingress", 0)]);
    second.report(2, &[("ingress", 0)]);
    assert_eq!(second.phase("d"), v1::Phase::Drained);
}

#[test]
fn an_ended_drain_is_after_a_restart_what_it_was_and_lets_go_when_nobody_comes_back() {
    let mut first = two_workers();
    let overrides = PolicyOverrides {
        timeout: Some(Duration::ZERO),
        ..Default::default()
    };
    first.start_with("d", "", &[], &[], overrides).unwrap();
    let record = first.stored.last().cloned().unwrap();
    let mut second = World::after(vec![record]);
    assert_eq!(second.phase("d"), v1::Phase::TimedOut);
    assert!(second.drain("d").holding);
    second.wait(61_000);
    assert!(!second.drain("d").holding);
}

#[test]
fn the_generation_grows_over_restarts() {
    let mut first = two_workers();
    first.start("d", &[]).unwrap();
    let before = first.told[&1].generation;
    let mut second = World::after(Vec::new());
    second.core.generation = second.core.generation.max(before);
    assert!(second.start.wall.duration_since(UNIX_EPOCH).unwrap().as_millis() >= u128::from(before) - 1);
    second.attach(1, "a", 5, 11, &[("ingress", 0)]);
    assert!(second.told[&1].generation >= before);
}

#[test]
fn an_announced_drain_shows_counts_and_closes_nothing() {
    let mut world = two_workers();
    let overrides = PolicyOverrides {
        announce: Some(Duration::from_secs(5)),
        ..Default::default()
    };
    world.start_with("d", "", &[], &["ingress"], overrides).unwrap();
    world.report(1, &[("ingress", 2)]);
    world.report(2, &[("ingress", 0)]);
    let drain = world.drain("d");
    assert_eq!(
        (drain.phase(), drain.in_flight, drain.holding),
        (v1::Phase::Announced, 2, false)
    );
    assert!(world.directives(1).is_empty());
    // Nobody has been told to speak more often yet, so nobody is silent.
    world.wait(4999);
    assert_eq!(world.drain("d").unknown_reporters, []);
    world.wait(1);
    assert_eq!(world.directives(1), ["ingress"]);
}

#[path = "blockers_tests.rs"]
mod blockers;
#[path = "keeping_tests.rs"]
mod keeping;
#[path = "limits_tests.rs"]
mod limits;
#[path = "model_tests.rs"]
mod model;
#[path = "owing_tests.rs"]
mod owing;
#[path = "own_tests.rs"]
mod own;
#[path = "report_tests.rs"]
mod report;
#[path = "upstream_tests.rs"]
mod upstream;

/// Evidence beside the filter's.
mod evidence {
    use super::{
        super::admins::{Reading, Requests},
        super::policy::Evidence,
        *,
    };

    pub(super) fn reading(listeners: &[(&str, u64)]) -> Result<Reading, String> {
        let counts = listeners.iter().map(|(name, count)| {
            let requests = Requests {
                in_flight: *count,
                begun: (*count == 0).then_some(100),
            };
            ((*name).to_owned(), requests)
        });
        Ok(Reading {
            listeners: counts.collect(),
            ..Reading::default()
        })
    }

    pub(super) fn by(evidence: Evidence) -> PolicyOverrides {
        PolicyOverrides {
            evidence: Some(evidence),
            ..PolicyOverrides::default()
        }
    }

    impl World {
        pub(super) fn find_admin(&mut self, node: &str) {
            let started = self.now.wall - Duration::from_secs(3600);
            self.happen(Event::AdminFound {
                address: format!("unix:/{node}.sock"),
                node: node.to_owned(),
                started,
            });
        }

        pub(super) fn admin_says(&mut self, node: &str, reading: Result<Reading, String>) -> Vec<Effect> {
            let ask = self.core.ask;
            self.happen(Event::AdminAnswered {
                node: node.to_owned(),
                ask,
                reading,
            })
        }

        pub(super) fn lever_done(&mut self, close: bool, result: Result<(), String>) -> Vec<Effect> {
            self.happen(Event::LeverDone {
                node: "a".to_owned(),
                close,
                result,
            })
        }

        /// Asks and levers that time brings about.
        pub(super) fn wait_for_calls(&mut self, millis: u64) -> Vec<Effect> {
            self.now.instant += Duration::from_millis(millis);
            self.now.wall += Duration::from_millis(millis);
            let effects = self.happen(Event::Tick);
            let call = |effect: &Effect| matches!(effect, Effect::AskAdmin { .. } | Effect::PullLever { .. });
            effects.into_iter().filter(call).collect()
        }
    }

    #[test]
    fn an_envoys_own_count_stands_in_for_an_unknown_reporter_and_says_so() {
        let mut world = two_workers();
        world.find_admin("a");
        world.start("d", &["ingress"]).unwrap();
        world.report(1, &[("ingress", 0)]);
        world.happen(Event::Detached { stream: StreamId(2) });
        assert!(
            world.wait_for_calls(249).is_empty(),
            "a filter may just be about to answer"
        );
        assert!(matches!(world.wait_for_calls(1)[..], [Effect::AskAdmin { .. }]));
        world.admin_says("a", reading(&[("ingress", 3), ("internal", 5)]));
        let drain = world.drain("d");
        assert_eq!((drain.in_flight, drain.evidence()), (3, v1::Evidence::Admin));
        assert!(
            drain.warnings[0].contains("Envoy's own count"),
            "{:?}",
            drain.warnings
        );
        assert_eq!(drain.unknown_reporters.len(), 1);
        world.admin_says("a", reading(&[("ingress", 0), ("internal", 5)]));
        assert_eq!(world.phase("d"), v1::Phase::Quiet);
        world.wait_for_calls(200);
        assert_eq!(
            world.phase("d"),
            v1::Phase::Quiet,
            "it waits for a confirmation by the admin"
        );
        world.admin_says("a", reading(&[("ingress", 0), ("internal", 5)]));
        assert_eq!(world.phase("d"), v1::Phase::Drained);
    }

    #[test]
    fn the_filter_is_believed_again_once_it_is_back() {
        let mut world = two_workers();
        world.find_admin("a");
        world.start("d", &["ingress"]).unwrap();
        world.report(1, &[("ingress", 0)]);
        world.happen(Event::Detached { stream: StreamId(2) });
        world.wait_for_calls(250);
        world.wait_for_calls(250);
        world.admin_says("a", reading(&[("ingress", 0)]));
        world.attach(3, "a", 5, 12, &[("ingress", 0)]);
        world.report(3, &[("ingress", 2)]);
        let drain = world.drain("d");
        assert_eq!((drain.in_flight, drain.evidence()), (2, v1::Evidence::Filter));
        assert_eq!(drain.warnings.len(), 2, "{:?}", drain.warnings);
    }

    #[test]
    fn an_admin_endpoint_that_does_not_answer_is_no_evidence() {
        let mut world = two_workers();
        world.find_admin("a");
        world
            .start_with("d", "", &[], &["ingress"], by(Evidence::Admin))
            .unwrap();
        world.report(1, &[("ingress", 0)]);
        world.report(2, &[("ingress", 0)]);
        assert_eq!(world.phase("d"), v1::Phase::Draining);
        world.admin_says("a", Err("did not answer within 1s".to_owned()));
        assert_eq!(world.phase("d"), v1::Phase::Draining);
        assert!(world.drain("d").warnings[0].contains("did not answer within 1s"));
        world.wait(31_000);
        assert_eq!(world.phase("d"), v1::Phase::TimedOut);
    }

    #[test]
    fn an_admin_that_knows_nothing_of_a_listener_is_no_evidence_for_it() {
        let mut world = two_workers();
        world.find_admin("a");
        world
            .start_with("d", "", &[], &["ingress"], by(Evidence::Admin))
            .unwrap();
        world.admin_says("a", reading(&[("another_prefix", 0)]));
        assert_eq!(world.phase("d"), v1::Phase::Draining);
    }

    #[test]
    fn evidence_admin_without_an_admin_endpoint_is_refused() {
        let mut world = two_workers();
        let error = world
            .start_with("d", "", &[], &["ingress"], by(Evidence::Admin))
            .unwrap_err();
        assert_eq!(error, StartError::NoAdmin("a".to_owned()));
    }

    #[test]
    fn evidence_filter_never_asks_the_admin() {
        let mut world = two_workers();
        world.find_admin("a");
        world
            .start_with("d", "", &[], &["ingress"], by(Evidence::Filter))
            .unwrap();
        assert!(world.wait_for_calls(1000).is_empty());
    }

    #[test]
    fn a_delay_takes_its_whole_timeout_and_ends_drained_unless_something_is_known_to_be_in_flight() {
        for (in_flight, phase) in [(0, v1::Phase::Drained), (1, v1::Phase::TimedOut)] {
            let mut world = two_workers();
            world
                .start_with("d", "", &[], &["ingress"], by(Evidence::Delay))
                .unwrap();
            world.report(1, &[("ingress", 0)]);
            world.report(2, &[("ingress", in_flight)]);
            // Reports go on, as a filter's do.
            for _ in 0..29 {
                world.wait(1000);
                world.report(1, &[("ingress", 0)]);
                world.report(2, &[("ingress", in_flight)]);
            }
            assert_eq!(world.phase("d"), v1::Phase::Draining);
            world.wait(1000);
            assert_eq!(world.phase("d"), phase);
            assert_eq!(world.drain("d").evidence(), v1::Evidence::Delay);
        }
    }

    #[test]
    fn a_whole_node_closes_by_itself_and_serves_again_after_a_cancel() {
        let mut world = two_workers();
        world.find_admin("a");
        world.start("d", &[]).unwrap();
        world.lever_done(true, Ok(()));
        let directives = &world.told[&1].directives;
        assert!(directives[0].counts_only && directives[0].awaited);
        assert_eq!(world.drain("d").lever(), v1::Lever::Admin);
        let effects = world.core.cancel("d", world.now).unwrap();
        let restore = Effect::PullLever {
            node: "a".to_owned(),
            close: false,
        };
        assert!(effects.contains(&restore), "{effects:?}");
        // A restore that fails is tried again.
        world.take(effects);
        world.lever_done(false, Err("refused".to_owned()));
        assert_eq!(world.wait_for_calls(500), [restore]);
    }

    #[test]
    fn an_envoy_that_takes_the_place_of_a_drained_one_keeps_its_health() {
        let mut world = World::new();
        world.find_admin("a");
        let overrides = PolicyOverrides {
            timeout: Some(Duration::ZERO),
            ..by(Evidence::Auto)
        };
        world.start_with("d", "", &[], &[], overrides).unwrap();
        world.lever_done(true, Ok(()));
        let fail = Effect::PullLever {
            node: "a".to_owned(),
            close: true,
        };
        let started = world.now.wall - Duration::from_secs(3600);
        let effects = world.happen(Event::AdminFound {
            address: ADMIN.to_owned(),
            node: "a".to_owned(),
            started,
        });
        assert!(
            effects.contains(&fail),
            "the same process, found again, is held: {effects:?}"
        );
        world.wait_for_calls(60_000);
        let started = world.now.wall;
        let effects = world.happen(Event::AdminFound {
            address: ADMIN.to_owned(),
            node: "a".to_owned(),
            started,
        });
        assert!(!effects.contains(&fail), "{effects:?}");
    }

    #[test]
    fn a_lever_that_fails_leaves_the_closing_to_the_filter() {
        let mut world = two_workers();
        world.find_admin("a");
        world.start("d", &[]).unwrap();
        assert!(
            !world.told[&1].directives[0].counts_only,
            "until Envoy has agreed the filter closes"
        );
        world.lever_done(true, Err("did not answer within 1s".to_owned()));
        assert!(!world.told[&1].directives[0].counts_only);
        let drain = world.drain("d");
        assert_eq!(drain.lever(), v1::Lever::Filter);
        assert!(
            drain.warnings[0].contains("/healthcheck/fail"),
            "{:?}",
            drain.warnings
        );
    }

    #[test]
    fn one_listener_or_a_ramp_never_pulls_the_lever() {
        let ramp = PolicyOverrides {
            ramp: Some(Duration::from_secs(1)),
            ..PolicyOverrides::default()
        };
        for (listeners, overrides) in [(&["ingress"][..], PolicyOverrides::default()), (&[][..], ramp)] {
            let mut world = two_workers();
            world.find_admin("a");
            world.start_with("d", "", &[], listeners, overrides).unwrap();
            let calls = world.wait_for_calls(10);
            assert!(
                !calls.iter().any(|call| matches!(call, Effect::PullLever { .. })),
                "{calls:?}"
            );
            assert_eq!(world.drain("d").lever(), v1::Lever::Filter);
        }
    }

    #[test]
    fn a_node_without_the_filter_drains_by_its_admin_alone() {
        let mut world = World::new();
        world.find_admin("a");
        world.start("d", &[]).unwrap();
        world.lever_done(true, Ok(()));
        world.wait_for_calls(250);
        world.admin_says("a", reading(&[("web", 2)]));
        assert_eq!(
            (world.drain("d").in_flight, world.drain("d").lever()),
            (2, v1::Lever::Admin)
        );
        world.admin_says("a", reading(&[("web", 0)]));
        world.wait_for_calls(200);
        world.admin_says("a", reading(&[("web", 0)]));
        assert_eq!(world.phase("d"), v1::Phase::Drained);
        world.wait(61_000);
        assert!(world.drain("d").holding);
    }

    #[test]
    fn towards_an_upstream_counts_what_goes_there_or_may_yet_go_there() {
        let mut world = World::new();
        world.attach(1, "a", 5, 11, &[("ingress", 0)]);
        let said = |world: &mut World, counts: &[(&str, u64)]| {
            let answers = world.told[&1].ask;
            let upstreams = counts.iter().map(|(address, in_flight)| v1::UpstreamCounts {
                address: (*address).to_owned(),
                in_flight: *in_flight,
                started: 100,
                cut: 0,
            });
            let report = v1::FilterReport {
                upstreams: upstreams.collect(),
                counts_upstreams: true,
                ..report(&[("ingress", 9)], answers)
            };
            world.happen(Event::Reported {
                stream: StreamId(1),
                report,
            });
        };
        said(&mut world, &[("10.0.0.1:80", 1), ("10.0.0.2:80", 4), ("", 2)]);
        let request = |upstream: &str| StartRequest {
            id: "d".to_owned(),
            scope: Scope {
                upstreams: vec![upstream.to_owned()],
                ..Scope::default()
            },
            ..StartRequest::default()
        };
        let error = world
            .core
            .start(request("10.0.0.9:80"), world.now)
            .unwrap_err()
            .to_string();
        assert!(error.contains("seen: 10.0.0.1:80, 10.0.0.2:80"), "{error}");
        let (_, effects) = world.core.start(request("10.0.0.1:80"), world.now).unwrap();
        world.take(effects);
        let directive = world.told[&1].directives[0].clone();
        assert_eq!(
            (directive.upstream.as_str(), directive.listener.as_str()),
            ("10.0.0.1:80", "")
        );
        said(&mut world, &[("10.0.0.1:80", 1), ("10.0.0.2:80", 4), ("", 2)]);
        assert_eq!(world.drain("d").in_flight, 3);
        assert!(!world.drain("d").holding, "it closes nothing");
        said(&mut world, &[("10.0.0.1:80", 0), ("10.0.0.2:80", 4), ("", 0)]);
        world.wait(300);
        said(&mut world, &[("10.0.0.1:80", 0), ("10.0.0.2:80", 4), ("", 0)]);
        assert_eq!(world.phase("d"), v1::Phase::Drained);
    }
}
