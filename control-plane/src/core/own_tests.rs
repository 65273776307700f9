//! What an Envoy says of itself, beside its filters and without them.

use super::{
    super::{
        admins::{Reading, Requests},
        policy::Evidence,
    },
    evidence::{by, reading},
    *,
};
use crate::core::fleet::StreamId;

const INGRESS: &[(&str, u64)] = &[("ingress", 0)];

/// One worker with `ingress`, and an admin endpoint that has been read.
fn with_admin(says: &[(&str, u64)]) -> World {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, INGRESS);
    world.find_admin("a");
    world.admin_says("a", reading(says));
    world
}

/// With these requests begun, and none in flight.
fn idle(begun: &[(&str, u64)]) -> Result<Reading, String> {
    let listeners = begun.iter().map(|(name, begun)| {
        let requests = Requests {
            in_flight: 0,
            begun: Some(*begun),
        };
        ((*name).to_owned(), requests)
    });
    Ok(Reading {
        listeners: listeners.collect(),
        ..Reading::default()
    })
}

fn asks(effects: &[Effect]) -> usize {
    let ask = |effect: &&Effect| matches!(effect, Effect::AskAdmin { .. });
    effects.iter().filter(ask).count()
}

#[test]
fn evidence_filter_is_refused_where_only_an_envoy_could_tell() {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, INGRESS);
    world.find_admin("b");
    for nodes in [&[][..], &["b"]] {
        let error = world
            .start_with("d", "", nodes, &[], by(Evidence::Filter))
            .unwrap_err();
        assert_eq!(error, StartError::NoFilter("b".to_owned()));
        assert!(!error.to_string().contains('\n'));
    }
    world
        .start_with("d", "", &["a"], &[], by(Evidence::Filter))
        .unwrap();
}

#[test]
fn evidence_filter_takes_an_envoy_that_joins_without_a_filter_as_unknown() {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, INGRESS);
    world.start_with("d", "", &[], &[], by(Evidence::Filter)).unwrap();
    world.find_admin("b");
    world.report(1, INGRESS);
    let drain = world.drain("d");
    assert_eq!(drain.phase(), v1::Phase::Draining);
    assert_eq!(drain.unknown_reporters[0].node, "b");
    world.attach(2, "b", 6, 12, INGRESS);
    world.report(2, INGRESS);
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
}

#[test]
fn a_whole_node_waits_for_what_its_envoy_counts_and_no_filter_does() {
    let mut world = with_admin(&[("ingress", 0), ("internal", 1)]);
    world.start("d", &[]).unwrap();
    let effects = world.report(1, INGRESS);
    assert_eq!(asks(&effects), 1, "as soon as the filter is at zero: {effects:?}");
    world.admin_says("a", reading(&[("ingress", 0), ("internal", 1)]));
    let drain = world.drain("d");
    assert_eq!((drain.phase(), drain.in_flight), (v1::Phase::Draining, 1));
    assert!(drain.warnings.is_empty(), "a request may just have come");
    world.wait_for_calls(50);
    world.admin_says("a", reading(&[("ingress", 0), ("internal", 1)]));
    assert!(
        world.drain("d").warnings[0].contains("no filter counts"),
        "{:?}",
        world.drain("d").warnings
    );
    world.wait_for_calls(50);
    world.admin_says("a", reading(&[("ingress", 0), ("internal", 0)]));
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
    let calls = world.wait_for_calls(200);
    world.report(1, INGRESS);
    assert_eq!(
        (asks(&calls), world.phase("d")),
        (1, v1::Phase::Quiet),
        "it waits for both"
    );
    world.admin_says("a", reading(&[("ingress", 0), ("internal", 0)]));
    let drain = world.drain("d");
    assert_eq!(
        (drain.phase(), drain.evidence()),
        (v1::Phase::Drained, v1::Evidence::Filter)
    );
}

#[test]
fn requests_that_come_and_go_beside_the_filters_restart_the_quiet_period() {
    let mut world = with_admin(&[("ingress", 0), ("internal", 0)]);
    world.start("d", &[]).unwrap();
    world.report(1, INGRESS);
    world.admin_says("a", idle(&[("ingress", 7), ("internal", 3)]));
    world.wait_for_calls(200);
    world.report(1, INGRESS);
    world.admin_says("a", idle(&[("ingress", 7), ("internal", 4)]));
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
    world.wait_for_calls(199);
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
    world.wait_for_calls(1);
    world.report(1, INGRESS);
    world.admin_says("a", idle(&[("ingress", 7), ("internal", 4)]));
    assert_eq!(world.phase("d"), v1::Phase::Drained);
}

