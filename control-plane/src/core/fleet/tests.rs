use super::*;

fn hello(node: &str, process: u64, epoch: u64) -> v1::FilterHello {
    v1::FilterHello {
        node_id: node.to_owned(),
        process,
        epoch,
        report_interval: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
        drain_report_interval: Some(prost_types::Duration {
            seconds: 0,
            nanos: 500_000_000,
        }),
        ..Default::default()
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_reporter_is_silent_after_three_of_its_intervals_and_live_again_when_it_speaks() {
    let (mut fleet, start) = (Fleet::default(), Instant::now());
    let epoch = attach(&mut fleet, StreamId(1), &hello("a", 1, 7), start).epoch;
    assert_eq!(fleet.next_deadline(), Some(start + seconds(15)));
    fleet
        .report(StreamId(1), v1::FilterReport::default(), start + seconds(4))
        .unwrap();
    assert!(fleet.tick(start + seconds(15)).is_empty());
    assert_eq!(fleet.tick(start + seconds(19)), [epoch]);
    let reporter = fleet.get(epoch).unwrap();
    assert!(!reporter.is_live());
    assert_eq!(reporter.reason(start + seconds(19)), "silent for 15s");
    fleet
        .report(StreamId(1), v1::FilterReport::default(), start + seconds(20))
        .unwrap();
    assert!(fleet.get(epoch).unwrap().is_live());
    assert_eq!(fleet.tick(start + seconds(35)), [epoch]);
}

#[test]
fn an_awaited_reporter_is_silent_sooner_but_not_before_it_can_know() {
    let (mut fleet, start) = (Fleet::default(), Instant::now());
    let epoch = attach(&mut fleet, StreamId(1), &hello("a", 1, 7), start).epoch;
    fleet.set_awaited(epoch, true, start + seconds(4));
    assert!(fleet.tick(start + seconds(5)).is_empty());
    assert_eq!(fleet.tick(start + Duration::from_millis(5500)), [epoch]);
}

#[test]
fn an_interval_out_of_bounds_is_brought_into_them() {
    let (mut fleet, start) = (Fleet::default(), Instant::now());
    let mut absurd = hello("a", 1, 7);
    absurd.drain_report_interval = Some(prost_types::Duration {
        seconds: i64::MIN,
        nanos: i32::MIN,
    });
    absurd.report_interval = Some(prost_types::Duration {
        seconds: 1 << 40,
        nanos: 0,
    });
    attach(&mut fleet, StreamId(1), &absurd, start);
    assert_eq!(fleet.next_deadline(), Some(start + seconds(180)));
}

#[test]
fn a_second_stream_of_the_same_vm_replaces_the_first() {
    let (mut fleet, start) = (Fleet::default(), Instant::now());
    attach(&mut fleet, StreamId(1), &hello("a", 1, 7), start);
    assert_eq!(
        attach(&mut fleet, StreamId(2), &hello("a", 1, 7), start).replaced,
        Some(StreamId(1))
    );
    assert_eq!(
        fleet.report(StreamId(1), v1::FilterReport::default(), start),
        Ok(None)
    );
    assert_eq!(fleet.detach(StreamId(1), start), None);
    assert!(fleet.get(Epoch(7)).unwrap().is_live());
}

fn attach(fleet: &mut Fleet, stream: StreamId, hello: &v1::FilterHello, now: Instant) -> Attached {
    fleet.attach(stream, hello, None, now).unwrap()
}

const HERE: Option<Peer> = Some(Peer::Local(Local {
    pid: 7,
    group: 7,
    started: 70,
}));

fn host(last: u8) -> Option<Peer> {
    Some(Peer::Host(std::net::Ipv4Addr::new(10, 0, 0, last).into()))
}

#[test]
fn a_detached_reporter_is_unknown_for_as_long_as_nothing_proves_that_it_is_gone() {
    let (mut fleet, start) = (Fleet::default(), Instant::now());
    attach(&mut fleet, StreamId(1), &hello("a", 1, 7), start);
    attach(&mut fleet, StreamId(2), &hello("a", 1, 8), start);
    fleet.detach(StreamId(1), start);
    fleet.detach(StreamId(2), start);
    let day = start + seconds(24 * 3600);
    assert!(fleet.prune(None, day, |_| false).is_empty());
    assert_eq!(
        fleet.get(Epoch(7)).unwrap().reason(start + seconds(59)),
        "stream closed 59s ago"
    );
    assert_eq!(
        fleet.get(Epoch(7)).unwrap().reason(day),
        "stream closed 1day ago; if that Envoy is gone: ebb forget a"
    );
    let mut away = fleet.away_from("a");
    away.sort();
    assert_eq!(away, [Epoch(7), Epoch(8)]);
    fleet.leave(Epoch(7));
    fleet.leave(Epoch(8));
    assert_eq!(fleet.nodes().count(), 0);
}

/// A process that went, and one that came `later` seconds after it from there; who is gone after `wait` seconds more.
fn succession(old: Option<Peer>, new: Option<Peer>, later: i64, wait: u64) -> Vec<Epoch> {
    let (mut fleet, start) = (Fleet::default(), Instant::now());
    let went = start + seconds(100);
    fleet.attach(StreamId(1), &hello("a", 1, 7), old, start).unwrap();
    let came = went.checked_add_signed(later);
    if later < 0 {
        fleet.attach(StreamId(2), &hello("a", 2, 9), new, came).unwrap();
        fleet.detach(StreamId(1), went);
    } else {
        fleet.detach(StreamId(1), went);
        fleet.attach(StreamId(2), &hello("a", 2, 9), new, came).unwrap();
    }
    fleet.prune(None, came.max(went) + seconds(wait), |_| false)
}

trait AddSigned {
    fn checked_add_signed(self, seconds: i64) -> Instant;
}

impl AddSigned for Instant {
    fn checked_add_signed(self, seconds: i64) -> Instant {
        let span = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { self - span } else { self + span }
    }
}

#[test]
fn a_successor_came_after_the_old_process_went_and_has_waited_for_it_to_come_back() {
    assert_eq!(succession(None, None, 1, 9), [Epoch(7)]);
    assert!(succession(None, None, 1, 8).is_empty(), "it may yet come back");
    assert!(succession(None, None, -1, 3600).is_empty(), "it was there before");
    assert_eq!(succession(HERE, HERE, 1, 9), [Epoch(7)]);
    assert_eq!(succession(host(1), host(1), 1, 9), [Epoch(7)]);
    assert!(
        succession(host(1), host(2), 1, 3600).is_empty(),
        "from another host"
    );
    assert!(succession(HERE, host(2), 1, 3600).is_empty());
}

#[test]
fn whom_a_drain_counts_on_is_kept_and_of_two_that_went_none_can_be_told_to_be_replaced() {
    let (mut fleet, start) = (Fleet::default(), Instant::now());
    for (stream, process) in [(1, 1), (2, 2)] {
        attach(&mut fleet, StreamId(stream), &hello("a", process, process), start);
        fleet.detach(StreamId(stream), start);
    }
    attach(&mut fleet, StreamId(3), &hello("a", 3, 3), start + seconds(1));
    assert!(
        fleet
            .prune(Some("a"), start + seconds(3600), |_| false)
            .is_empty()
    );
    fleet.leave(Epoch(2));
    let keep = |epoch| epoch == Epoch(1);
    assert!(fleet.prune(Some("a"), start + seconds(3600), keep).is_empty());
    assert_eq!(
        fleet.prune(Some("a"), start + seconds(3600), |_| false),
        [Epoch(1)]
    );
}

#[test]
fn an_epoch_is_bound_to_node_process_and_peer() {
    let (mut fleet, start) = (Fleet::default(), Instant::now());
    fleet
        .attach(StreamId(1), &hello("a", 1, 7), host(1), start)
        .unwrap();
    let mut claim = |hello: &v1::FilterHello, peer| {
        let claim = fleet.attach(StreamId(2), hello, peer, start).unwrap_err();
        assert_eq!(fleet.epoch(StreamId(1)), Some(Epoch(7)), "nothing is lost by it");
        claim.to_string()
    };
    assert_eq!(
        claim(&hello("b", 1, 7), host(1)),
        "reporter 0000000000000007 is bound to another node: this claim of node \"b\" is refused"
    );
    assert!(claim(&hello("a", 2, 7), host(1)).contains("another process"));
    for peer in [host(2), HERE, None] {
        assert!(claim(&hello("a", 1, 7), peer).contains("another peer"));
    }
    fleet.detach(StreamId(1), start);
    assert!(
        fleet
            .attach(StreamId(2), &hello("b", 1, 7), host(1), start)
            .is_err()
    );
    assert!(
        fleet
            .attach(StreamId(2), &hello("a", 1, 7), host(1), start)
            .is_ok()
    );
}

#[test]
fn what_was_never_asked_is_not_answered() {
    let (mut fleet, start) = (Fleet::default(), Instant::now());
    let epoch = attach(&mut fleet, StreamId(1), &hello("a", 1, 7), start).epoch;
    fleet.get_mut(epoch).unwrap().asked = 3;
    let report = v1::FilterReport {
        answers: 1 << 63,
        ..Default::default()
    };
    fleet.report(StreamId(1), report, start).unwrap();
    assert_eq!(fleet.get(epoch).unwrap().answered, 3);
}

#[test]
fn the_first_vm_of_a_process_tells_of_the_others() {
    let (mut fleet, start) = (Fleet::default(), Instant::now());
    let listing = |epoch, vms: &[u64]| v1::FilterHello {
        vms: vms.to_vec(),
        ..hello("a", 1, epoch)
    };
    let first = attach(&mut fleet, StreamId(1), &listing(7, &[0, 7, 8, 9]), start);
    assert_eq!(first.expected, [Epoch(8), Epoch(9)]);
    let reason = fleet.get(Epoch(8)).unwrap().reason(start + seconds(1));
    assert_eq!(reason, "expected, and not attached for 1s");
    let second = attach(&mut fleet, StreamId(2), &listing(8, &[7, 8, 9]), start);
    assert_eq!(second.expected, []);
    assert!(fleet.get(Epoch(8)).unwrap().is_live());
    fleet.leave(Epoch(9));
    let third = attach(&mut fleet, StreamId(3), &listing(7, &[7, 8, 9]), start);
    assert_eq!(third.expected, [], "one has said goodbye");
    let stranger = v1::FilterHello {
        vms: vec![8],
        ..hello("b", 2, 10)
    };
    assert_eq!(attach(&mut fleet, StreamId(4), &stranger, start).expected, []);
    assert_eq!(&*fleet.get(Epoch(8)).unwrap().node, "a");
}

#[test]
fn what_is_kept_is_expected_with_its_names_and_nothing_in_flight() {
    let (mut fleet, start) = (Fleet::default(), Instant::now());
    fleet.attach(StreamId(1), &hello("a", 1, 7), HERE, start).unwrap();
    let counts = v1::ListenerCounts {
        name: "ingress".to_owned(),
        in_flight: 5,
        ..Default::default()
    };
    let report = v1::FilterReport {
        listeners: vec![counts],
        counts_upstreams: true,
        ..Default::default()
    };
    fleet.report(StreamId(1), report.clone(), start).unwrap();
    let (put, gone) = fleet.take_changed();
    assert_eq!((put.len(), gone.len()), (1, 0));
    fleet.report(StreamId(1), report, start).unwrap();
    assert!(!fleet.has_changed(), "its names are the same");
    let mut next = Fleet::default();
    next.expect(&put[0], start);
    let reporter = next.get(Epoch(7)).unwrap();
    assert_eq!((reporter.peer, reporter.stream()), (HERE, None));
    assert!(reporter.counts_upstreams);
    assert_eq!(
        (&*reporter.listeners[0].name, reporter.listeners[0].in_flight),
        ("ingress", 0)
    );
    assert!(!next.has_changed());
    fleet.leave(Epoch(7));
    assert_eq!(fleet.take_changed(), (Vec::new(), vec![Epoch(7)]));
}

#[test]
fn twins_are_several_envoys_that_are_alive() {
    let start = Instant::now();
    let local = |pid| {
        Some(Peer::Local(Local {
            pid,
            group: pid,
            started: 1,
        }))
    };
    let host = |last| Some(Peer::Host([10, 0, 0, last].into()));
    let are_twins = |a: (u64, Option<Peer>), b: (u64, Option<Peer>), gone: bool| {
        let mut fleet = Fleet::default();
        for (stream, (process, peer)) in [(1, a), (2, b)] {
            let hello = hello("a", process, stream);
            fleet.attach(StreamId(stream), &hello, peer, start).unwrap();
        }
        if gone {
            fleet.detach(StreamId(1), start);
        }
        fleet.twins().count() == 1
    };
    assert!(are_twins((1, local(7)), (2, local(8)), false));
    assert!(are_twins((1, host(1)), (2, host(2)), false));
    assert!(!are_twins((1, local(7)), (1, local(7)), false), "two of its VMs");
    assert!(
        !are_twins((1, local(7)), (2, local(7)), false),
        "two kinds of VMs"
    );
    assert!(!are_twins((1, host(1)), (2, host(2)), true), "it was replaced");
}
