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
    let epoch = fleet.attach(StreamId(1), &hello("a", 1, 7), start).epoch;
    assert_eq!(fleet.next_deadline(), Some(start + seconds(15)));
    fleet.report(StreamId(1), v1::FilterReport::default(), start + seconds(4));
    assert!(fleet.tick(start + seconds(15)).is_empty());
    assert_eq!(fleet.tick(start + seconds(19)), [epoch]);
    let reporter = fleet.get(epoch).unwrap();
    assert!(!reporter.is_live());
    assert_eq!(reporter.reason(start + seconds(19)), "silent for 15s");
    fleet.report(StreamId(1), v1::FilterReport::default(), start + seconds(20));
    assert!(fleet.get(epoch).unwrap().is_live());
    assert_eq!(fleet.tick(start + seconds(35)), [epoch]);
}

#[test]
fn an_awaited_reporter_is_silent_sooner_but_not_before_it_can_know() {
    let (mut fleet, start) = (Fleet::default(), Instant::now());
    let epoch = fleet.attach(StreamId(1), &hello("a", 1, 7), start).epoch;
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
    fleet.attach(StreamId(1), &absurd, start);
    assert_eq!(fleet.next_deadline(), Some(start + seconds(180)));
}

#[test]
fn a_second_stream_of_the_same_vm_replaces_the_first() {
    let (mut fleet, start) = (Fleet::default(), Instant::now());
    fleet.attach(StreamId(1), &hello("a", 1, 7), start);
    assert_eq!(
        fleet.attach(StreamId(2), &hello("a", 1, 7), start).replaced,
        Some(StreamId(1))
    );
    assert_eq!(
        fleet.report(StreamId(1), v1::FilterReport::default(), start),
        None
    );
    assert_eq!(fleet.detach(StreamId(1), start), None);
    assert!(fleet.get(Epoch(7)).unwrap().is_live());
}

#[test]
fn a_detached_reporter_is_unknown_until_its_whole_process_is_gone_for_good() {
    let (mut fleet, start) = (Fleet::default(), Instant::now());
    fleet.attach(StreamId(1), &hello("a", 1, 7), start);
    fleet.attach(StreamId(2), &hello("a", 1, 8), start);
    fleet.detach(StreamId(1), start);
    assert_eq!(
        fleet.get(Epoch(7)).unwrap().reason(start + seconds(2)),
        "stream closed 2s ago"
    );
    // Its sibling is there, so the process is alive, and so may its requests be.
    assert!(fleet.prune(None, start + FORGET_AFTER, |_| false).is_empty());
    fleet.detach(StreamId(2), start + seconds(10));
    assert!(fleet.prune(None, start + seconds(59), |_| false).is_empty());
    assert_eq!(fleet.prune(None, start + seconds(61), |_| false), [Epoch(7)]);
    assert_eq!(fleet.prune(None, start + seconds(71), |_| false), [Epoch(8)]);
    assert_eq!(fleet.nodes().count(), 0);
}

#[test]
fn another_process_of_the_node_takes_the_place_of_a_gone_one_unless_it_is_kept() {
    let (mut fleet, start) = (Fleet::default(), Instant::now());
    fleet.attach(StreamId(1), &hello("a", 1, 7), start);
    fleet.detach(StreamId(1), start);
    fleet.attach(StreamId(2), &hello("a", 2, 9), start);
    assert!(
        fleet
            .prune(Some("a"), start, |epoch| epoch == Epoch(7))
            .is_empty()
    );
    assert_eq!(fleet.prune(Some("a"), start, |_| false), [Epoch(7)]);
    assert!(fleet.get(Epoch(9)).is_some());
}