#[test]
fn requests_between_two_readings_restart_the_quiet_period() {
    let mut world = with_admin(&[("ingress", 0)]);
    world
        .start_with("d", "", &[], &["ingress"], by(Evidence::Admin))
        .unwrap();
    for begun in [7, 8, 9, 10] {
        world.admin_says("a", idle(&[("ingress", begun)]));
        world.wait_for_calls(199);
    }
    world.admin_says("a", idle(&[("ingress", 10)]));
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
    world.wait_for_calls(1);
    world.admin_says("a", idle(&[("ingress", 10)]));
    assert_eq!(world.phase("d"), v1::Phase::Drained);
}

#[test]
fn an_admin_that_does_not_answer_is_unknown_until_it_does() {
    for listeners in [&[][..], &["ingress"]] {
        let mut world = with_admin(INGRESS);
        world.start("d", listeners).unwrap();
        world.report(1, INGRESS);
        world.admin_says("a", Err("did not answer within 1s".to_owned()));
        world.wait_for_calls(1000);
        world.report(1, INGRESS);
        let drain = world.drain("d");
        assert_eq!(
            (drain.phase(), drain.unknown_reporters.len()),
            (v1::Phase::Draining, 1),
            "{drain:?}"
        );
        assert!(drain.warnings[0].contains("did not answer within 1s"));
        world.admin_says("a", reading(INGRESS));
        world.wait_for_calls(200);
        world.report(1, INGRESS);
        world.admin_says("a", reading(INGRESS));
        assert_eq!(world.phase("d"), v1::Phase::Drained);
    }
}

#[test]
fn a_listener_waits_for_what_its_envoy_counts_and_its_filter_does_not() {
    let mut world = with_admin(INGRESS);
    world.start("d", &["ingress"]).unwrap();
    world.report(1, INGRESS);
    for _ in 0..2 {
        world.admin_says("a", reading(&[("ingress", 1)]));
        world.wait_for_calls(50);
    }
    let drain = world.drain("d");
    assert_eq!((drain.phase(), drain.in_flight), (v1::Phase::Draining, 1));
    assert!(
        drain.warnings[0].contains("have to stand first in http_filters"),
        "{drain:?}"
    );
    world.admin_says("a", reading(INGRESS));
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
}

#[test]
fn an_endpoint_that_has_not_been_reached_is_unknown_until_it_is() {
    let mut world = World::new();
    world.core.expect_endpoints([ADMIN.to_owned()]);
    world.attach(1, "a", 5, 11, INGRESS);
    world.start("d", &[]).unwrap();
    world.report(1, INGRESS);
    world.happen(Event::AdminHeard {
        address: ADMIN.to_owned(),
        result: Err("connection refused".to_owned()),
    });
    world.wait_for_calls(1000);
    world.report(1, INGRESS);
    let drain = world.drain("d");
    assert_eq!(
        (drain.phase(), drain.unknown_reporters.len()),
        (v1::Phase::Draining, 1),
        "{drain:?}"
    );
    assert_eq!(
        drain.unknown_reporters[0].reason,
        "the admin endpoint unix:/a.sock does not answer: connection refused"
    );
    world.find_admin("a");
    world.admin_says("a", reading(&[("ingress", 0), ("other", 1)]));
    assert_eq!(world.drain("d").in_flight, 1);
    world.wait_for_calls(50);
    world.admin_says("a", reading(&[("ingress", 0), ("other", 0)]));
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
}

#[test]
fn an_endpoint_is_waited_for_by_drains_that_it_may_concern_alone() {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, INGRESS);
    world.attach(2, "b", 6, 12, INGRESS);
    world
        .core
        .expect_endpoints([ADMIN.to_owned(), "unix:/other".to_owned()]);
    world.find_admin("a");
    world
        .start_with("a", "", &["a"], &[], by(Evidence::Auto))
        .unwrap();
    world
        .start_with("b", "", &["b"], &[], by(Evidence::Auto))
        .unwrap();
    world
        .start_with("filter", "", &[], &[], by(Evidence::Filter))
        .unwrap();
    let waits = |id| {
        let unknown = world.drain(id).unknown_reporters;
        unknown
            .iter()
            .any(|unknown| unknown.reason.contains("unix:/other"))
    };
    assert_eq!((waits("a"), waits("b"), waits("filter")), (false, true, false));
}

