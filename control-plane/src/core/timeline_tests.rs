use proptest::prelude::*;

use super::*;

fn point(micros: u64, in_flight: u64, unknown: u32, phase: v1::Phase) -> Point {
    Point {
        at: Duration::from_micros(micros),
        in_flight,
        unknown,
        phase,
    }
}

fn at(sample: &v1::Sample) -> Duration {
    from_wire(sample.at.as_ref().unwrap()).unwrap()
}

fn phase_changes(phases: impl Iterator<Item = v1::Phase>) -> Vec<v1::Phase> {
    let mut changes: Vec<v1::Phase> = phases.collect();
    changes.dedup();
    changes
}

/// Steps of a drain: a pause in microseconds (short ones and long ones), a count, unknown reporters, and whether the
/// phase turns.
fn steps() -> impl Strategy<Value = Vec<(u64, u64, u32, bool)>> {
    let pause = prop_oneof![0..50u64, 1_000..20_000u64, 1_000_000..600_000_000u64];
    proptest::collection::vec(
        (pause, 0..1000u64, 0..4u32, proptest::bool::weighted(0.05)),
        1..1500,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_it_is_bounded_and_keeps_what_matters(steps in steps(), rest in 0..60_000_000u64) {
        let mut timeline = Timeline::default();
        let (mut time, mut quiet) = (0, false);
        let mut seen = Vec::new();
        for (pause, in_flight, unknown, turns) in steps {
            // A drain is looked at as soon as it starts.
            time += if seen.is_empty() { 0 } else { pause };
            quiet ^= turns;
            let phase = if quiet { v1::Phase::Quiet } else { v1::Phase::Draining };
            seen.push(point(time, in_flight, unknown, phase));
            timeline.observe(*seen.last().unwrap());
        }
        let end = Duration::from_micros(time + rest);
        let samples = timeline.samples(end);

        prop_assert!((FEWEST..=MOST).contains(&samples.len()), "{} points", samples.len());
        prop_assert!(samples.windows(2).all(|pair| at(&pair[0]) <= at(&pair[1])), "time goes back");
        let (first, last) = (&samples[0], samples.last().unwrap());
        prop_assert_eq!(at(first), seen[0].at);
        prop_assert_eq!((at(last), last.in_flight), (end, seen.last().unwrap().in_flight));

        let most = |counts: &mut dyn Iterator<Item = u64>| counts.max();
        prop_assert_eq!(
            most(&mut samples.iter().map(|s| s.in_flight)),
            most(&mut seen.iter().map(|p| p.in_flight))
        );
        prop_assert_eq!(
            most(&mut samples.iter().map(|s| s.unknown_reporters.into())),
            most(&mut seen.iter().map(|p| p.unknown.into()))
        );
        // Nothing is made up: every point says what was so at its time.
        for sample in &samples {
            let before = seen.iter().rposition(|p| p.at <= at(sample)).unwrap();
            let so = |p: &Point| p.in_flight == sample.in_flight && p.phase == sample.phase();
            let same_time = seen.iter().filter(|p| p.at == at(sample)).any(so);
            prop_assert!(same_time || seen[..=before].iter().any(so), "{sample:?}");
        }
        let phases = phase_changes(seen.iter().map(|p| p.phase));
        if phases.len() <= PHASES {
            prop_assert_eq!(phase_changes(samples.iter().map(v1::Sample::phase)), phases);
        }
    }

    #[test]
    fn what_is_kept_comes_back(steps in steps()) {
        let mut timeline = Timeline::default();
        let mut time = 0;
        for (pause, in_flight, unknown, _) in steps {
            time += pause;
            timeline.observe(point(time, in_flight, unknown, v1::Phase::Draining));
        }
        let resumed = Timeline::resume(&timeline.records());
        let most = |timeline: &Timeline| timeline.points.iter().map(|p| p.in_flight).max();
        prop_assert_eq!(most(&resumed), most(&timeline));
        prop_assert_eq!(resumed.last(), timeline.last());
    }
}

#[test]
fn a_drain_in_which_nothing_happens_still_has_ten_points() {
    let mut timeline = Timeline::default();
    assert!(timeline.samples(Duration::from_secs(1)).is_empty());
    timeline.observe(point(0, 3, 0, v1::Phase::Draining));
    for millis in [0, 1, 30_000] {
        let end = Duration::from_millis(millis);
        let samples = timeline.samples(end);
        assert_eq!(samples.len(), FEWEST);
        assert_eq!(at(samples.last().unwrap()), end);
        assert!(samples.iter().all(|sample| sample.in_flight == 3));
    }
    let times: Vec<u128> = timeline
        .samples(Duration::from_secs(9))
        .iter()
        .map(|sample| at(sample).as_millis())
        .collect();
    assert_eq!(times, [0, 1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000]);
}

#[test]
fn what_was_first_known_late_still_has_ten_points() {
    let mut timeline = Timeline::default();
    timeline.observe(point(8_000_000, 3, 0, v1::Phase::Draining));
    for seconds in [8, 9, 100] {
        let samples = timeline.samples(Duration::from_secs(seconds));
        assert_eq!(samples.len(), FEWEST, "at {seconds} s");
        assert_eq!(at(&samples[0]), Duration::from_secs(8));
    }
}

#[test]
fn a_peak_of_a_moment_is_kept_for_ever() {
    let mut timeline = Timeline::default();
    for tick in 0..100_000u64 {
        let in_flight = if tick == 777 { 9_999 } else { 5 + tick % 7 };
        timeline.observe(point(tick * 313, in_flight, 0, v1::Phase::Draining));
        assert!(timeline.points.len() <= KEPT);
    }
    let peak = timeline
        .points
        .iter()
        .find(|point| point.in_flight == 9_999)
        .unwrap();
    assert_eq!(peak.at, Duration::from_micros(777 * 313));
}

#[test]
fn thinning_is_rare() {
    let mut timeline = Timeline::default();
    let (mut thinned, mut before) = (0, 0);
    for tick in 0..100_000u64 {
        timeline.observe(point(tick * 5_000, tick % 100, 0, v1::Phase::Draining));
        thinned += usize::from(timeline.points.len() < before);
        before = timeline.points.len();
    }
    // Each leaves room for as many points again as are left.
    assert!(thinned <= 100_000 / (KEPT - LEFT), "{thinned} times");
}

#[test]
fn a_clock_that_goes_back_stands_still() {
    let mut timeline = Timeline::default();
    timeline.observe(point(2_000, 3, 0, v1::Phase::Draining));
    timeline.observe(point(1_000, 2, 0, v1::Phase::Draining));
    assert_eq!(timeline.last().unwrap().at, Duration::from_millis(2));
    assert_eq!(
        at(timeline.samples(Duration::from_millis(1)).last().unwrap()),
        Duration::from_millis(2)
    );
}

#[test]
fn a_moment_between_points_is_as_the_point_before() {
    let mut timeline = Timeline::default();
    timeline.observe(point(1_000, 3, 0, v1::Phase::Draining));
    timeline.observe(point(2_000, 1, 0, v1::Phase::Draining));
    let at = |micros| {
        timeline
            .at(Duration::from_micros(micros))
            .map(|point| point.in_flight)
    };
    assert_eq!(
        [at(999), at(1_000), at(1_999), at(5_000)],
        [None, Some(3), Some(3), Some(1)]
    );
}

#[test]
fn flapping_traffic_does_not_fill_it_up() {
    let mut timeline = Timeline::default();
    for tick in 0..20_000u64 {
        let phase = [v1::Phase::Quiet, v1::Phase::Draining][usize::from(tick % 2 == 1)];
        timeline.observe(point(tick * 100_000, tick % 2, 0, phase));
    }
    timeline.observe(point(20_000 * 100_000, 0, 0, v1::Phase::Drained));
    let samples = timeline.samples(Duration::ZERO);
    assert!(samples.len() <= MOST);
    assert_eq!(samples.last().unwrap().phase(), v1::Phase::Drained);
}
