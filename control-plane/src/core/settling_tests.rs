use super::*;
use crate::core::outstanding::Unsent;

const SETTLED: Outstanding = Outstanding::SETTLED;

fn queued(bytes: u64) -> Outstanding {
    Outstanding::queued(bytes)
}

/// With these nodes, and a counter of questions.
fn of(names: &[&str]) -> (Settling, u64) {
    let names: Vec<Arc<str>> = names.iter().map(|name| (*name).into()).collect();
    let mut settling = Settling::default();
    settling.sync(names.iter());
    (settling, 0)
}

fn told(settling: &mut Settling, name: &str, ask: u64, seen: Outstanding, now: Instant) -> bool {
    settling.told(name, ask, seen, |all| all, now)
}

fn ask(settling: &mut Settling, last: &mut u64, now: Instant) -> Vec<(String, u64)> {
    let next = || {
        *last += 1;
        *last
    };
    let asked = settling.ask(false, now, next);
    asked
        .into_iter()
        .map(|(name, ask)| (name.to_string(), ask))
        .collect()
}

#[test]
fn one_question_is_out_at_a_time_and_one_that_owes_is_asked_again_after_a_pause() {
    let (mut settling, mut last) = of(&["a", "b"]);
    let now = Instant::now();
    let both = [("a".to_owned(), 1), ("b".to_owned(), 2)];
    assert_eq!(ask(&mut settling, &mut last, now), both);
    assert_eq!(ask(&mut settling, &mut last, now), []);
    assert!(told(&mut settling, "a", 1, queued(7), now) && told(&mut settling, "b", 2, SETTLED, now));
    assert_eq!((settling.owed().bytes, settling.owed().clients), (7, 1));
    assert_eq!(settling.next_deadline(false), Some(now + LOOK_EVERY));
    assert_eq!(
        settling.next_deadline(true),
        Some(now + GLANCE_EVERY),
        "nobody waits for it alone"
    );
    assert_eq!(ask(&mut settling, &mut last, now + LOOK_EVERY / 2), []);
    let again = [("a".to_owned(), 3)];
    assert_eq!(ask(&mut settling, &mut last, now + LOOK_EVERY), again);
    told(&mut settling, "a", 3, SETTLED, now);
    assert_eq!((settling.owed().bytes, settling.next_deadline(false)), (0, None));
}

#[test]
fn an_answer_to_a_question_from_before_a_look_does_not_count_for_it() {
    let (mut settling, mut last) = of(&["a"]);
    let now = Instant::now();
    ask(&mut settling, &mut last, now);
    settling.look(last);
    assert_eq!(ask(&mut settling, &mut last, now), [], "one is out");
    told(&mut settling, "a", 1, SETTLED, now);
    assert_eq!(settling.owed().unasked, 1);
    let again = [("a".to_owned(), 2)];
    assert_eq!(ask(&mut settling, &mut last, now), again, "at once");
    assert!(!told(&mut settling, "a", 1, SETTLED, now), "no longer asked");
    told(&mut settling, "a", 2, SETTLED, now);
    assert_eq!(settling.owed().unasked, 0);
}

#[test]
fn what_was_owed_and_cannot_be_seen_any_more_is_still_owed() {
    let (mut settling, mut last) = of(&["a"]);
    let now = Instant::now();
    ask(&mut settling, &mut last, now);
    told(
        &mut settling,
        "a",
        1,
        Outstanding {
            tcp: Some(2),
            ..queued(7)
        },
        now,
    );
    ask(&mut settling, &mut last, now + LOOK_EVERY);
    told(&mut settling, "a", 2, Outstanding::default(), now + LOOK_EVERY);
    let owed = settling.owed();
    assert_eq!((owed.sessions, owed.bytes, owed.unseen), (2, 7, 0));
    ask(&mut settling, &mut last, now + LOOK_EVERY * 2);
    told(&mut settling, "a", 3, SETTLED, now + LOOK_EVERY * 2);
    ask(&mut settling, &mut last, now + LOOK_EVERY * 3);
    settling.look(last);
    ask(&mut settling, &mut last, now + LOOK_EVERY * 3);
    told(
        &mut settling,
        "a",
        4,
        Outstanding::default(),
        now + LOOK_EVERY * 3,
    );
    let owed = settling.owed();
    assert_eq!(
        (owed.sessions, owed.bytes, owed.unseen),
        (0, 0, 1),
        "it owed nothing"
    );
}

