//! The judge itself, on journals that are made up: it finds what is wrong, and nothing else.

use std::time::Duration;

use ebb_e2e::bins::EnvoyVersion;

use super::*;
use crate::{
    journal::{Answer, Away, EnvoyEnd, FaultSeen, Outage, Outcome, Probe, Request, Span, Stall, Start, Why},
    schedule::{
        DrainPlan, Endpoint, EnvoyPlan, Evidence, Fault, Listener, Order, Policy, Scope, State, Via,
        WorldPlan,
    },
};

fn at(milliseconds: u64) -> Moment {
    Duration::from_millis(milliseconds)
}

fn envoy(node: &'static str, order: Order, admin: bool) -> EnvoyPlan {
    EnvoyPlan {
        version: EnvoyVersion::V1_40,
        workers: 1,
        node,
        order,
        admin,
        reconnect_max_ms: None,
    }
}

/// A drain of everything with a deadline of 3 s, asked for at 1 s, that ended as drained at 2 s.
fn drain(scope: Scope) -> Drain {
    Drain {
        plan: DrainPlan {
            at: 0,
            waits: false,
            via: Via::CommandLine,
            scope,
            policy: Policy {
                timeout: 3_000,
                quiet: 50,
                announce: 0,
                ramp: 0,
                evidence: Evidence::Auto,
                abort: false,
            },
            cancel_at: None,
            then: None,
        },
        asked: at(1_000),
        start: Start::Accepted(at(1_010)),
        end: Some((at(2_000), Outcome::Drained)),
        earliest_end: Some(at(1_995)),
        exit: Some((at(2_005), Some(0), "drained".to_owned())),
        cancelled: None,
        lost: None,
    }
}

/// A request that the upstream holds from 1.2 s until then.
fn held(listener: Listener, until: u64) -> Request {
    Request {
        id: 1,
        envoy: 0,
        listener,
        endpoint: Endpoint::A,
        connected: at(1_150),
        sent: at(1_150),
        done: at(until + 1),
        answer: Answer::Whole { closing: true },
        upstream: Some(Span {
            began: at(1_200),
            ended: Some(at(until)),
            cut: false,
        }),
        authz: None,
    }
}

fn journal(drain: Drain, requests: Vec<Request>) -> Journal {
    Journal {
        world: WorldPlan {
            envoys: vec![
                envoy("edge-a", Order::First, true),
                envoy("edge-b", Order::First, true),
            ],
            state: State::Folder,
            relay: false,
            trap: false,
        },
        requests,
        drains: vec![drain],
        faults: Vec::new(),
        outages: Vec::new(),
        ends: Vec::new(),
        stalls: Vec::new(),
        probes: Vec::new(),
    }
}

fn rules(journal: &Journal) -> Vec<Rule> {
    assert!(!journal.to_string().is_empty());
    judge(journal).into_iter().map(|failure| failure.rule).collect()
}

#[test]
fn drained_with_nothing_held_is_no_failure() {
    let requests = vec![held(Listener::Ingress, 1_900)];
    assert_eq!(rules(&journal(drain(Scope::All), requests)), []);
}

#[test]
fn drained_while_the_witness_holds_a_request_is_early() {
    for scope in [
        Scope::All,
        Scope::Node("edge-a"),
        Scope::Listener(Listener::Ingress),
        Scope::ListenerOf("edge-a", Listener::Ingress),
        Scope::Upstream(Endpoint::A),
    ] {
        let journal = journal(drain(scope.clone()), vec![held(Listener::Ingress, 2_500)]);
        assert_eq!(rules(&journal), [Rule::Early], "{scope}");
    }
}

#[test]
fn what_the_scope_does_not_name_may_be_held() {
    for scope in [
        Scope::Node("edge-b"),
        Scope::Listener(Listener::Internal),
        Scope::ListenerOf("edge-b", Listener::Ingress),
        Scope::Upstream(Endpoint::B),
    ] {
        let journal = journal(drain(scope.clone()), vec![held(Listener::Ingress, 2_500)]);
        assert_eq!(rules(&journal), [], "{scope}");
    }
}

#[test]
fn two_processes_of_one_node_id_are_both_in_its_scope() {
    let mut request = held(Listener::Internal, 2_500);
    request.envoy = 1;
    let mut journal = journal(drain(Scope::Node("edge-a")), vec![request]);
    assert_eq!(rules(&journal), []);
    journal.world.envoys[1].node = "edge-a";
    assert_eq!(rules(&journal), [Rule::Early]);
}

