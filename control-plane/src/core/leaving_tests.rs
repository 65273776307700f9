//! A VM that says goodbye is done, and so is a process that was seen to end; whoever just vanishes is unknown.

use super::*;
use crate::core::fleet::StreamId;

fn goodbye(world: &mut World, stream: u64, listeners: &[(&str, u64)]) {
    let report = v1::FilterReport {
        goodbye: true,
        ..report(listeners, 0)
    };
    let stream = StreamId(stream);
    world.happen(Event::Reported { stream, report });
    world.happen(Event::Detached { stream });
}

fn drained(world: &mut World, id: &str) {
    world.wait(200);
    let drain = world.drain(id);
    assert_eq!(drain.phase(), v1::Phase::Drained, "{drain:?}");
    assert!(drain.unknown_reporters.is_empty());
}

#[test]
fn a_node_that_leaves_cleanly_is_done_and_what_it_counted_is_kept() {
    let mut world = two_workers();
    world.start("d", &["ingress"]).unwrap();
    world.report(1, &[("ingress", 2)]);
    world.report(2, &[("ingress", 0)]);
    world.report(1, &[("ingress", 0)]);
    goodbye(&mut world, 1, &[("ingress", 0)]);
    world.wait(200);
    assert_eq!(world.phase("d"), v1::Phase::Quiet, "the other has yet to confirm");
    goodbye(&mut world, 2, &[]);
    drained(&mut world, "d");
    assert_eq!(world.drain("d").listeners[0].requests_during_drain, 2);
    assert!(world.core.nodes(None, world.now).is_empty());
}

#[test]
fn a_goodbye_answers_whoever_waits_for_the_vm() {
    let mut world = two_workers();
    let (ask, effects) = world.core.query(world.now);
    world.take(effects);
    world.report(1, &[]);
    let report = v1::FilterReport {
        goodbye: true,
        ..Default::default()
    };
    let stream = StreamId(2);
    let effects = world.happen(Event::Reported { stream, report });
    assert!(effects.contains(&Effect::Answered(ask)), "{effects:?}");
}

#[test]
fn a_goodbye_with_requests_in_flight_is_none() {
    let mut world = two_workers();
    world.start("d", &["ingress"]).unwrap();
    world.report(2, &[("ingress", 0)]);
    goodbye(&mut world, 1, &[("ingress", 1)]);
    world.wait(1000);
    let unknown = world.drain("d").unknown_reporters;
    assert_eq!(unknown.len(), 1);
    assert_eq!(unknown[0].reason, "stream closed 1s ago");
    world.wait(29_000);
    assert_eq!(world.phase("d"), v1::Phase::TimedOut);
}

#[test]
fn a_process_that_was_seen_to_end_is_done_whatever_its_streams_say() {
    for detached_first in [true, false] {
        let mut world = two_workers();
        world.attach(3, "b", 6, 13, &[("ingress", 0)]);
        world.start("d", &["ingress"]).unwrap();
        world.report(1, &[("ingress", 3)]);
        world.report(3, &[("ingress", 0)]);
        let detach = |world: &mut World| {
            for stream in [1, 2] {
                world.happen(Event::Detached {
                    stream: StreamId(stream),
                });
            }
        };
        if detached_first {
            detach(&mut world);
            assert_eq!(world.drain("d").unknown_reporters.len(), 2);
        }
        world.happen(Event::ProcessEnded { process: 5 });
        if !detached_first {
            assert_eq!(
                world.drain("d").in_flight,
                3,
                "its last words may be on their way"
            );
            detach(&mut world);
        }
        world.report(1, &[("ingress", 9)]);
        let drain = world.drain("d");
        assert_eq!(
            (drain.in_flight, drain.phase()),
            (0, v1::Phase::Quiet),
            "{drain:?}"
        );
        assert!(
            drain.warnings.iter().any(|text| text.contains("cut: 3")),
            "{drain:?}"
        );
        world.wait(200);
        assert_eq!(
            world.phase("d"),
            v1::Phase::Quiet,
            "the other node has yet to confirm"
        );
        world.report(3, &[("ingress", 0)]);
        let drain = world.drain("d");
        assert_eq!((drain.phase(), drain.cut), (v1::Phase::Cut, 3), "{drain:?}");
    }
}

