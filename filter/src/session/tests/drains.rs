//! What the control plane has said, and what is reported while it drains.

use super::*;

#[test]
fn a_new_generation_is_acknowledged_at_once_and_a_renewal_is_not() {
    let mut bench = Bench::attached();
    let report = sent(bench.command(TOKEN, 2, vec![drain_of("a", ms(60_000))]), TOKEN);
    assert_eq!(report.generation, 2);
    assert!(bench.closes("a") && !bench.closes("b"));
    assert!(
        bench
            .command(TOKEN, 2, vec![drain_of("a", ms(60_000))])
            .is_empty()
    );
}

#[test]
fn while_a_drain_is_awaited_heartbeats_are_faster() {
    let mut bench = Bench::attached();
    bench.command(TOKEN, 2, vec![drain_of("a", ms(60_000))]);
    assert_eq!(bench.session.next_deadline(), Some(bench.now + ms(500)));
    let held = Directive {
        awaited: false,
        ..drain_of("a", ms(60_000))
    };
    bench.command(TOKEN, 3, vec![held]);
    assert_eq!(bench.session.next_deadline(), Some(bench.now + ms(5000)));
}

#[test]
fn an_older_generation_is_ignored_within_a_stream_and_not_in_a_new_one() {
    let mut bench = Bench::attached();
    bench.command(TOKEN, 9, vec![drain_of("a", ms(60_000))]);
    assert!(bench.command(TOKEN, 8, Vec::new()).is_empty());
    assert!(bench.closes("a"));
    let late_ask = FilterCommand {
        generation: 8,
        ask: 3,
        ..FilterCommand::default()
    };
    let report = sent(bench.receive(TOKEN, &late_ask), TOKEN);
    assert_eq!(
        (report.generation, report.answers),
        (9, 3),
        "a question is no state"
    );
    assert!(bench.closes("a"));

    bench.handle(Event::Closed {
        token: TOKEN,
        status: 14,
    });
    assert_eq!(bench.open(TOKEN + 1).generation, 0);
    bench.command(TOKEN + 1, 2, Vec::new());
    assert!(!bench.closes("a"));
}

#[test]
fn zero_is_reported_at_once_where_it_is_awaited_and_nowhere_else() {
    let mut bench = Bench::attached();
    assert!(bench.crossed("a").is_empty(), "nothing drains");
    bench.command(TOKEN, 2, vec![drain_of("a", ms(60_000))]);
    sent(bench.crossed("a"), TOKEN);
    assert!(bench.crossed("b").is_empty(), "b does not drain");
}

#[test]
fn a_storm_of_crossings_is_spaced_and_its_last_word_is_not_lost() {
    let mut bench = Bench::attached();
    bench.command(TOKEN, 2, vec![drain_of("a", ms(60_000))]);
    let storm = 10_000;
    let reports: usize = (0..storm).map(|_| bench.crossed("a").len()).sum();
    assert_eq!(reports, Limiter::BURST as usize);
    let due = bench.session.next_deadline().unwrap();
    assert!(due <= bench.now + Limiter::SPACING, "{:?}", due - bench.now);
    sent(bench.tick_when_due(), TOKEN);
    assert_eq!(bench.session.next_deadline(), Some(bench.now + ms(500)));
}

#[test]
fn the_drain_outlives_its_stream_and_ends_with_its_lease() {
    let mut bench = Bench::attached();
    bench.command(TOKEN, 2, vec![drain_of("a", ms(3000)), drain_of("b", ms(60_000))]);
    let given = bench.now;
    assert_eq!(
        bench.handle(Event::Closed {
            token: TOKEN,
            status: 14
        }),
        [Effect::Close { token: TOKEN }],
        "the host is told to forget the stream"
    );
    let warned = bench.warnings();
    while bench.now < given + ms(3000) {
        assert!(bench.closes("a"), "after {:?}", bench.now - given);
        if let [Effect::Open { .. }] = bench.tick_when_due()[..] {
            bench.handle(Event::Opened {
                token: 8,
                process: process(),
            });
            bench.handle(Event::Closed { token: 8, status: 14 });
        }
    }
    assert!(!bench.closes("a") && bench.closes("b"));
    assert_eq!(
        bench.warnings(),
        warned + 1,
        "one line for the lease: {:?}",
        bench.logged
    );
    assert!(
        bench.logged.last().unwrap().1.contains("drain of a ends"),
        "{:?}",
        bench.logged
    );
}