#[test]
fn what_arrives_with_the_end_belongs_to_nobody_and_no_outcome_but_drained_is_early() {
    let mut request = held(Listener::Ingress, 2_500);
    request.upstream = request.upstream.map(|span| Span {
        began: at(1_960),
        ..span
    });
    assert_eq!(rules(&journal(drain(Scope::All), vec![request])), []);
    let mut late = drain(Scope::All);
    late.end = Some((at(4_010), Outcome::TimedOut));
    late.exit = Some((at(4_020), Some(3), "timed_out".to_owned()));
    assert_eq!(rules(&journal(late, vec![held(Listener::Ingress, 5_000)])), []);
}

#[test]
fn what_only_envoy_counts_is_in_scope_where_its_admin_endpoint_is_known() {
    for listener in [Listener::Plain, Listener::Raw] {
        let mut journal = journal(drain(Scope::All), vec![held(listener, 2_500)]);
        assert_eq!(rules(&journal), [Rule::Early], "{listener:?}");
        journal.drains[0].plan.policy.evidence = Evidence::Filter;
        assert_eq!(rules(&journal), [], "{listener:?}");
        journal.drains[0].plan.policy.evidence = Evidence::Auto;
        journal.world.envoys[0].admin = false;
        assert_eq!(rules(&journal), [], "{listener:?}");
    }
}

#[test]
fn what_ext_authz_holds_is_in_scope_for_a_filter_before_it_and_for_envoy() {
    let mut request = held(Listener::Ingress, 2_500);
    request.authz = request.upstream.take();
    let mut journal = journal(drain(Scope::Listener(Listener::Ingress)), vec![request]);
    assert_eq!(rules(&journal), [Rule::Early]);
    journal.world.envoys[0].admin = false;
    assert_eq!(rules(&journal), [Rule::Early]);
    journal.world.envoys[0].order = Order::Last;
    assert_eq!(rules(&journal), []);
    journal.world.envoys[0].admin = true;
    assert_eq!(rules(&journal), [Rule::Early]);
}

#[test]
fn of_two_processes_one_that_could_remember_nobody_is_not_judged() {
    let mut journal = journal(drain(Scope::All), vec![held(Listener::Ingress, 2_500)]);
    journal.outages = vec![Outage {
        away: Away::Ended,
        from: at(500),
        until: at(900),
    }];
    assert_eq!(rules(&journal), [Rule::Early], "its state is kept");
    journal.world.state = State::Memory;
    assert_eq!(rules(&journal), []);
    journal.world.envoys.pop();
    assert_eq!(
        rules(&journal),
        [Rule::Early],
        "of one process, every filter tells of all"
    );
}

#[test]
fn a_request_has_come_when_it_came_to_ext_authz() {
    let mut request = held(Listener::Ingress, 2_500);
    request.authz = Some(Span {
        began: at(1_200),
        ended: Some(at(1_980)),
        cut: false,
    });
    request.upstream = request.upstream.map(|span| Span {
        began: at(1_981),
        ..span
    });
    let mut journal = journal(drain(Scope::All), vec![request]);
    assert_eq!(rules(&journal), [Rule::Early]);
    journal.requests[0].authz = None;
    assert_eq!(rules(&journal), [], "it has come with the end");
}

#[test]
fn an_end_after_the_deadline_is_late_unless_the_machine_or_the_control_plane_stood_still() {
    let mut late = drain(Scope::All);
    late.end = Some((at(4_400), Outcome::TimedOut));
    late.exit = Some((at(4_410), Some(3), "timed_out".to_owned()));
    let mut journal = journal(late, Vec::new());
    assert_eq!(rules(&journal), [Rule::Late]);
    journal.stalls = vec![Stall {
        at: at(2_000),
        length: at(200),
    }];
    assert_eq!(rules(&journal), []);
    journal.stalls.clear();
    journal.outages = vec![Outage {
        away: Away::Ended,
        from: at(3_900),
        until: at(4_300),
    }];
    assert_eq!(rules(&journal), []);
    journal.outages = vec![Outage {
        away: Away::Ended,
        from: at(3_000),
        until: at(3_900),
    }];
    assert_eq!(rules(&journal), [Rule::Late], "it was back before the deadline");
    journal.drains[0].end = None;
    assert_eq!(rules(&journal), [Rule::Late], "it has not ended at all");
}

#[test]
fn a_command_line_has_to_say_what_the_drain_says_and_to_return() {
    let mut journal = journal(drain(Scope::All), Vec::new());
    journal.drains[0].exit = Some((at(2_005), Some(3), "timed_out".to_owned()));
    assert_eq!(rules(&journal), [Rule::Said]);
    journal.drains[0].exit = Some((at(9_000), Some(0), "drained".to_owned()));
    assert_eq!(rules(&journal), [Rule::Said]);
    journal.drains[0].exit = None;
    assert_eq!(rules(&journal), [Rule::Said]);
}