#[test]
fn a_process_that_ended_takes_its_admin_endpoint_with_it() {
    let mut world = two_workers();
    let started = world.now.wall - Duration::from_secs(60);
    let node = "a".to_owned();
    world.happen(Event::AdminFound {
        address: ADMIN.to_owned(),
        node,
        started,
    });
    world.start("d", &[]).unwrap();
    for stream in [1, 2] {
        world.report(stream, &[("ingress", 0), ("internal", 0)]);
    }
    world.happen(Event::ProcessEnded { process: 5 });
    world.wait(500);
    drained(&mut world, "d");
    assert!(world.drain("d").warnings.is_empty());
}

#[test]
fn a_process_that_only_an_earlier_control_plane_knew_can_end_too() {
    let mut world = two_workers();
    world.start("d", &["ingress"]).unwrap();
    let record = world.stored.pop().unwrap();
    let mut world = World::after(vec![record]);
    world.wait(500);
    assert_eq!(world.drain("d").unknown_reporters.len(), 2);
    world.happen(Event::ProcessEnded { process: 5 });
    world.wait(200);
    let drain = world.drain("d");
    assert_eq!(
        (drain.phase(), drain.cut),
        (v1::Phase::Cut, 0),
        "nobody knows what it had: {drain:?}"
    );
    assert!(
        drain.warnings.iter().any(|text| text.contains("may have cut")),
        "{drain:?}"
    );
}

#[test]
fn a_drain_that_has_ended_lets_go_of_a_process_that_has() {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, &[("ingress", 0)]);
    let overrides = PolicyOverrides {
        timeout: Some(Duration::ZERO),
        ..Default::default()
    };
    world.start_with("d", "", &[], &["ingress"], overrides).unwrap();
    assert!(world.drain("d").holding);
    world.happen(Event::ProcessEnded { process: 5 });
    world.wait(500);
    assert!(!world.drain("d").holding);
}

/// A report of one VM in which Envoy cut requests.
fn with_cut(in_flight: u64, cut: u64) -> v1::FilterReport {
    let mut report = report(&[("ingress", in_flight)], 0);
    report.listeners[0].cut = cut;
    report
}

#[test]
fn an_envoy_that_cuts_its_requests_when_it_ends_does_not_end_a_drain_as_drained() {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, &[("ingress", 3)]);
    for _ in 0..2 {
        world.report_that(1, with_cut(3, 7));
    }
    world.start("d", &["ingress"]).unwrap();
    world.report_that(1, with_cut(3, 7));
    // As Envoy goes, its streams end one by one before the VM has its last words.
    world.report_that(1, with_cut(0, 10));
    let last = v1::FilterReport {
        goodbye: true,
        ..with_cut(0, 10)
    };
    world.report_that(1, last);
    world.wait(200);
    let drain = world.drain("d");
    assert_eq!((drain.phase(), drain.cut), (v1::Phase::Cut, 3), "{drain:?}");
    let report = world.core.report("d", world.now).unwrap();
    assert_eq!(
        (report.requests_finished, report.saved),
        (0, None),
        "none finished"
    );
}

#[test]
fn the_last_report_of_a_process_that_ended_is_heard() {
    let mut world = two_workers();
    world.start("d", &["ingress"]).unwrap();
    world.report(2, &[("ingress", 0)]);
    world.report(1, &[("ingress", 1)]);
    world.happen(Event::ProcessEnded { process: 5 });
    // It was written before the end, and is read after it.
    world.report(1, &[("ingress", 0)]);
    for stream in [1, 2] {
        world.happen(Event::Detached {
            stream: StreamId(stream),
        });
    }
    drained(&mut world, "d");
}

#[test]
fn what_only_its_envoy_counted_is_cut_with_it() {
    let mut world = two_workers();
    world.find_admin("a");
    world.start("d", &[]).unwrap();
    world.report(1, &[("ingress", 0)]);
    world.report(2, &[("ingress", 1)]);
    world.admin_says("a", evidence::reading(&[("ingress", 1), ("tls", 4)]));
    for stream in [1, 2] {
        world.happen(Event::Detached {
            stream: StreamId(stream),
        });
    }
    world.happen(Event::ProcessEnded { process: 5 });
    world.wait(200);
    let drain = world.drain("d");
    assert_eq!((drain.phase(), drain.cut), (v1::Phase::Cut, 5), "{drain:?}");
}

