//! Streams that end on purpose: of a control plane that goes away, and of a VM that does.

use super::*;

#[test]
fn an_announced_end_is_followed_by_an_attempt_soon_and_forgets_earlier_failures() {
    let mut bench = Bench::new();
    for token in 100..108 {
        bench.open(token);
        bench.handle(Event::Closed { token, status: 14 });
    }
    bench.logged.clear();
    bench.open(TOKEN);
    bench.command(TOKEN, 1, Vec::new());
    bench.now += ms(200);
    let announcement = FilterCommand {
        generation: 1,
        going_away: true,
        ..FilterCommand::default()
    };
    assert!(bench.receive(TOKEN, &announcement).is_empty());
    assert_eq!(
        bench.handle(Event::Closed {
            token: TOKEN,
            status: 14
        }),
        [Effect::Close { token: TOKEN }]
    );
    let soon = bench.session.next_deadline().unwrap() - bench.now;
    assert!(soon <= ms(100), "{soon:?}");
    assert!(matches!(bench.tick_when_due()[..], [Effect::Open { .. }]));
    assert_eq!(bench.warnings(), 0, "nothing is wrong");
    // The next one is not there yet: from then on as usual.
    bench.handle(Event::Opened {
        token: 8,
        process: process(),
    });
    bench.handle(Event::Closed { token: 8, status: 14 });
    let wait = bench.session.next_deadline().unwrap() - bench.now;
    assert!((ms(100)..=ms(200)).contains(&wait), "the first failure: {wait:?}");
    assert_eq!(bench.warnings(), 1);
}

#[test]
fn announcing_ends_over_and_over_makes_no_busy_loop() {
    let mut bench = Bench::attached();
    let announcement = FilterCommand {
        generation: 1,
        going_away: true,
        ..FilterCommand::default()
    };
    bench.receive(TOKEN, &announcement);
    bench.handle(Event::Closed {
        token: TOKEN,
        status: 14,
    });
    assert!(
        bench.session.next_deadline().unwrap() >= bench.now + ms(100),
        "the stream was too short"
    );
}

#[test]
fn filters_that_are_sent_away_together_do_not_come_back_together() {
    let attempts: std::collections::BTreeSet<Duration> = (0..50)
        .map(|seed| {
            let mut bench = Bench::new();
            bench.session = Session::new(
                Identity {
                    node_id: "node".to_owned(),
                    node_cluster: "cluster".to_owned(),
                    epoch: seed,
                },
                bench.session.config().clone(),
                seed,
            );
            bench.open(TOKEN);
            bench.now += ms(200);
            let announcement = FilterCommand {
                going_away: true,
                ..FilterCommand::default()
            };
            bench.receive(TOKEN, &announcement);
            bench.handle(Event::Closed {
                token: TOKEN,
                status: 14,
            });
            bench.session.next_deadline().unwrap() - bench.now
        })
        .collect();
    assert!(attempts.len() > 40, "{attempts:?}");
    assert!(
        attempts.first() < Some(&ms(25)) && attempts.last() > Some(&ms(75)),
        "{attempts:?}"
    );
    assert!(attempts.last() <= Some(&ms(100)), "{attempts:?}");
}

#[test]
fn the_last_words_of_a_vm_are_a_goodbye_only_if_nothing_is_in_flight() {
    let mut bench = Bench::attached();
    let request = bench
        .counts
        .listeners
        .add("a")
        .begin(1, crate::counts::Kind::Unknown);
    assert!(
        !sent(bench.handle(Event::Leaving), TOKEN).goodbye,
        "and stays in the list"
    );
    drop(request);
    let mut last = bench.handle(Event::Leaving);
    assert_eq!(last.pop(), Some(Effect::Leave { epoch: 42 }));
    assert!(sent(last, TOKEN).goodbye);
    assert_eq!(
        Bench::new().handle(Event::Leaving),
        [Effect::Leave { epoch: 42 }],
        "to nobody"
    );
}
