//! What is kept of drains, and which of them hold.

use super::*;
use crate::core::{fleet::StreamId, record::Record};

fn at_once() -> PolicyOverrides {
    PolicyOverrides {
        timeout: Some(Duration::ZERO),
        ..PolicyOverrides::default()
    }
}

#[test]
fn drains_of_one_scope_do_not_pile_up() {
    let mut world = two_workers();
    world
        .start_with("one", "", &[], &["internal"], at_once())
        .unwrap();
    for number in 0..50 {
        world
            .start_with(&format!("d{number}"), "", &[], &["ingress"], at_once())
            .unwrap();
        assert_eq!(world.directives(1), ["internal", "ingress"]);
    }
    let drain = world.drain("d0");
    assert_eq!((drain.phase(), drain.holding), (v1::Phase::TimedOut, false));
    assert!(world.drain("d49").holding && world.drain("one").holding);
    // Its members are kept before the other lets go.
    let last = |id: &str, holding: bool| {
        let is = |record: &Record| {
            record
                .drain
                .as_ref()
                .is_some_and(|drain| drain.id == id && drain.holding == holding)
        };
        world.stored.iter().rposition(is).unwrap()
    };
    assert!(last("d49", true) < last("d48", false));
    let effects = world.core.cancel("d49", world.now).unwrap();
    world.take(effects);
    assert_eq!(world.directives(1), ["internal"]);
}

#[test]
fn one_that_takes_over_holds_also_who_is_away() {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, &[("ingress", 0)]);
    world.attach(2, "b", 6, 12, &[("ingress", 0)]);
    world.start_with("one", "", &[], &["ingress"], at_once()).unwrap();
    let record = world.stored.last().cloned().unwrap();
    let mut world = World::after(vec![record]);
    world.attach(1, "a", 5, 11, &[("ingress", 0)]);
    world.start_with("two", "", &[], &["ingress"], at_once()).unwrap();
    assert!(!world.drain("one").holding && world.drain("two").holding);
    assert_eq!(
        world.drain("two").unknown_reporters.len(),
        1,
        "just who was there"
    );
    world.attach(2, "b", 6, 12, &[("ingress", 0)]);
    assert_eq!(world.directives(2), ["ingress"]);
}

#[test]
fn drains_that_ran_side_by_side_hold_each_by_itself() {
    let mut world = two_workers();
    for id in ["one", "two"] {
        world.start(id, &["ingress"]).unwrap();
    }
    world.wait(31_000);
    assert!(world.drain("one").holding && world.drain("two").holding);
    let effects = world.core.cancel("two", world.now).unwrap();
    world.take(effects);
    assert_eq!(world.directives(1), ["ingress"]);
}

#[test]
fn a_running_or_cancelled_drain_takes_nothing_over() {
    let mut world = two_workers();
    world.start_with("one", "", &[], &["ingress"], at_once()).unwrap();
    world.start("two", &["ingress"]).unwrap();
    assert!(world.drain("one").holding);
    let effects = world.core.cancel("two", world.now).unwrap();
    world.take(effects);
    assert!(world.drain("one").holding);
    assert_eq!(world.directives(1), ["ingress"]);
}

#[test]
fn a_cancel_after_the_deadline_ends_and_lets_go() {
    let mut world = two_workers();
    world.start("d", &["ingress"]).unwrap();
    world.now.instant += Duration::from_secs(31);
    world.now.wall += Duration::from_secs(31);
    let effects = world.core.cancel("d", world.now).unwrap();
    world.take(effects);
    let drain = world.drain("d");
    assert_eq!((drain.phase(), drain.holding), (v1::Phase::TimedOut, false));
    assert!(world.directives(1).is_empty());
}

#[test]
fn members_that_join_are_kept_and_not_each_by_itself() {
    let mut world = two_workers();
    world.start("d", &[]).unwrap();
    world.wait(1000);
    let before = world.stored.len();
    for epoch in 0..64 {
        world.attach(10 + epoch, "b", 6, 100 + epoch, &[("ingress", 0)]);
        world.wait(1);
    }
    world.wait(200);
    let kept = &world.stored[before..];
    assert!((1..4).contains(&kept.len()), "{} records", kept.len());
    assert_eq!(kept.last().unwrap().members.len(), 66);
    let mut next = World::after(vec![kept.last().cloned().unwrap()]);
    assert_eq!(next.drain("d").unknown_reporters.len(), 66);
    next.wait(5000);
    assert_eq!(next.phase("d"), v1::Phase::Draining);
}

#[test]
fn the_first_member_that_joins_is_kept_before_it_is_told() {
    let mut world = two_workers();
    world.start("d", &[]).unwrap();
    world.wait(1000);
    let hello = v1::FilterHello {
        node_id: "b".to_owned(),
        process: 6,
        epoch: 13,
        ..Default::default()
    };
    let effects = world.happen(Event::Attached {
        stream: StreamId(3),
        hello,
        peer: None,
        report: report(&[("ingress", 0)], 0),
    });
    let stored = effects
        .iter()
        .position(|effect| matches!(effect, Effect::Store(_)));
    let sent = effects
        .iter()
        .position(|effect| matches!(effect, Effect::Send { .. }));
    assert!(stored.is_some() && stored < sent, "{effects:?}");
}

