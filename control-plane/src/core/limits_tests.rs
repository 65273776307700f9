//! Filters that want to have more remembered than is remembered of anybody.

use prost::Message as _;

use super::*;
use crate::core::fleet::limits::{MOST_NAMES, MOST_REPORTERS_OF_NODE};

/// Names that no other round has, each with a request that has ended since it was first heard of.
fn fresh(round: usize, count: usize) -> v1::FilterReport {
    let counts = |place: usize| v1::ListenerCounts {
        name: format!("listener-{round}-{place:060}"),
        started: 7,
        ..Default::default()
    };
    v1::FilterReport {
        listeners: (0..count).map(counts).collect(),
        ..Default::default()
    }
}

fn attach(world: &mut World, stream: u64, node: &str, epoch: u64, report: v1::FilterReport) -> Vec<Effect> {
    let hello = v1::FilterHello {
        node_id: node.to_owned(),
        process: 1,
        epoch,
        ..Default::default()
    };
    world.happen(Event::Attached {
        stream: StreamId(stream),
        hello,
        peer: None,
        report,
    })
}

fn refused(effects: &[Effect]) -> Option<&str> {
    effects.iter().find_map(|effect| match effect {
        Effect::Refuse { why, .. } => Some(why.as_str()),
        _ => None,
    })
}

#[test]
fn who_names_ever_new_listeners_is_refused_and_unknown_until_it_goes_back_to_what_it_had() {
    let mut world = World::new();
    attach(&mut world, 1, "a", 11, fresh(0, MOST_NAMES));
    world
        .start_with("d", "", &["a"], &[], PolicyOverrides::default())
        .unwrap();
    world.report_that(1, fresh(0, MOST_NAMES));
    assert_eq!(refused(&world.report_that(1, fresh(1, MOST_NAMES))), None);
    let effects = world.report_that(1, fresh(2, 1));
    let why = refused(&effects).expect("refused");
    assert!(
        why.starts_with("node \"a\": listeners: more than 8192 different names"),
        "{why}"
    );
    let drain = world.drain("d");
    assert_eq!(drain.unknown_reporters.len(), 1, "{:?}", drain.unknown_reporters);
    let reason = &drain.unknown_reporters[0].reason;
    assert!(
        reason.starts_with("refused 0s ago: listeners: more than"),
        "{reason}"
    );
    assert!(refused(&attach(&mut world, 2, "a", 11, fresh(3, 1))).is_some());
    assert_eq!(refused(&attach(&mut world, 3, "a", 11, fresh(0, 2))), None);
    world.report_that(3, fresh(0, 2));
    assert_eq!(world.drain("d").unknown_reporters, []);
    // It has all the time in the world to be given new listeners.
    world.wait(601_000);
    assert_eq!(
        refused(&attach(&mut world, 4, "a", 11, fresh(4, MOST_NAMES))),
        None
    );
}

#[test]
fn a_stream_that_the_server_refuses_leaves_an_unknown_reporter_and_says_why() {
    let mut world = two_workers();
    let effects = world.happen(Event::Refused {
        stream: StreamId(1),
        why: "listeners: 5000 in one report, at most 4096".to_owned(),
    });
    assert_eq!(
        refused(&effects),
        Some("node \"a\": listeners: 5000 in one report, at most 4096")
    );
    let nodes = world.core.nodes(None, world.now);
    let reasons: Vec<&str> = nodes[0].reporters.iter().map(|one| one.reason.as_str()).collect();
    assert_eq!(
        reasons,
        ["refused 0s ago: listeners: 5000 in one report, at most 4096", ""]
    );
    world.attach(3, "a", 5, 11, &[("ingress", 0)]);
    assert_eq!(world.core.nodes(None, world.now)[0].reporters[0].reason, "");
}

#[test]
fn a_node_has_so_many_reporters_and_no_more() {
    let mut world = World::new();
    for epoch in 1..=MOST_REPORTERS_OF_NODE as u64 {
        assert_eq!(refused(&attach(&mut world, epoch, "a", epoch, fresh(0, 1))), None);
    }
    let effects = attach(&mut world, 5000, "a", 5000, fresh(0, 1));
    assert_eq!(
        refused(&effects),
        Some("node \"a\": too many reporters of its node, at most 4096")
    );
    assert_eq!(refused(&attach(&mut world, 5001, "b", 5001, fresh(0, 1))), None);
    assert_eq!(
        refused(&attach(&mut world, 5002, "a", 1, fresh(0, 1))),
        None,
        "it is known"
    );
}