#[test]
fn an_operator_forgets_whoever_is_away_and_nobody_else() {
    let mut world = two_workers();
    let forget = |world: &mut World, node: &str| {
        let (reporters, effects) = world.core.forget(node, world.now)?;
        world.take(effects);
        Ok::<usize, crate::core::leaving::ForgetError>(reporters)
    };
    let error = forget(&mut world, "b").unwrap_err();
    assert_eq!(error.to_string(), "no node \"b\" is known");
    let error = forget(&mut world, "a").unwrap_err();
    assert!(error.to_string().contains("is attached"), "{error}");
    world.start("d", &["ingress"]).unwrap();
    world.report(1, &[("ingress", 2)]);
    world.report(2, &[("ingress", 0)]);
    world.happen(Event::Detached { stream: StreamId(1) });
    world.wait(2000);
    assert_eq!(
        world.drain("d").unknown_reporters.len(),
        1 + 1,
        "one is gone, one is silent"
    );
    assert_eq!(forget(&mut world, "a"), Ok(1));
    world.report(2, &[("ingress", 0)]);
    world.wait(200);
    world.report(2, &[("ingress", 0)]);
    let drain = world.drain("d");
    assert_eq!((drain.phase(), drain.cut), (v1::Phase::Cut, 2));
}

#[test]
fn a_node_that_was_cut_off_long_ago_is_unknown_to_every_new_drain() {
    let mut world = two_workers();
    world.attach(3, "b", 6, 13, &[("ingress", 5)]);
    world.happen(Event::Detached { stream: StreamId(3) });
    world.wait(3_600_000);
    world.start("d", &["ingress"]).unwrap();
    for stream in [1, 2] {
        world.report(stream, &[("ingress", 0)]);
    }
    let drain = world.drain("d");
    assert_eq!(drain.phase(), v1::Phase::Draining);
    assert_eq!(drain.unknown_reporters.len(), 1);
    assert_eq!(
        drain.unknown_reporters[0].reason,
        "stream closed 1h ago; if that Envoy is gone: ebb forget b"
    );
}

#[test]
fn of_two_envoys_with_one_id_neither_stands_for_the_other() {
    let mut world = two_workers();
    world.attach(3, "a", 6, 13, &[("ingress", 5)]);
    world.find_admin("a");
    world.happen(Event::Detached { stream: StreamId(3) });
    world.wait(60_000);
    world.start("d", &["ingress"]).unwrap();
    for _ in 0..4 {
        for stream in [1, 2] {
            world.report(stream, &[("ingress", 0)]);
        }
        world.wait(250);
        world.admin_says("a", evidence::reading(&[("ingress", 0)]));
    }
    let drain = world.drain("d");
    assert_eq!(
        (drain.phase(), drain.unknown_reporters.len()),
        (v1::Phase::Draining, 1),
        "{drain:?}"
    );
}

#[test]
fn what_is_cut_by_a_vm_that_has_not_heard_of_the_drain_is_told_too() {
    let mut world = two_workers();
    world.start("d", &["ingress"]).unwrap();
    world.report(2, &[("ingress", 0)]);
    // It goes before the drain has come to it, and answers nothing.
    let stream = StreamId(1);
    let last = v1::FilterReport {
        goodbye: true,
        ..with_cut(0, 2)
    };
    world.happen(Event::Reported { stream, report: last });
    world.wait(200);
    world.report(2, &[("ingress", 0)]);
    let drain = world.drain("d");
    assert_eq!((drain.phase(), drain.cut), (v1::Phase::Cut, 2), "{drain:?}");
}

#[test]
fn what_is_cut_before_the_first_answer_is_heard_is_told_too() {
    let mut world = two_workers();
    world.report_that(1, with_cut(1, 5));
    world.start("d", &["ingress"]).unwrap();
    world.report(2, &[("ingress", 0)]);
    // Its first answer, with one in flight, was followed by this one before it was read.
    world.report_that(1, with_cut(0, 6));
    let last = v1::FilterReport {
        goodbye: true,
        ..with_cut(0, 6)
    };
    world.report_that(1, last);
    world.wait(200);
    world.report(2, &[("ingress", 0)]);
    let drain = world.drain("d");
    assert_eq!((drain.phase(), drain.cut), (v1::Phase::Cut, 1), "{drain:?}");
}
