//! Drains that have nothing in flight, and Envoys that owe their clients something.

use super::{
    super::{policy::Tcp, settling::UPSTREAM_WITHIN},
    *,
};
use crate::core::fleet::StreamId;

const INGRESS: &[(&str, u64)] = &[("ingress", 0)];

fn unsent(bytes: u64) -> Outstanding {
    Outstanding::queued(bytes)
}

/// One worker, and looks that are answered by hand.
fn by_hand() -> World {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, INGRESS);
    world.seen = None;
    world
}

impl World {
    /// Answers the look that is out, of which there is one.
    fn answer_look(&mut self, seen: Outstanding) {
        let looks = std::mem::take(&mut self.looks);
        let [(node, ask)] = looks.as_slice() else {
            panic!("one look is out, not {looks:?}")
        };
        self.told_outstanding(node, *ask, seen);
    }

    /// Lets time pass, with a filter of one stream that answers every ask, and looks that see this.
    fn go_on(&mut self, millis: u64, seen: Outstanding) {
        for _ in 0..millis / 10 {
            self.report(1, INGRESS);
            if !self.looks.is_empty() {
                self.answer_look(seen);
            }
            self.wait(10);
        }
    }

    /// Starts a drain and has it quiet and confirmed, so that it is looked at.
    fn until_looked_at(&mut self, listeners: &[&str], policy: PolicyOverrides) {
        self.start_with("d", "", &[], listeners, policy).expect("started");
        self.answer_look(SETTLED);
        self.report(1, INGRESS);
        self.wait(200);
        assert_eq!(self.looks, [], "the look is after the confirmation");
        self.report(1, INGRESS);
        assert_eq!(self.phase("d"), v1::Phase::Quiet);
    }

    fn owed(&self) -> v1::Outstanding {
        self.drain("d").outstanding.expect("something is known")
    }
}

#[test]
fn a_drain_ends_when_every_client_has_received_what_it_was_sent() {
    let mut world = by_hand();
    world.until_looked_at(&["ingress"], PolicyOverrides::default());
    world.answer_look(unsent(37_394));
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
    let owed = world.owed();
    assert_eq!((owed.unsent_bytes, owed.unsent_clients), (Some(37_394), Some(1)));
    world.go_on(5_000, unsent(9));
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
    world.go_on(100, SETTLED);
    let drain = world.drain("d");
    assert_eq!(drain.phase(), v1::Phase::Drained);
    assert_eq!(
        drain.outstanding.expect("as it was last").unsent_bytes,
        Some(0),
        "kept with its end"
    );
}

#[test]
fn what_was_not_received_by_the_deadline_is_told() {
    let mut world = by_hand();
    world.until_looked_at(&[], PolicyOverrides::default());
    world.go_on(30_000, unsent(9));
    let drain = world.drain("d");
    assert_eq!(drain.phase(), v1::Phase::TimedOut);
    assert_eq!(
        drain.outstanding.and_then(|outstanding| outstanding.unsent_bytes),
        Some(9)
    );
}

#[test]
fn a_request_while_bytes_are_outstanding_starts_over() {
    let mut world = by_hand();
    world.until_looked_at(&["ingress"], PolicyOverrides::default());
    world.answer_look(unsent(9));
    world.report(1, &[("ingress", 1)]);
    assert_eq!(world.phase("d"), v1::Phase::Draining);
    world.report(1, INGRESS);
    world.happen(Event::Detached { stream: StreamId(1) });
    assert_eq!(world.phase("d"), v1::Phase::Draining, "it may have begun another");
}

#[test]
fn it_lingers_where_nothing_can_be_seen_unless_it_is_told_not_to() {
    let nothing = Outstanding::default();
    let mut world = by_hand();
    world.until_looked_at(&[], PolicyOverrides::default());
    world.go_on(700, nothing);
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
    assert_eq!(world.owed().unseen_nodes, 1);
    assert_eq!(world.owed().unsent_bytes, None, "not zero");
    world.go_on(200, nothing);
    assert_eq!(
        world.phase("d"),
        v1::Phase::Drained,
        "a second after it was quiet"
    );
    let mut world = by_hand();
    let off = PolicyOverrides {
        linger: Some(Duration::ZERO),
        ..PolicyOverrides::default()
    };
    world.until_looked_at(&[], off);
    world.answer_look(nothing);
    assert_eq!(world.phase("d"), v1::Phase::Drained);
}

#[test]
fn tcp_sessions_are_waited_for_and_shown_from_the_beginning() {
    let sessions = |count| Outstanding {
        tcp: Some(count),
        ..SETTLED
    };
    let mut world = by_hand();
    world
        .start_with("d", "", &[], &[], PolicyOverrides::default())
        .unwrap();
    world.answer_look(sessions(2));
    world.report(1, INGRESS);
    let drain = world.drain("d");
    assert_eq!((drain.phase(), drain.in_flight), (v1::Phase::Draining, 0));
    assert_eq!(world.owed().tcp_sessions, Some(2));
    world.go_on(5_000, sessions(1));
    assert_eq!(world.phase("d"), v1::Phase::Draining);
    world.go_on(300, SETTLED);
    assert_eq!(world.phase("d"), v1::Phase::Drained);
    // One that comes after the quiet period holds it as well.
    let mut world = by_hand();
    world.until_looked_at(&[], PolicyOverrides::default());
    world.answer_look(sessions(1));
    assert_eq!(world.phase("d"), v1::Phase::Draining);
}