#[test]
fn what_makes_no_sense_of_what_was_kept_is_told() {
    let mut world = two_workers();
    world.start("d", &["ingress"]).unwrap();
    let good = world.stored.last().cloned().unwrap();
    let mut bad = good.clone();
    let drain = bad.drain.as_mut().unwrap();
    drain.id = "bad".to_owned();
    drain.policy.as_mut().unwrap().lease = Some(prost_types::Duration::default());
    let kept = record::Kept {
        drains: vec![good, bad, Record::default()],
        ..Default::default()
    };
    let (core, left_out) = Core::new(Policies::default(), kept, world.now);
    assert_eq!(core.drains(world.now).len(), 1);
    assert_eq!(left_out.len(), 2, "{left_out:?}");
    assert!(
        left_out[0].why.contains("\"bad\"") && left_out[0].why.contains("lease"),
        "{left_out:?}"
    );
}

#[test]
fn what_control_planes_kept_that_did_not_know_of_each_other_is_resumed_in_order() {
    // The second could not read what the first had kept, and counted its own from 1.
    let kept_by = |ids: [&str; 2]| {
        let mut world = two_workers();
        for id in ids {
            world.start(id, &["ingress"]).unwrap();
        }
        let of = |id: &str| {
            let is = |record: &&Record| record.drain.as_ref().is_some_and(|drain| drain.id == id);
            world.stored.iter().rfind(is).cloned().unwrap()
        };
        ids.map(of)
    };
    let [first, second] = kept_by(["first", "second"]);
    let [third, fourth] = kept_by(["third", "fourth"]);
    let world = World::after(vec![fourth, third, second, first]);
    let mut ids: Vec<String> = Vec::new();
    ids.extend(world.core.drains(world.now).into_iter().map(|drain| drain.id));
    ids.sort();
    assert_eq!(ids, ["first", "fourth", "second", "third"]);
}

#[test]
fn a_record_with_senseless_numbers_ends_nothing() {
    let mut world = two_workers();
    world.start_with("a", "", &[], &["ingress"], at_once()).unwrap();
    let record = world.stored.last().cloned().unwrap();
    let most = prost_types::Duration {
        seconds: i64::MAX,
        nanos: 999_999_999,
    };
    let mut late = record.clone();
    (late.sequence, late.closing_after) = (u64::MAX, Some(most));
    late.drain.as_mut().unwrap().elapsed = Some(most);
    let at = |seconds: i64| {
        let mut record = record.clone();
        let drain = record.drain.as_mut().unwrap();
        drain.id = seconds.to_string();
        drain.started_at = Some(prost_types::Timestamp { seconds, nanos: 0 });
        record
    };
    let kept = Kept {
        drains: vec![at(i64::MAX), at(i64::MIN), at(-1)],
        ..Kept::default()
    };
    let (core, left_out) = Core::new(Policies::default(), kept, world.now);
    assert_eq!(
        left_out.len(),
        3,
        "they never started: {:?}",
        core.drains(world.now)
    );
    let mut world = World::after(vec![late]);
    world.attach(1, "a", 5, 11, &[("ingress", 0)]);
    world.start_with("b", "", &[], &["ingress"], at_once()).unwrap();
    assert!(world.drain("b").holding && !world.drain("a").holding);
}

#[test]
fn envoys_that_stay_one_node_are_told_of_once_and_drains_of_them_warn() {
    let mut world = World::new();
    let speak = |world: &mut World, millis| {
        world.now.instant += Duration::from_millis(millis);
        let mut effects = world.happen(Event::Tick);
        for stream in [1, 2] {
            effects.extend(world.happen(Event::Reported {
                stream: StreamId(stream),
                report: report(&[("ingress", 0)], 0),
            }));
        }
        let told = |effect: &&Effect| matches!(effect, Effect::Twins(node) if node == "a");
        effects.iter().filter(told).count()
    };
    world.attach(1, "a", 5, 11, &[("ingress", 0)]);
    world.attach(2, "a", 6, 12, &[("ingress", 0)]);
    assert_eq!(speak(&mut world, 10_000), 0, "it may be a restart");
    assert_eq!(speak(&mut world, 10_000), 1);
    world.attach(3, "a", 6, 13, &[("ingress", 0)]);
    assert_eq!(
        (0..5).map(|_| speak(&mut world, 10_000)).sum::<usize>(),
        0,
        "it was told"
    );
    world.start_with("one", "", &[], &["ingress"], at_once()).unwrap();
    let warnings = world.drain("one").warnings;
    assert!(
        warnings.iter().any(|text| text.contains("several Envoys")),
        "{warnings:?}"
    );
}
