use super::*;
use crate::core::fleet::StreamId;

/// The listener, the age in seconds, and the route of a request.
type Held<'a> = (&'a str, i64, &'a str);

fn blocker((listener, seconds, route): &Held<'_>) -> v1::Blocker {
    v1::Blocker {
        listener: (*listener).to_owned(),
        age: Some(prost_types::Duration {
            seconds: *seconds,
            nanos: 0,
        }),
        protocol: v1::Protocol::Http2.into(),
        route: (*route).to_owned(),
        ..Default::default()
    }
}

impl World {
    fn ask(&mut self, drain: Option<&str>, limit: u32) -> (u64, Vec<Effect>) {
        let (ask, effects) = self.core.ask_blockers(drain, limit, self.now).unwrap();
        (ask, self.take(effects))
    }

    fn answer(&mut self, stream: u64, answers: u64, held: &[Held<'_>]) -> Vec<Effect> {
        let report = v1::FilterReport {
            blockers: held.iter().map(blocker).collect(),
            ..report(&[("ingress", 1), ("internal", 1)], answers)
        };
        self.happen(Event::Reported {
            stream: StreamId(stream),
            report,
        })
    }

    fn found(&mut self, ask: u64) -> Vec<(String, i64)> {
        let found = self.core.take_blockers(ask);
        let short = found.into_iter().map(|found| {
            let blocker = found.blocker.unwrap();
            (
                format!("{}/{}", found.node, blocker.route),
                blocker.age.unwrap().seconds,
            )
        });
        short.collect()
    }

    fn wants(&self, stream: u64) -> u32 {
        self.told[&stream].blockers
    }
}

fn found(names: &[(&str, i64)]) -> Vec<(String, i64)> {
    names
        .iter()
        .map(|(name, age)| ((*name).to_owned(), *age))
        .collect()
}

#[test]
fn the_oldest_of_each_listener_come_first_over_all_workers() {
    let mut world = two_workers();
    let (ask, _) = world.ask(None, 2);
    assert_eq!((world.wants(1), world.wants(2)), (2, 2));
    let effects = world.answer(
        1,
        ask,
        &[("ingress", 9, "a"), ("ingress", 5, "b"), ("internal", 1, "c")],
    );
    assert!(!effects.contains(&Effect::Answered(ask)));
    let effects = world.answer(2, ask, &[("ingress", 7, "d"), ("ingress", 1, "e")]);
    assert!(effects.contains(&Effect::Answered(ask)));
    assert_eq!(world.found(ask), found(&[("a/a", 9), ("a/d", 7), ("a/c", 1)]));
    assert!(world.found(ask).is_empty(), "they are handed out once");
}

#[test]
fn a_drains_blockers_are_those_in_its_scope() {
    let mut world = two_workers();
    world.attach(3, "b", 6, 13, &[("ingress", 1)]);
    world
        .start_with("d", "", &["a"], &["ingress"], PolicyOverrides::default())
        .unwrap();
    world.told.clear();
    let (ask, _) = world.ask(Some("d"), 10);
    assert!(!world.told.contains_key(&3), "the other node is not asked");
    world.answer(1, ask, &[("ingress", 9, "a"), ("internal", 8, "b")]);
    world.answer(2, ask, &[]);
    assert_eq!(world.found(ask), found(&[("a/a", 9)]));
    assert!(world.core.ask_blockers(Some("other"), 10, world.now).is_none());
}

#[test]
fn a_drain_towards_an_upstream_is_held_up_by_what_goes_there_or_may() {
    let scope = Scope {
        upstreams: vec!["10.0.0.1:80".to_owned()],
        ..Scope::default()
    };
    let towards = |upstream: &str| v1::Blocker {
        upstream: upstream.to_owned(),
        ..blocker(&("ingress", 1, "a"))
    };
    let held_up = ["10.0.0.1:80", "", "10.0.0.2:80"].map(|upstream| scope.has_blocker(&towards(upstream)));
    assert_eq!(held_up, [true, true, false]);
    assert!(Scope::default().has_blocker(&towards("10.0.0.2:80")));
}

#[test]
fn who_does_not_answer_is_left_out() {
    let mut world = two_workers();
    let (ask, _) = world.ask(None, 10);
    world.answer(1, ask, &[("ingress", 9, "a")]);
    // Its time is up, for the one who asked.
    assert_eq!(world.found(ask), found(&[("a/a", 9)]));
    world.answer(2, ask, &[("ingress", 7, "b")]);

    let (ask, _) = world.ask(None, 10);
    world.answer(1, ask, &[("ingress", 9, "a")]);
    let effects = world.happen(Event::Detached { stream: StreamId(2) });
    assert!(effects.contains(&Effect::Answered(ask)));
    assert_eq!(world.found(ask), found(&[("a/a", 9)]));
}

#[test]
fn a_command_that_overtakes_the_question_asks_it_too() {
    let mut world = two_workers();
    let (ask, _) = world.ask(None, 3);
    world.start("d", &["ingress"]).unwrap();
    assert_eq!(world.wants(1), 3, "the drain's command took its place");
    let latest = world.told[&1].ask;
    world.answer(1, latest, &[("ingress", 9, "a")]);
    world.answer(2, latest, &[]);
    assert_eq!(world.found(ask), found(&[("a/a", 9)]));
    let (_, effects) = world.core.query(world.now);
    world.take(effects);
    assert_eq!(world.wants(1), 0, "nobody asks any more");
}

#[test]
fn an_answer_to_something_earlier_is_none() {
    let mut world = two_workers();
    let (before, effects) = world.core.query(world.now);
    world.take(effects);
    let (ask, _) = world.ask(None, 3);
    world.answer(1, before, &[]);
    world.answer(2, before, &[]);
    world.answer(1, ask, &[("ingress", 9, "a")]);
    assert_eq!(world.found(ask), found(&[("a/a", 9)]));
}

#[test]
fn with_nobody_attached_nothing_is_waited_for() {
    let mut world = World::new();
    let (ask, effects) = world.ask(None, 3);
    assert_eq!(effects, [Effect::Answered(ask)]);
    assert!(world.found(ask).is_empty());
}

#[test]
fn an_answer_is_one_that_clients_take_and_has_the_oldest() {
    let mut world = two_workers();
    let (ask, _) = world.ask(None, 3);
    let names: Vec<String> = (0..20_000).map(|place| format!("{place:0500}")).collect();
    let held: Vec<Held<'_>> = names
        .iter()
        .zip(1..)
        .map(|(name, age)| (name.as_str(), age, "a"))
        .collect();
    world.answer(1, ask, &held);
    world.answer(2, ask, &[]);
    let found = world.core.take_blockers(ask);
    let bytes: usize = found.iter().map(prost::Message::encoded_len).sum();
    assert!((1 << 20..=2 << 20).contains(&bytes), "{bytes}");
    let oldest = found[0].blocker.as_ref().expect("a request");
    assert_eq!(oldest.age.map(|age| age.seconds), Some(20_000));
}