#[test]
fn tcp_sessions_can_be_ignored() {
    let mut world = by_hand();
    let ignore = PolicyOverrides {
        tcp: Some(Tcp::Ignore),
        ..PolicyOverrides::default()
    };
    world.until_looked_at(&[], ignore);
    world.answer_look(Outstanding {
        tcp: Some(2),
        ..SETTLED
    });
    let drain = world.drain("d");
    assert_eq!(drain.phase(), v1::Phase::Drained);
    assert_eq!(drain.outstanding.expect("known").tcp_sessions, None);
}

#[test]
fn requests_on_envoys_own_account_are_waited_for_and_given_up_with_a_warning() {
    let mirrored = Outstanding {
        upstream: Some(3),
        ..SETTLED
    };
    let bound = u64::try_from(UPSTREAM_WITHIN.as_millis()).unwrap();
    let mut world = by_hand();
    world.until_looked_at(&[], PolicyOverrides::default());
    world.go_on(bound - 300, mirrored);
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
    assert_eq!(world.owed().upstream_requests, Some(3));
    world.go_on(200, mirrored);
    let drain = world.drain("d");
    assert_eq!(drain.phase(), v1::Phase::Drained);
    assert!(
        drain.warnings[0].starts_with("3 requests to upstreams"),
        "{drain:?}"
    );
    // Once they are done nobody waits.
    let mut world = by_hand();
    world.until_looked_at(&[], PolicyOverrides::default());
    world.answer_look(mirrored);
    world.go_on(100, SETTLED);
    let drain = world.drain("d");
    assert_eq!((drain.phase(), drain.warnings.len()), (v1::Phase::Drained, 0));
    // A listener has none of its own.
    let mut world = by_hand();
    world.until_looked_at(&["ingress"], PolicyOverrides::default());
    world.answer_look(mirrored);
    assert_eq!(world.phase("d"), v1::Phase::Drained);
}

#[test]
fn an_envoy_that_has_ended_owes_nothing() {
    let mut world = by_hand();
    world.attach(2, "b", 6, 12, INGRESS);
    world.start("d", &[]).unwrap();
    world.report(1, INGRESS);
    world.report(2, INGRESS);
    for (node, ask) in std::mem::take(&mut world.looks) {
        let owes = if node == "b" { unsent(9) } else { SETTLED };
        world.told_outstanding(&node, ask, owes);
    }
    world.happen(Event::ProcessEnded { process: 6 });
    world.happen(Event::Detached { stream: StreamId(2) });
    assert_eq!(world.owed().unsent_bytes, Some(0));
    world.looks.clear();
    world.go_on(300, SETTLED);
    assert_eq!(world.phase("d"), v1::Phase::Drained);
}

#[test]
fn a_drain_that_has_ended_or_does_not_close_looks_at_nobody() {
    let mut world = by_hand();
    let announce = PolicyOverrides {
        announce: Some(Duration::from_secs(1)),
        ..PolicyOverrides::default()
    };
    world.start_with("d", "", &[], &[], announce).unwrap();
    world.wait(999);
    assert_eq!(world.looks, []);
    world.wait(1);
    world.answer_look(unsent(9));
    let effects = world.core.cancel("d", world.now).unwrap();
    world.take(effects);
    world.wait(10_000);
    assert_eq!(world.looks, []);
}

#[test]
fn a_drain_that_goes_on_after_a_restart_looks_anew() {
    let mut world = by_hand();
    world.until_looked_at(&[], PolicyOverrides::default());
    world.answer_look(unsent(9));
    let mut world = World::after(vec![world.stored.last().cloned().expect("kept")]);
    world.seen = None;
    world.attach(1, "a", 5, 11, INGRESS);
    world.go_on(1_000, unsent(9));
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
    assert_eq!(world.owed().unsent_bytes, Some(9));
    world.go_on(200, SETTLED);
    assert_eq!(world.phase("d"), v1::Phase::Drained);
}

#[test]
fn two_drains_of_an_envoy_look_each_for_its_own_listeners() {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, &[("ingress", 0), ("internal", 0)]);
    world.seen = None;
    world.start("one", &["ingress"]).unwrap();
    world.start("two", &["internal"]).unwrap();
    let looks = std::mem::take(&mut world.looks);
    let [(_, one), (_, two)] = looks.as_slice() else {
        panic!("{looks:?}")
    };
    world.told_outstanding("a", *two, unsent(9));
    world.told_outstanding("a", *one, SETTLED);
    let owed = |id: &str| world.drain(id).outstanding.and_then(|owed| owed.unsent_bytes);
    assert_eq!((owed("one"), owed("two")), (Some(0), Some(9)));
}

#[test]
fn idle_clients_are_told_for_so_long_and_counted() {
    let idle = PolicyOverrides {
        idle: Some(Duration::from_secs(3)),
        ..PolicyOverrides::default()
    };
    let mut world = by_hand();
    world.start_with("d", "", &[], &[], idle).unwrap();
    world.go_on(1_000, SETTLED);
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
    let mut told = report(INGRESS, 0);
    (told.listeners[0].started, told.listeners[0].marked) = (101, 1);
    world.report_that(1, told.clone());
    for _ in 0..180 {
        world.report_that(1, told.clone());
        world.wait(10);
    }
    assert_eq!(world.phase("d"), v1::Phase::Quiet);
    for _ in 0..40 {
        world.report_that(1, told.clone());
        if !world.looks.is_empty() {
            world.answer_look(SETTLED);
        }
        world.wait(10);
    }
    assert_eq!(world.phase("d"), v1::Phase::Drained);
    let report = world.core.report("d", world.now).expect("known");
    assert_eq!((report.connections_told, report.idle_connections_told), (1, 1));
}