#[test]
fn a_request_may_fail_only_with_its_envoy() {
    let mut request = held(Listener::Ingress, 1_500);
    request.answer = Answer::Failed("reset".to_owned());
    let mut journal = journal(drain(Scope::Listener(Listener::Internal)), vec![request]);
    assert_eq!(rules(&journal), [Rule::Lost]);
    let mut end = EnvoyEnd {
        envoy: 1,
        at: at(1_400),
        why: Why::Fault,
    };
    journal.ends = vec![end];
    assert_eq!(rules(&journal), [Rule::Lost], "another Envoy");
    end.envoy = 0;
    journal.ends = vec![end];
    assert_eq!(rules(&journal), []);
}

#[test]
fn an_answer_that_is_lost_because_its_envoy_was_drained_is_undelivered() {
    let mut request = held(Listener::Ingress, 1_900);
    (request.done, request.answer) = (at(2_300), Answer::Failed("cut short".to_owned()));
    let mut journal = journal(drain(Scope::Node("edge-a")), vec![request]);
    journal.ends = vec![EnvoyEnd {
        envoy: 0,
        at: at(2_010),
        why: Why::After(0),
    }];
    assert_eq!(rules(&journal), [Rule::Undelivered]);
    // Its sockets cannot be found.
    journal.world.relay = true;
    journal.world.envoys[0].admin = false;
    assert_eq!(rules(&journal), []);
    journal.world.relay = false;
    journal.requests[0].sent = at(1_990);
    assert_eq!(rules(&journal), [], "sent when the drain had ended");
}

#[test]
fn drained_is_no_word_for_a_drain_whose_envoy_ended_with_requests_nor_cut_for_another() {
    let mut request = held(Listener::Ingress, 2_600);
    request.answer = Answer::Failed("reset".to_owned());
    request.upstream = Some(Span {
        began: at(1_200),
        ended: Some(at(2_600)),
        cut: true,
    });
    let mut cut = drain(Scope::All);
    cut.end = Some((at(2_700), Outcome::Drained));
    cut.earliest_end = cut.end.map(|(at, _)| at);
    cut.exit = Some((at(2_705), Some(0), "drained".to_owned()));
    let mut journal = journal(cut, vec![request]);
    journal.ends = vec![EnvoyEnd {
        envoy: 0,
        at: at(2_590),
        why: Why::Fault,
    }];
    assert_eq!(rules(&journal), [Rule::Cut]);
    journal.drains[0].end = Some((at(2_700), Outcome::Cut));
    journal.drains[0].exit = Some((at(2_705), Some(6), "cut".to_owned()));
    assert_eq!(rules(&journal), []);
    journal.ends.clear();
    journal.requests.clear();
    assert_eq!(rules(&journal), [Rule::Cut]);
}

#[test]
fn nothing_closes_after_a_release_or_a_cancel() {
    let mut released = journal(drain(Scope::All), Vec::new());
    released.probes = vec![Probe {
        envoy: 0,
        listener: Listener::Ingress,
        at: at(5_000),
        answer: Answer::Whole { closing: true },
    }];
    assert_eq!(rules(&released), [Rule::Closing]);
    released.probes[0].answer = Answer::Whole { closing: false };
    assert_eq!(rules(&released), []);

    let mut cancelled = drain(Scope::All);
    cancelled.plan.cancel_at = Some(100);
    cancelled.cancelled = Some(at(1_100));
    cancelled.end = Some((at(1_100), Outcome::Cancelled));
    cancelled.exit = Some((at(1_110), Some(4), "cancelled".to_owned()));
    let mut request = held(Listener::Ingress, 2_500);
    let soon = journal(cancelled.clone(), vec![request.clone()]);
    assert_eq!(rules(&soon), [], "not every filter has heard of it");
    request.sent = at(1_700);
    assert_eq!(rules(&journal(cancelled, vec![request])), [Rule::Closing]);
}

#[test]
fn a_drain_has_to_be_known_after_a_restart_and_to_be_accepted() {
    let mut lost = drain(Scope::All);
    (lost.end, lost.lost) = (None, Some(at(2_000)));
    let mut journal = journal(lost, Vec::new());
    assert_eq!(rules(&journal), [Rule::Forgotten]);
    journal.faults = vec![FaultSeen {
        fault: Fault::DiskFull(1),
        from: at(0),
        until: at(1),
        skipped: None,
    }];
    assert_eq!(rules(&journal), [], "it could not be written down");
    journal.faults.clear();
    journal.drains[0].lost = None;
    journal.drains[0].start = Start::Refused(at(1_010), "no Envoy is attached".to_owned());
    assert_eq!(rules(&journal), [Rule::Refused]);
    journal.drains[0].plan.scope = Scope::Listener(Listener::Plain);
    assert_eq!(rules(&journal), [], "a name that only Envoy knows");
}