#[test]
fn an_envoy_that_tells_the_rest_has_sent_what_was_just_in_its_buffers() {
    let (mut settling, mut last) = of(&["a"]);
    let now = Instant::now();
    let buffered = Outstanding {
        unsent: Some(Unsent {
            buffered: 7,
            ..Unsent::default()
        }),
        ..SETTLED
    };
    ask(&mut settling, &mut last, now);
    told(&mut settling, "a", 1, buffered, now);
    ask(&mut settling, &mut last, now + LOOK_EVERY);
    told(&mut settling, "a", 2, Outstanding::default(), now + LOOK_EVERY);
    assert_eq!(
        (settling.owed().bytes, settling.owed().unseen),
        (7, 0),
        "it is lost"
    );
    ask(&mut settling, &mut last, now + LOOK_EVERY * 2);
    let sent = Outstanding {
        unsent: None,
        ..SETTLED
    };
    told(&mut settling, "a", 3, sent, now + LOOK_EVERY * 2);
    assert_eq!((settling.owed().bytes, settling.owed().unseen), (0, 1));
}

#[test]
fn a_node_that_is_gone_owes_nothing() {
    let (mut settling, mut last) = of(&["a", "b"]);
    let now = Instant::now();
    ask(&mut settling, &mut last, now);
    told(&mut settling, "a", 1, queued(7), now);
    settling.sync([Arc::from("b")].iter());
    let owed = settling.owed();
    assert_eq!((owed.nodes, owed.bytes, owed.unasked), (1, 0, 1));
    assert_eq!(settling.next_deadline(false), None);
    told(&mut settling, "b", 2, SETTLED, now);
    assert_eq!(
        settling.owed(),
        Owed {
            nodes: 1,
            ..Owed::default()
        }
    );
}

#[test]
fn what_nobody_tells_is_not_zero() {
    let (mut settling, mut last) = of(&["a", "b"]);
    let now = Instant::now();
    assert_eq!(settling.known(), None);
    ask(&mut settling, &mut last, now);
    told(&mut settling, "a", 1, Outstanding::default(), now);
    assert_eq!(settling.known(), Some(Outstanding::default()));
    told(&mut settling, "b", 2, queued(7), now);
    assert_eq!(settling.known(), Some(queued(7)));
}

mod property {
    use proptest::prelude::*;

    use super::*;

    fn outstanding() -> impl Strategy<Value = Outstanding> {
        let few = || prop::option::of(0u64..3);
        (few(), few(), few()).prop_map(|(tcp, queued, upstream)| Outstanding {
            tcp,
            unsent: queued.map(|queued| Unsent {
                queued,
                clients: queued.min(1),
                ..Unsent::default()
            }),
            upstream,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// The sums are those of all nodes, whatever order things come in; and whoever has to be asked is.
        #[test]
        fn the_sums_are_as_counted_from_scratch(steps in prop::collection::vec((0u8..5, 0usize..3, outstanding()), 1..60)) {
            let names = ["a", "b", "c"];
            let (mut settling, mut last) = of(&names);
            let mut now = Instant::now();
            let mut out: BTreeMap<String, u64> = BTreeMap::new();
            for (kind, node, seen) in steps {
                match kind {
                    0 => {
                        let some: Vec<Arc<str>> = names.iter().take(node + 1).map(|name| (*name).into()).collect();
                        settling.sync(some.iter());
                        out.retain(|name, _| some.iter().any(|other| **other == **name));
                    }
                    1 => settling.look(last),
                    2 => now += LOOK_EVERY,
                    _ => {
                        if let Some(ask) = out.remove(names[node]) {
                            prop_assert!(told(&mut settling, names[node], ask, seen, now));
                        }
                    }
                }
                for (name, ask) in ask(&mut settling, &mut last, now) {
                    prop_assert_eq!(out.insert(name, ask), None, "one question at a time");
                }
                let (owed, waits) = (settling.owed(), settling.next_deadline(false));
                let mut again = settling.clone();
                again.sum_up();
                prop_assert_eq!(owed, again.owed());
                prop_assert_eq!(waits, again.next_deadline(false));
                let asking = |node: &Node| matches!(node.poll, Poll::Asking { .. });
                let forgotten = |node: &&Node| !node.answers(settling.look) && !asking(node);
                prop_assert!(settling.nodes.values().find(forgotten).is_none());
            }
        }
    }
}