#[test]
fn an_endpoint_whose_envoy_has_ended_takes_one_look() {
    let mut world = with_admin(INGRESS);
    world.happen(Event::Detached { stream: StreamId(1) });
    world.happen(Event::ProcessEnded { process: 5 });
    world.attach(2, "b", 6, 12, INGRESS);
    world.start("d", &[]).unwrap();
    world.report(2, INGRESS);
    assert_eq!(
        world.phase("d"),
        v1::Phase::Draining,
        "another may have taken its place"
    );
    world.happen(Event::AdminHeard {
        address: ADMIN.to_owned(),
        result: Err("connection refused".to_owned()),
    });
    assert_eq!(world.phase("d"), v1::Phase::Quiet, "{:?}", world.drain("d"));
}

#[test]
fn an_envoy_whose_reporters_have_said_goodbye_and_that_does_not_answer_is_over() {
    let mut world = with_admin(INGRESS);
    world.start("d", &[]).unwrap();
    let goodbye = v1::FilterReport {
        goodbye: true,
        ..report(INGRESS, 0)
    };
    world.report_that(1, goodbye);
    assert_eq!(world.phase("d"), v1::Phase::Draining, "it has not said so itself");
    world.wait_for_calls(250);
    world.admin_says("a", Err("connection refused".to_owned()));
    assert_eq!(world.phase("d"), v1::Phase::Quiet, "{:?}", world.drain("d"));
}

#[test]
fn an_admin_that_is_lost_while_it_counts_what_no_filter_does_is_unknown() {
    let mut world = with_admin(INGRESS);
    world.start("d", &[]).unwrap();
    world.report(1, INGRESS);
    world.admin_says("a", reading(&[("ingress", 0), ("internal", 1)]));
    world.wait_for_calls(50);
    world.admin_says("a", Err("refused".to_owned()));
    for _ in 0..5 {
        world.wait_for_calls(500);
        world.report(1, INGRESS);
        world.admin_says("a", Err("refused".to_owned()));
    }
    let drain = world.drain("d");
    assert_eq!(drain.phase(), v1::Phase::Draining);
    assert_eq!(drain.unknown_reporters.len(), 1, "{drain:?}");
    let record = world
        .core
        .find("d")
        .map(|drain| drain.record(world.drain("d")))
        .unwrap();
    assert_eq!(record.own_nodes, ["a"], "the next control plane waits for it too");
}

#[test]
fn a_listener_without_the_filter_drains_by_the_admin_alone() {
    let mut world = with_admin(&[("ingress", 0), ("internal", 2)]);
    let error = world.start("d", &["other"]).unwrap_err().to_string();
    assert!(error.contains("known: ingress, internal"), "{error}");
    let error = world
        .start_with("d", "", &[], &["internal"], by(Evidence::Filter))
        .unwrap_err();
    assert_eq!(error, StartError::NoFilter("a".to_owned()));
    world.start("d", &["internal"]).unwrap();
    assert!(world.told[&1].directives.is_empty());
    world.wait_for_calls(250);
    world.admin_says("a", reading(&[("ingress", 9), ("internal", 2)]));
    let drain = world.drain("d");
    assert_eq!(
        (drain.in_flight, drain.evidence(), drain.lever()),
        (2, v1::Evidence::Admin, v1::Lever::Unspecified)
    );
    world.wait_for_calls(50);
    world.admin_says("a", reading(&[("ingress", 9), ("internal", 0)]));
    world.wait_for_calls(200);
    world.admin_says("a", reading(&[("ingress", 9), ("internal", 0)]));
    assert_eq!(world.phase("d"), v1::Phase::Drained);
}

#[test]
fn a_listener_with_the_filter_and_one_without_drain_together() {
    let mut world = with_admin(&[("ingress", 0), ("internal", 0)]);
    world.start("d", &["ingress", "internal"]).unwrap();
    world.report(1, INGRESS);
    world.admin_says("a", reading(&[("ingress", 0), ("internal", 1)]));
    world.wait_for_calls(250);
    world.report(1, INGRESS);
    assert_eq!(
        (world.phase("d"), world.drain("d").in_flight),
        (v1::Phase::Draining, 1)
    );
}

#[test]
fn a_stat_prefix_of_another_name_is_told_with_what_to_do() {
    let mut world = with_admin(&[("ingress_http", 0)]);
    world
        .start_with("d", "", &[], &["ingress"], by(Evidence::Admin))
        .unwrap();
    world.admin_says("a", reading(&[("ingress_http", 0)]));
    let warnings = world.drain("d").warnings;
    let [warning] = &warnings[..] else {
        panic!("{warnings:?}")
    };
    assert!(
        warning.contains("of a has no stat_prefix \"ingress\"") && warning.contains("(it has: ingress_http)"),
        "{warning}"
    );
}

