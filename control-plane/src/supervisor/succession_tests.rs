use proptest::prelude::*;

use super::*;

fn survivor(name: usize, depends_on: &[usize], stop: u64, drain: u64) -> Survivor {
    Survivor {
        name: name.to_string(),
        depends_on: depends_on.iter().map(ToString::to_string).collect(),
        stop_signal: Signal::SIGQUIT,
        stop_timeout: Duration::from_millis(stop),
        drain_timeout: Duration::from_millis(drain),
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn a_proxy_is_drained_and_stopped_before_what_it_depends_on() {
    let start = Instant::now();
    let survivors = vec![survivor(0, &[], 500, 0), survivor(1, &[0], 500, 300)];
    let mut succession = Succession::new(survivors, None);
    assert_eq!(succession.handle(Event::Tick, start), [Effect::Drain(1)]);
    assert_eq!(succession.next_deadline(), Some(start + ms(300)));
    assert_eq!(
        succession.handle(Event::Quiet(1), start + ms(100)),
        [Effect::Signal(1, Signal::SIGQUIT)]
    );
    assert!(succession.handle(Event::Tick, start + ms(599)).is_empty());
    assert_eq!(succession.handle(Event::Tick, start + ms(600)), [Effect::Kill(1)]);
    assert!(succession.handle(Event::Quiet(1), start + ms(601)).is_empty());
    assert_eq!(
        succession.handle(Event::Gone(1), start + ms(610)),
        [Effect::Signal(0, Signal::SIGQUIT)]
    );
    assert!(!succession.is_over());
    assert!(succession.handle(Event::Gone(0), start + ms(620)).is_empty());
    assert!(succession.is_over());
}

#[test]
fn what_is_left_of_the_shutdown_bounds_the_wait_for_requests_and_not_the_stop() {
    let start = Instant::now();
    let mut succession = Succession::new(vec![survivor(0, &[], 500, 10_000)], Some(start + ms(40)));
    assert_eq!(succession.handle(Event::Tick, start), [Effect::Drain(0)]);
    assert_eq!(
        succession.handle(Event::Tick, start + ms(40)),
        [Effect::Signal(0, Signal::SIGQUIT)]
    );
    assert_eq!(succession.next_deadline(), Some(start + ms(540)));
    let mut over = Succession::new(vec![survivor(0, &[], 500, 10_000)], Some(start));
    assert_eq!(
        over.handle(Event::Tick, start + ms(1)),
        [Effect::Signal(0, Signal::SIGQUIT)]
    );
}

#[test]
fn told_to_stop_it_leaves_every_process_its_stop_timeout_and_kills_what_is_left_at_the_end() {
    let start = Instant::now();
    let survivors = vec![survivor(0, &[], 500, 0), survivor(1, &[0], 300, 10_000)];
    let mut succession = Succession::new(survivors, None);
    assert_eq!(succession.handle(Event::Tick, start), [Effect::Drain(1)]);
    let until = start + ms(2000);
    assert!(succession.handle(Event::Hurry(until), start + ms(100)).is_empty());
    assert_eq!(succession.next_deadline(), Some(start + ms(1200)));
    assert_eq!(
        succession.handle(Event::Tick, start + ms(1200)),
        [Effect::Signal(1, Signal::SIGQUIT)]
    );
    // Whoever insists is not put off by an earlier word.
    assert!(
        succession
            .handle(Event::Hurry(until + ms(500)), start + ms(1250))
            .is_empty()
    );
    assert_eq!(
        succession.handle(Event::Hurry(start + ms(1300)), start + ms(1300)),
        [Effect::Kill(0), Effect::Kill(1)]
    );
    assert_eq!(succession.next_deadline(), None);
    assert!(succession.handle(Event::Gone(1), start + ms(1310)).is_empty());
    assert!(succession.handle(Event::Gone(0), start + ms(1310)).is_empty());
    assert!(succession.is_over());
}

#[test]
fn what_depends_on_itself_in_a_record_is_no_endless_loop() {
    let start = Instant::now();
    let mut succession = Succession::new(vec![survivor(0, &[1], 50, 0), survivor(1, &[0], 50, 0)], None);
    assert!(succession.handle(Event::Hurry(start + ms(10)), start).is_empty());
    assert_eq!(
        succession.handle(Event::Tick, start + ms(10)),
        [Effect::Kill(0), Effect::Kill(1)]
    );
}

#[test]
fn without_a_stop_timeout_it_is_killed_at_once() {
    let mut succession = Succession::new(vec![survivor(0, &[], 0, 0)], None);
    assert_eq!(succession.handle(Event::Tick, Instant::now()), [Effect::Kill(0)]);
}

#[test]
fn what_was_kept_and_makes_no_sense_is_as_if_it_were_not_configured() {
    let record = ProcessRecord {
        name: "a".to_owned(),
        stop_signal: 4711,
        drain_timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
        stop_timeout: Some(prost_types::Duration {
            seconds: -5,
            nanos: 0,
        }),
        ..ProcessRecord::default()
    };
    let survivor = Survivor::new(&record);
    assert_eq!(survivor.stop_signal, Signal::SIGTERM);
    assert_eq!(
        (survivor.stop_timeout, survivor.drain_timeout),
        (Duration::ZERO, Duration::ZERO)
    );
}

proptest! {
    /// Whatever the graph and the times: nobody is touched while a dependant lives, everybody is told and in the end
    /// killed if need be, and it is over in bounded time.
    #[test]
    fn nobody_is_stopped_before_its_dependants_and_it_always_ends(
        graph in prop::collection::vec((prop::collection::vec(any::<prop::sample::Index>(), 0..3), 0_u64..300, 0_u64..300, 0_u64..900), 1..12),
        left in prop::option::of(0_u64..500),
    ) {
        let start = Instant::now();
        let mut survivors = Vec::new();
        for (index, (edges, stop, drain, _)) in graph.iter().enumerate() {
            let depends_on: Vec<usize> = if index == 0 { Vec::new() } else { edges.iter().map(|edge| edge.index(index)).collect() };
            survivors.push(survivor(index, &depends_on, *stop, *drain));
        }
        let lives: Vec<u64> = graph.iter().map(|(.., lives)| *lives).collect();
        let mut succession = Succession::new(survivors.clone(), left.map(|left| start + ms(left)));
        let mut dies_at: Vec<Option<Instant>> = vec![None; graph.len()];
        let mut gone = vec![false; graph.len()];
        let mut now = start;
        let mut todo = succession.handle(Event::Tick, now);
        for _ in 0..1000 {
            for effect in std::mem::take(&mut todo) {
                let (Effect::Drain(index) | Effect::Signal(index, _) | Effect::Kill(index)) = effect;
                for (other, survivor) in survivors.iter().enumerate() {
                    prop_assert!(gone[other] || !survivor.depends_on.contains(&index.to_string()), "{effect:?}");
                }
                match effect {
                    Effect::Drain(_) => {}
                    Effect::Signal(index, _) => { dies_at[index].get_or_insert(now + ms(lives[index])); }
                    Effect::Kill(index) => dies_at[index] = Some(now),
                }
            }
            if succession.is_over() { break; }
            let death = dies_at.iter().enumerate().filter(|(index, _)| !gone[*index]).filter_map(|(index, at)| Some(((*at)?, index))).min();
            let tick = succession.next_deadline();
            match (death, tick) {
                (Some((at, index)), tick) if tick.is_none_or(|tick| at <= tick) => {
                    now = now.max(at);
                    gone[index] = true;
                    todo = succession.handle(Event::Gone(index), now);
                }
                (_, Some(tick)) => {
                    now = now.max(tick);
                    todo = succession.handle(Event::Tick, now);
                }
                _ => prop_assert!(false, "stuck"),
            }
        }
        prop_assert!(succession.is_over());
        let bound: u64 = graph.iter().map(|(_, stop, drain, _)| stop + drain).sum();
        prop_assert!(now - start <= ms(bound));
    }
}

#[test]
fn a_shutdown_that_did_not_end_was_killed_before_its_time_was_over() {
    let began = SystemTime::UNIX_EPOCH + ms(1_000_000);
    let shutdown = ShutdownRecord {
        began: Some(began.into()),
        deadline: Some((began + ms(30_000)).into()),
        why: String::new(),
    };
    for (now, says) in [
        (began + ms(10_020), "was killed at most 10s 20ms after it began: "),
        // It was found late, or the clock was set: that it had not ended is known all the same.
        (began + ms(30_000), "was killed before its time was over: "),
        (began - ms(1), "was killed before its time was over: "),
    ] {
        let said = shutdown.cut_short(now);
        assert!(
            said.contains(says) && said.contains("the grace period (30s)"),
            "{said}"
        );
    }
    let said = ShutdownRecord::default().cut_short(began);
    assert!(said.contains("shorter than the grace period. Raise"), "{said}");
}

#[test]
fn times_that_make_no_sense_do_not_overflow() {
    let span = |seconds| Some(prost_types::Duration { seconds, nanos: -1 });
    for seconds in [i64::MIN, i64::MAX] {
        let record = ProcessRecord {
            admin: "unix:/a".to_owned(),
            stop_timeout: span(seconds),
            drain_timeout: Some(prost_types::Duration { seconds, nanos: 0 }),
            ..ProcessRecord::default()
        };
        let mut succession = Succession::new(vec![Survivor::new(&record)], None);
        assert!(!succession.handle(Event::Tick, Instant::now()).is_empty());
        let shutdown = ShutdownRecord {
            deadline: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            ..ShutdownRecord::default()
        };
        assert!(shutdown.left(SystemTime::now()) <= LONGEST);
    }
}
