use super::*;
use crate::core::fleet::StreamId;
use crate::core::report::Ended;

fn millis(wire: Option<prost_types::Duration>) -> i64 {
    let wire = wire.unwrap();
    wire.seconds * 1000 + i64::from(wire.nanos) / 1_000_000
}

fn phases(report: &v1::DrainReport) -> Vec<v1::Phase> {
    let mut phases: Vec<_> = report.timeline.iter().map(v1::Sample::phase).collect();
    phases.dedup();
    phases
}

impl World {
    fn report_of(&self, id: &str) -> v1::DrainReport {
        self.core.report(id, self.now).expect("the drain is known")
    }

    /// A report of `ingress` with all counters.
    fn count(&mut self, stream: u64, in_flight: u64, started: u64, marked: u64) {
        let answers = self.told.get(&stream).map_or(0, |command| command.ask);
        let listeners = vec![v1::ListenerCounts {
            name: "ingress".to_owned(),
            in_flight,
            started,
            marked,
            ..Default::default()
        }];
        let report = v1::FilterReport {
            listeners,
            answers,
            ..Default::default()
        };
        self.happen(Event::Reported {
            stream: StreamId(stream),
            report,
        });
    }
}

/// One VM with three requests in flight of which one ends after 100 ms and the others after 300 ms; a new one comes and
/// goes in between.
fn drained() -> World {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, &[("ingress", 3)]);
    world.start("d", &["ingress"]).unwrap();
    world.count(1, 3, 1000, 50);
    world.wait(100);
    world.count(1, 2, 1000, 51);
    world.wait(200);
    world.count(1, 0, 1001, 54);
    world.wait(200);
    world.count(1, 0, 1001, 54);
    world
}

#[test]
fn a_report_tells_what_happened() {
    let world = drained();
    let report = world.report_of("d");
    assert_eq!(report.drain.as_ref().unwrap().phase(), v1::Phase::Drained);
    assert_eq!(
        phases(&report),
        [v1::Phase::Draining, v1::Phase::Quiet, v1::Phase::Drained]
    );
    assert_eq!(
        (
            report.requests_finished,
            report.connections_told,
            report.left_in_flight
        ),
        (4, 4, 0)
    );
    let last = report.last.clone().unwrap();
    assert_eq!((last.node.as_str(), last.listener.as_str()), ("a", "ingress"));
    assert_eq!(millis(last.at), 300);
    assert_eq!(millis(report.saved), 14_500);
    let drained = report.timeline.last().unwrap();
    assert_eq!((millis(drained.at), drained.in_flight), (500, 0));
    assert_eq!(
        report.timeline.iter().map(|sample| sample.in_flight).max(),
        Some(3)
    );
}

#[test]
fn what_was_counted_before_the_drain_is_not_in_its_report() {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, &[("ingress", 90)]);
    world.start("d", &["ingress"]).unwrap();
    world.wait(5);
    world.count(1, 3, 1000, 50);
    let report = world.report_of("d");
    let first = &report.timeline[0];
    assert_eq!(
        (millis(first.at), first.in_flight, first.unknown_reporters),
        (0, 0, 1)
    );
    assert_eq!(
        report.timeline.iter().map(|sample| sample.in_flight).max(),
        Some(3)
    );
}

#[test]
fn a_report_of_a_running_drain_says_how_far_it_has_come() {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, &[("ingress", 3)]);
    world.start("d", &["ingress"]).unwrap();
    world.count(1, 3, 1000, 0);
    world.wait(400);
    let report = world.report_of("d");
    assert_eq!(
        (report.saved, report.last, report.left_in_flight),
        (None, None, 0)
    );
    let now = report.timeline.last().unwrap();
    assert_eq!(
        (millis(now.at), now.in_flight, now.phase()),
        (400, 3, v1::Phase::Draining)
    );
    assert!(report.timeline.len() >= 10);
    assert_eq!(world.core.report("other", world.now), None);
}

#[test]
fn what_is_left_at_a_deadline_is_told_and_a_late_end_saved_nothing() {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, &[("ingress", 2)]);
    world.start("d", &["ingress"]).unwrap();
    for _ in 0..30 {
        world.count(1, 2, 1000, 0);
        world.wait(1000);
    }
    let report = world.report_of("d");
    assert_eq!(report.drain.unwrap().phase(), v1::Phase::TimedOut);
    assert_eq!(report.left_in_flight, 2);
    assert_eq!(millis(report.saved), -15_000);
}

#[test]
fn a_report_does_not_change_after_the_end() {
    let mut world = drained();
    let before = world.report_of("d");
    world.count(1, 7, 1100, 90);
    world.wait(5000);
    assert_eq!(world.report_of("d"), before);
    let effects = world.core.cancel("d", world.now).unwrap();
    world.take(effects);
    let released = world.report_of("d");
    assert!(!released.drain.unwrap().holding);
    assert_eq!(released.timeline, before.timeline);
}

#[test]
fn a_report_survives_the_control_plane() {
    let world = drained();
    let before = world.report_of("d");
    let second = World::after(vec![world.stored.last().cloned().unwrap()]);
    assert_eq!(second.report_of("d"), before);
}

#[test]
fn a_resumed_drain_goes_on_with_the_report_that_it_had() {
    let mut first = World::new();
    first.attach(1, "a", 5, 11, &[("ingress", 3)]);
    first.start("d", &["ingress"]).unwrap();
    first.count(1, 3, 1000, 0);
    first.wait(2500);
    first.count(1, 0, 1001, 1);
    // Quiet is kept as well, though it is nothing that the machine has to know afterwards.
    let record = first.stored.last().cloned().unwrap();
    assert_eq!(record.drain.as_ref().unwrap().phase(), v1::Phase::Quiet);

    let mut second = World::after(vec![record]);
    second.attach(1, "a", 5, 11, &[("ingress", 0)]);
    second.count(1, 1, 101, 0);
    second.wait(100);
    second.count(1, 0, 101, 1);
    let report = second.report_of("d");
    assert_eq!((report.requests_finished, report.connections_told), (5, 2));
    assert_eq!(
        phases(&report),
        [
            v1::Phase::Draining,
            v1::Phase::Quiet,
            v1::Phase::Draining,
            v1::Phase::Quiet
        ]
    );
    let times: Vec<i64> = report.timeline.iter().map(|sample| millis(sample.at)).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn an_attempt_that_finds_its_endpoint_has_not_ended() {
    let mut ended = Ended::default();
    let node: std::sync::Arc<str> = "a".into();
    ended.add(&node, "", (0, 0), (1, 0));
    assert_eq!(ended, Ended::default());
    ended.add(&node, "10.0.0.1:80", (0, 0), (1, 0));
    assert_ne!(ended, Ended::default());
}

#[test]
fn flapping_traffic_is_not_written_down_each_time() {
    let mut world = World::new();
    world.attach(1, "a", 5, 11, &[("ingress", 1)]);
    world.start("d", &["ingress"]).unwrap();
    let before = world.stored.len();
    for i in 0..100 {
        world.count(1, i % 2, 1000 + i, 0);
        world.wait(50);
    }
    let written = world.stored.len() - before;
    assert!((1..=3).contains(&written), "{written} times in 5 s");
}