#[test]
fn an_admin_that_has_not_answered_since_the_restart_is_not_zero() {
    let mut first = World::new();
    first.find_admin("a");
    first.start("d", &[]).unwrap();
    let mut second = World::after(vec![first.stored.last().cloned().unwrap()]);
    second.wait(1000);
    second.find_admin("a");
    assert_eq!(second.drain("d").unknown_reporters.len(), 1);
    second.wait(1000);
    assert_eq!(second.phase("d"), v1::Phase::Draining);

    let mut first = two_workers();
    first.find_admin("a");
    first.start("d", &[]).unwrap();
    let mut second = World::after(vec![first.stored.last().cloned().unwrap()]);
    second.find_admin("a");
    assert_eq!(second.phase("d"), v1::Phase::Draining);
    assert_eq!(second.drain("d").unknown_reporters.len(), 2);
}

#[test]
fn a_reporter_that_has_answered_nothing_since_the_restart_is_not_known() {
    let mut first = World::new();
    first.attach(1, "a", 5, 11, INGRESS);
    first.start("d", &["ingress"]).unwrap();
    let mut second = World::after(vec![first.stored.last().cloned().unwrap()]);
    second.attach(1, "a", 5, 11, INGRESS);
    assert_eq!(second.phase("d"), v1::Phase::Draining);
    second.report(1, INGRESS);
    assert_eq!(second.phase("d"), v1::Phase::Quiet);
}

#[test]
fn every_change_of_evidence_is_told_and_only_what_is_true() {
    let mut world = with_admin(INGRESS);
    world.start("d", &[]).unwrap();
    let mut stream = 1;
    for _ in 0..2 {
        world.wait_for_calls(10);
        world.happen(Event::Detached {
            stream: StreamId(stream),
        });
        world.wait_for_calls(250);
        world.wait_for_calls(250);
        world.admin_says("a", reading(&[("ingress", 1)]));
        stream += 1;
        world.attach(stream, "a", 5, 11, INGRESS);
        world.report(stream, &[("ingress", 1)]);
    }
    let warnings = world.drain("d").warnings;
    let count = |text: &str| warnings.iter().filter(|warning| warning.contains(text)).count();
    assert_eq!(
        (count("going by Envoy's own count"), count("known again")),
        (2, 2),
        "{warnings:?}"
    );
    for _ in 0..20 {
        world.happen(Event::Detached {
            stream: StreamId(stream),
        });
        world.wait_for_calls(250);
        world.admin_says("a", reading(&[("ingress", 1)]));
        stream += 1;
        world.attach(stream, "a", 5, 11, INGRESS);
        world.report(stream, &[("ingress", 1)]);
    }
    assert!(
        world.drain("d").warnings.len() < 20,
        "{:?}",
        world.drain("d").warnings
    );
}

#[test]
fn evidence_of_an_envoy_that_is_lost_while_filters_are_unknown_is_told_as_that() {
    let mut world = two_workers();
    world.find_admin("a");
    world.start("d", &["ingress"]).unwrap();
    world.report(1, INGRESS);
    world.happen(Event::Detached { stream: StreamId(2) });
    world.wait_for_calls(250);
    world.admin_says("a", reading(&[("ingress", 1)]));
    world.wait_for_calls(50);
    world.admin_says("a", Err("refused".to_owned()));
    let warnings = world.drain("d").warnings;
    assert!(
        warnings.iter().any(|text| text.contains("own count is lost")),
        "{warnings:?}"
    );
    assert!(
        !warnings.iter().any(|text| text.contains("known again")),
        "{warnings:?}"
    );
}

#[test]
fn counts_that_cannot_be_do_not_overflow() {
    let mut world = two_workers();
    world.start("d", &[]).unwrap();
    let most = u64::MAX;
    world.report(1, &[("ingress", most), ("internal", most)]);
    world.report(2, &[("ingress", 3), ("internal", most)]);
    world.core.nodes(None, world.now);
    assert!(world.drain("d").in_flight > 0);
    world.report(1, &[("ingress", 0), ("internal", 0)]);
    world.report(2, &[("ingress", 3), ("internal", 0)]);
    assert_eq!(world.drain("d").in_flight, 3);
    world.find_admin("a");
    world.happen(Event::Detached { stream: StreamId(2) });
    world.admin_says("a", reading(&[("ingress", most), ("internal", most)]));
    assert!(world.drain("d").in_flight > 0);
}