#[test]
fn a_lease_end_is_a_deadline() {
    let mut bench = Bench::attached();
    bench.command(
        TOKEN,
        2,
        vec![Directive {
            awaited: false,
            ..drain_of("a", ms(1500))
        }],
    );
    assert_eq!(bench.session.next_deadline(), Some(bench.now + ms(1500)));
    bench.tick_when_due();
    assert!(bench.session.directives().is_empty());
}

#[test]
fn many_leases_that_end_at_once_are_one_line() {
    let mut bench = Bench::attached();
    bench.command(TOKEN, 2, (0..1000).map(|_| drain_of("", ms(1000))).collect());
    bench.now += ms(1000);
    bench.handle(Event::Tick);
    let text = &bench.logged.last().unwrap().1;
    assert!(text.contains("every listener and 999 more"), "{text}");
    assert_eq!(bench.warnings(), 1);
}

#[test]
fn what_reaches_zero_towards_an_upstream_is_reported_where_it_is_awaited() {
    let mut bench = Bench::attached();
    let upstreams = std::rc::Rc::clone(&bench.counts.upstreams);
    let crossed = |bench: &mut Bench, address: &str| {
        let crossings = Crossings {
            left: Some(std::rc::Rc::clone(upstreams.begin(address).endpoint())),
            ..Crossings::default()
        };
        bench.handle(Event::Crossed(&crossings))
    };
    assert!(crossed(&mut bench, "a:1").is_empty(), "nobody waits");
    let towards = Directive {
        upstream: "a:1".to_owned(),
        ..drain_of("", ms(60_000))
    };
    bench.command(TOKEN, 2, vec![towards]);
    let report = sent(crossed(&mut bench, "a:1"), TOKEN);
    let counted: Vec<(&str, u64)> = report
        .upstreams
        .iter()
        .map(|counts| (counts.address.as_str(), counts.in_flight))
        .collect();
    assert_eq!(counted, [("a:1", 0)]);
    assert!(crossed(&mut bench, "b:1").is_empty());
    sent(crossed(&mut bench, ""), TOKEN);
    assert!(bench.crossed("a").is_empty(), "no listener drains");
    assert!(!bench.closes("a"));
}

#[test]
fn requests_are_looked_at_only_for_the_answer_to_an_ask_that_wants_them() {
    let mut bench = Bench::attached();
    let listener = bench.counts.listeners.add("a");
    let _held: Vec<_> = (5..9)
        .map(|id| listener.begin(id, crate::counts::Kind::Unknown))
        .collect();
    let looked_at = |effects: Vec<Effect>| -> Vec<u32> {
        let [Effect::Send { inspections, .. }] = &effects[..] else {
            panic!("not one report: {effects:?}")
        };
        inspections.iter().map(|found| found.context).collect()
    };
    let mut ask = FilterCommand {
        generation: 1,
        ask: 3,
        blockers: 2,
        ..FilterCommand::default()
    };
    assert_eq!(looked_at(bench.receive(TOKEN, &ask)), [5, 6]);
    assert!(looked_at(bench.tick_when_due()).is_empty(), "once");
    ask.blockers = u32::MAX;
    assert_eq!(looked_at(bench.receive(TOKEN, &ask)).len(), 4);
    ask.blockers = 0;
    assert!(looked_at(bench.receive(TOKEN, &ask)).is_empty());
    ask = FilterCommand {
        generation: 2,
        blockers: 2,
        ..FilterCommand::default()
    };
    assert!(looked_at(bench.receive(TOKEN, &ask)).is_empty(), "no ask");
}