/// More than that many names have come and gone than are remembered.
#[test]
fn a_drain_remembers_a_bounded_number_of_listeners_and_shows_those_with_requests_first() {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, &[("ingress", 0)]);
    world
        .start_with("d", "", &["a"], &[], PolicyOverrides::default())
        .unwrap();
    world.report(1, &[("ingress", 0)]);
    for round in 0..20 {
        let mut report = fresh(round, 1000);
        for counts in &mut report.listeners {
            counts.in_flight = 1;
        }
        // Each a VM of its own, for the sake of names over time.
        let epoch = 100 + round as u64;
        attach(&mut world, epoch, "a", epoch, report.clone());
        world.report_that(epoch, report);
        world.report_that(epoch, v1::FilterReport::default());
        let goodbye = v1::FilterReport {
            goodbye: true,
            ..Default::default()
        };
        world.report_that(epoch, goodbye);
    }
    world.report(1, &[("zzz", 3), ("ingress", 0)]);
    let drain = world.drain("d");
    let all = drain.listeners.len() + drain.listeners_omitted as usize;
    assert!(all < 4096 + 10, "{all} rows are remembered");
    assert!(drain.listeners_omitted > 0, "{all}");
    assert!(drain.encoded_len() < 512 << 10, "{}", drain.encoded_len());
    let busy = drain
        .listeners
        .iter()
        .find(|row| row.name == "zzz")
        .expect("it is busy");
    assert_eq!((busy.in_flight, drain.in_flight), (3, 3));
    assert!(drain.listeners.is_sorted_by(|a, b| a.name <= b.name));
}

#[test]
fn a_request_that_comes_and_goes_on_a_listener_that_is_new_starts_the_quiet_period_over() {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, &[("ingress", 0)]);
    world
        .start_with("d", "", &["a"], &[], PolicyOverrides::default())
        .unwrap();
    world.report(1, &[("ingress", 0)]);
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
    world.wait(150);
    world.report(1, &[("ingress", 0), ("late", 0)]);
    world.wait(150);
    world.report(1, &[("ingress", 0), ("late", 0)]);
    assert_ne!(world.phase("d"), v1::Phase::Drained);
    world.wait(100);
    world.report(1, &[("ingress", 0), ("late", 0)]);
    assert_eq!(world.phase("d"), v1::Phase::Drained);
}

#[test]
fn lists_come_in_pages() {
    let mut world = two_workers();
    for id in ["a", "b", "c"] {
        world.start(id, &["ingress"]).unwrap();
    }
    let ids = |drains: Vec<v1::Drain>| drains.into_iter().map(|drain| drain.id).collect::<Vec<_>>();
    let (first, next) = world.core.drains_after(None, 2, usize::MAX, world.now);
    assert_eq!(ids(first), ["a", "b"]);
    let (second, end) = world.core.drains_after(next, 2, usize::MAX, world.now);
    assert_eq!((ids(second), end), (vec!["c".to_owned()], None));
    let (one, next) = world.core.drains_after(None, 100, 1, world.now);
    assert_eq!(
        (ids(one), next.is_some()),
        (vec!["a".to_owned()], true),
        "one always fits"
    );
    world.attach(3, "b", 6, 13, &[("ingress", 0)]);
    let after = |id| {
        world
            .core
            .snapshot(None, id, world.now)
            .nodes()
            .map(|node| node.id)
            .collect::<Vec<_>>()
    };
    assert_eq!(after(None), ["a", "b"]);
    assert_eq!(after(Some("a")), ["b"]);
    assert_eq!(after(Some("b")), Vec::<String>::new());
}

#[test]
fn what_was_kept_without_bounds_is_shown_within_them() {
    let mut world = two_workers();
    world.start("d", &["ingress"]).unwrap();
    world
        .core
        .cancel("d", world.now)
        .map(|effects| world.take(effects));
    let mut record = world.stored.pop().expect("it is stored");
    let drain = record.drain.as_mut().expect("with its drain");
    drain.listeners = (0..100_000)
        .map(|place| v1::DrainListener {
            node: "a".to_owned(),
            name: format!("listener-{place}"),
            ..Default::default()
        })
        .collect();
    let next = World::after(vec![record.clone()]);
    let drain = next.drain("d");
    assert!(drain.encoded_len() < 512 << 10, "{}", drain.encoded_len());
    assert_eq!(drain.listeners.len() + drain.listeners_omitted as usize, 100_000);
}