#[test]
fn a_tcp_listener_drains_by_name_and_its_envoy_needs_no_requests_for_it() {
    let mut world = with_admin(INGRESS);
    let with_sessions = || {
        reading(INGRESS).map(|reading| Reading {
            sessions: Some(["db".to_owned()].into()),
            ..reading
        })
    };
    let error = world.start("d", &["db"]).unwrap_err().to_string();
    assert!(error.contains("known: ingress"), "{error}");
    world.admin_says("a", with_sessions());
    // A reading that was not asked for them leaves them as they are.
    world.admin_says("a", reading(INGRESS));
    let error = world.start("d", &["other"]).unwrap_err().to_string();
    assert!(error.contains("known: db, ingress"), "{error}");
    world.start("d", &["db"]).unwrap();
    assert!(world.told[&1].directives.is_empty(), "no filter has it");
    world.wait_for_calls(250);
    world.admin_says("a", reading(INGRESS));
    world.wait_for_calls(200);
    world.admin_says("a", reading(INGRESS));
    let drain = world.drain("d");
    assert_eq!(drain.phase(), v1::Phase::Drained);
    let about_prefix = |warning: &String| warning.contains("stat_prefix");
    assert!(!drain.warnings.iter().any(about_prefix), "{drain:?}");
}

/// Two Envoys with one id, each with an admin endpoint.
fn twins() -> World {
    let mut world = World::new();
    world.core.expect_endpoints([ADMIN.to_owned(), OTHER.to_owned()]);
    world.attach(1, "a", 5, 11, INGRESS);
    world.attach(2, "a", 6, 12, INGRESS);
    world.find_admin("a");
    let started = world.now.wall;
    world.happen(Event::AdminFound {
        address: OTHER.to_owned(),
        node: "a".to_owned(),
        started,
    });
    world
}

const OTHER: &str = "unix:/other";
const OTHER_KEY: &str = "a (unix:/other)";

#[test]
fn of_two_envoys_with_one_id_each_is_asked_and_told_to_close() {
    let mut world = twins();
    let (_, effects) = world
        .core
        .start(
            StartRequest {
                id: "d".to_owned(),
                ..StartRequest::default()
            },
            world.now,
        )
        .unwrap();
    let closes = |key: &str| {
        let lever = Effect::PullLever {
            node: key.to_owned(),
            close: true,
        };
        effects.contains(&lever)
    };
    assert!(closes("a") && closes(OTHER_KEY), "{effects:?}");
    world.take(effects);
    for _ in 0..4 {
        for stream in [1, 2] {
            world.report(stream, INGRESS);
        }
        world.wait_for_calls(250);
        world.admin_says("a", reading(INGRESS));
        world.admin_says(OTHER_KEY, reading(&[("ingress", 0), ("tls", 1)]));
    }
    let drain = world.drain("d");
    assert_eq!(
        (drain.phase(), drain.in_flight),
        (v1::Phase::Draining, 1),
        "{drain:?}"
    );
    world.wait_for_calls(50);
    world.admin_says(OTHER_KEY, reading(&[("ingress", 0), ("tls", 0)]));
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
}

#[test]
fn of_two_envoys_with_one_id_the_silent_endpoint_is_that_of_the_one_that_ended() {
    for ended_first in [true, false] {
        let mut world = twins();
        world.start("d", &[]).unwrap();
        let end = |world: &mut World| {
            world.happen(Event::Detached { stream: StreamId(2) });
            world.happen(Event::ProcessEnded { process: 6 });
        };
        let silent = |world: &mut World| {
            world.happen(Event::AdminHeard {
                address: OTHER.to_owned(),
                result: Err("refused".to_owned()),
            });
        };
        if ended_first {
            end(&mut world);
            silent(&mut world);
        } else {
            silent(&mut world);
            end(&mut world);
        }
        world.report(1, INGRESS);
        world.wait_for_calls(250);
        world.admin_says("a", reading(INGRESS));
        assert_eq!(world.phase("d"), v1::Phase::Quiet, "{:?}", world.drain("d"));
    }
}

#[test]
fn an_envoy_that_was_seen_to_end_leaves_no_lever_to_undo() {
    let mut world = World::new();
    world.core.expect_endpoints([ADMIN.to_owned()]);
    world.attach(1, "a", 5, 11, INGRESS);
    world.find_admin("a");
    world.start("d", &[]).unwrap();
    assert_eq!(world.core.levers_to_undo(|_| false), ["a"]);
    world.happen(Event::Detached { stream: StreamId(1) });
    let effects = world.happen(Event::ProcessEnded { process: 5 });
    assert!(world.core.levers_to_undo(|_| false).is_empty());
    let kept = Effect::KeepLever {
        node: "a".to_owned(),
        pulled: false,
    };
    assert!(effects.contains(&kept), "{effects:?}");
}
