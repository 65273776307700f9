use std::time::Duration;

use ebb_proto::v1;

use super::*;
use crate::core::settling::UPSTREAM_WITHIN;

const QUIET: Duration = Duration::from_millis(200);
const TIMEOUT: Duration = Duration::from_secs(10);

fn policy() -> Policy {
    Policy {
        quiet_period: QUIET,
        timeout: TIMEOUT,
        ..Policy::default()
    }
}

fn seen(in_flight: u64, arrivals: u64) -> Event {
    Event::Observed(Observation {
        in_flight,
        arrivals,
        ..Observation::default()
    })
}

/// Nothing in flight, everybody has confirmed, and this is owed.
fn owing(owed: Owed) -> Event {
    Event::Observed(Observation {
        owed,
        ..Observation::default()
    })
}

/// A drain by this policy that is quiet since its start, and looks at what is owed.
fn looking(policy: Policy) -> (Machine, Instant) {
    let start = Instant::now();
    let (mut machine, _) = Machine::start(policy, Hold::Holding, start);
    machine.handle(seen(0, 0), start);
    assert_eq!(machine.handle(Event::Tick, start + QUIET), [Effect::Confirm]);
    assert_eq!(machine.handle(seen(0, 0), start + QUIET), [Effect::Look]);
    (machine, start)
}

fn unconfirmed(unconfirmed: usize) -> Event {
    Event::Observed(Observation {
        unconfirmed,
        ..Observation::default()
    })
}

/// A drain with one request in flight, and its start.
fn draining() -> (Machine, Instant) {
    let start = Instant::now();
    let (mut machine, effects) = Machine::start(policy(), Hold::Holding, start);
    assert_eq!(effects, [Effect::Keep, Effect::Publish, Effect::Changed]);
    assert_eq!(machine.handle(seen(1, 0), start), []);
    (machine, start)
}

#[test]
fn without_an_announcement_it_closes_at_once() {
    let (machine, start) = draining();
    assert_eq!(machine.phase(), v1::Phase::Draining);
    assert_eq!(machine.closing_since(), Some(start));
}

#[test]
fn an_announcement_delays_the_closing_and_the_judging() {
    let start = Instant::now();
    let announce = Duration::from_secs(1);
    let (mut machine, effects) = Machine::start(Policy { announce, ..policy() }, Hold::Holding, start);
    assert_eq!(effects, [Effect::Keep, Effect::Publish, Effect::Changed]);
    assert_eq!(machine.closing_since(), None);
    assert_eq!(machine.next_deadline(), Some(start + announce));
    assert_eq!(machine.handle(seen(0, 0), start + announce / 2), []);
    assert_eq!(machine.phase(), v1::Phase::Announced);
    let effects = machine.handle(Event::Tick, start + announce);
    assert_eq!(effects, [Effect::Keep, Effect::Publish, Effect::Changed]);
    assert_eq!(machine.closing_since(), Some(start + announce));
}

#[test]
fn zero_is_not_the_end_before_the_quiet_period_and_a_confirmation() {
    let (mut machine, start) = draining();
    let zero = start + Duration::from_secs(1);
    assert_eq!(machine.handle(seen(0, 1), zero), [Effect::Changed]);
    assert_eq!(machine.next_deadline(), Some(zero + QUIET));
    assert_eq!(machine.handle(Event::Tick, zero + QUIET / 2), []);
    assert_eq!(machine.handle(Event::Tick, zero + QUIET), [Effect::Confirm]);
    assert_eq!(
        machine.handle(
            Event::Observed(Observation {
                arrivals: 1,
                unconfirmed: 1,
                ..Default::default()
            }),
            zero + QUIET
        ),
        []
    );
    assert_eq!(machine.handle(seen(0, 1), zero + QUIET), [Effect::Look]);
    let end = machine.handle(seen(0, 1), zero + QUIET);
    assert_eq!(end, [Effect::Keep, Effect::Publish, Effect::Changed]);
    assert_eq!(machine.outcome(), Some((Outcome::Drained, Hold::Holding)));
    assert_eq!(machine.elapsed(zero + TIMEOUT), Duration::from_secs(1) + QUIET);
}

#[test]
fn a_request_that_came_and_went_restarts_the_quiet_period() {
    let (mut machine, start) = draining();
    machine.handle(seen(0, 1), start);
    assert_eq!(machine.handle(seen(0, 2), start + QUIET / 2), []);
    assert_eq!(machine.handle(Event::Tick, start + QUIET), []);
    assert_eq!(
        machine.handle(Event::Tick, start + QUIET / 2 + QUIET),
        [Effect::Confirm]
    );
}

#[test]
fn a_request_during_the_confirmation_goes_back_to_draining() {
    let (mut machine, start) = draining();
    machine.handle(seen(0, 0), start);
    machine.handle(Event::Tick, start + QUIET);
    assert_eq!(machine.handle(seen(1, 1), start + QUIET), [Effect::Changed]);
    assert_eq!(machine.phase(), v1::Phase::Draining);
}

#[test]
fn an_unknown_reporter_blocks_until_the_deadline() {
    let (mut machine, start) = draining();
    let unknown = Event::Observed(Observation {
        unknown: 1,
        ..Observation::default()
    });
    assert_eq!(machine.handle(unknown, start), []);
    assert_eq!(machine.handle(Event::Tick, start + TIMEOUT - QUIET), []);
    assert!(!machine.handle(Event::Tick, start + TIMEOUT).is_empty());
    assert_eq!(machine.outcome(), Some((Outcome::TimedOut, Hold::Holding)));
}

#[test]
fn a_quiet_period_of_zero_confirms_the_first_zero() {
    let start = Instant::now();
    let (mut machine, _) = Machine::start(
        Policy {
            quiet_period: Duration::ZERO,
            ..policy()
        },
        Hold::Holding,
        start,
    );
    assert_eq!(
        machine.handle(unconfirmed(1), start),
        [Effect::Changed, Effect::Confirm]
    );
    assert_eq!(machine.handle(unconfirmed(0), start), [Effect::Look]);
    machine.handle(unconfirmed(0), start);
    assert_eq!(machine.phase(), v1::Phase::Drained);
}

const ONE: Owed = Owed {
    nodes: 1,
    unasked: 0,
    unseen: 0,
    sessions: 0,
    bytes: 0,
    clients: 0,
    upstream: 0,
};

const ENDS: [Effect; 3] = [Effect::Keep, Effect::Publish, Effect::Changed];

#[test]
fn it_does_not_end_before_everybody_was_looked_at() {
    let (mut machine, start) = looking(policy());
    let unasked = Owed { unasked: 1, ..ONE };
    assert_eq!(machine.handle(owing(unasked), start + QUIET), []);
    assert_eq!(machine.next_deadline(), Some(start + TIMEOUT));
    assert_eq!(machine.handle(owing(ONE), start + QUIET), ENDS);
    assert_eq!(machine.outcome(), Some((Outcome::Drained, Hold::Holding)));
}

#[test]
fn bytes_that_clients_have_not_received_hold_it_and_then_everybody_confirms_and_is_looked_at_again() {
    let (mut machine, start) = looking(policy());
    let at = start + QUIET;
    let unsent = Owed { bytes: 9, ..ONE };
    assert_eq!(machine.handle(owing(unsent), at), []);
    assert_eq!(machine.phase(), v1::Phase::Quiet);
    assert_eq!(machine.next_deadline(), Some(start + TIMEOUT));
    assert_eq!(machine.handle(owing(ONE), at), [Effect::Confirm]);
    assert_eq!(machine.handle(owing(ONE), at), [Effect::Look]);
    assert_eq!(machine.handle(owing(ONE), at), ENDS);
}

#[test]
fn bytes_hold_it_until_the_deadline() {
    let (mut machine, start) = looking(policy());
    machine.handle(owing(Owed { bytes: 9, ..ONE }), start + QUIET);
    assert_eq!(machine.handle(Event::Tick, start + TIMEOUT), ENDS);
    assert_eq!(machine.outcome(), Some((Outcome::TimedOut, Hold::Holding)));
}

#[test]
fn what_cannot_be_seen_makes_it_linger_from_the_moment_it_was_quiet() {
    let linger = Duration::from_secs(1);
    let (mut machine, start) = looking(Policy { linger, ..policy() });
    let unseen = Owed { unseen: 1, ..ONE };
    assert_eq!(machine.handle(owing(unseen), start + QUIET), []);
    assert_eq!(machine.next_deadline(), Some(start + linger));
    assert_eq!(machine.handle(Event::Tick, start + linger - QUIET), []);
    assert_eq!(machine.handle(Event::Tick, start + linger), [Effect::Confirm]);
    assert_eq!(machine.handle(owing(unseen), start + linger), [Effect::Look]);
    assert_eq!(machine.handle(owing(unseen), start + linger), ENDS);
    let (mut machine, start) = looking(Policy {
        linger: Duration::ZERO,
        ..policy()
    });
    assert_eq!(machine.handle(owing(unseen), start + QUIET), ENDS);
}

#[test]
fn sessions_count_like_requests_in_flight() {
    let (mut machine, start) = draining();
    let session = Owed { sessions: 1, ..ONE };
    assert_eq!(machine.handle(owing(session), start), []);
    assert_eq!(machine.phase(), v1::Phase::Draining);
    assert_eq!(machine.handle(owing(ONE), start), [Effect::Changed]);
    let (mut machine, start) = looking(policy());
    assert_eq!(machine.handle(owing(session), start + QUIET), [Effect::Changed]);
    assert_eq!(machine.phase(), v1::Phase::Draining);
}

#[test]
fn what_envoys_do_on_their_own_account_is_waited_for_within_a_bound() {
    let (mut machine, start) = looking(policy());
    let mirrored = Owed { upstream: 2, ..ONE };
    assert_eq!(machine.handle(owing(mirrored), start + QUIET), []);
    let bound = start + UPSTREAM_WITHIN;
    assert_eq!(machine.next_deadline(), Some(bound));
    assert_eq!(machine.handle(Event::Tick, bound), [Effect::Confirm]);
    assert_eq!(machine.handle(owing(mirrored), bound), [Effect::Look]);
    assert_eq!(machine.handle(owing(mirrored), bound), ENDS);
    assert_eq!(machine.outcome(), Some((Outcome::Drained, Hold::Holding)));
    let (mut machine, start) = looking(policy());
    machine.handle(owing(mirrored), start + QUIET);
    assert_eq!(machine.handle(owing(ONE), start + QUIET), [Effect::Confirm]);
}

#[test]
fn it_goes_on_for_the_flush_of_loggers_and_for_idle_clients() {
    let flush = Duration::from_secs(2);
    let (mut machine, start) = looking(Policy { flush, ..policy() });
    machine.handle(owing(ONE), start + QUIET);
    assert_eq!(machine.next_deadline(), Some(start + flush));
    // A request that came and went has been logged as well.
    machine.handle(
        Event::Observed(Observation {
            arrivals: 1,
            owed: ONE,
            ..Observation::default()
        }),
        start + flush / 2,
    );
    assert_eq!(machine.next_deadline(), Some(start + flush / 2 + QUIET));
    let idle = Duration::from_secs(3);
    let (mut machine, start) = looking(Policy { idle, ..policy() });
    machine.handle(owing(ONE), start + QUIET);
    assert_eq!(machine.next_deadline(), Some(start + idle));
    assert_eq!(machine.handle(Event::Tick, start + idle), [Effect::Confirm]);
}

#[test]
fn nobody_left_owes_nothing() {
    let long = Duration::from_secs(3);
    let (mut machine, start) = looking(Policy {
        idle: long,
        flush: long,
        ..policy()
    });
    machine.handle(owing(ONE), start + QUIET);
    assert_eq!(
        machine.handle(owing(Owed::default()), start + QUIET),
        [Effect::Confirm]
    );
}

#[test]
fn one_that_closes_nothing_owes_nothing() {
    let start = Instant::now();
    let (mut machine, _) = Machine::start(policy(), Hold::Released, start);
    machine.handle(seen(0, 0), start);
    machine.handle(Event::Tick, start + QUIET);
    assert_eq!(machine.handle(seen(0, 0), start + QUIET), ENDS);
}

#[test]
fn a_request_while_it_settles_goes_back_to_draining() {
    let (mut machine, start) = looking(policy());
    let at = start + QUIET;
    machine.handle(owing(Owed { bytes: 9, ..ONE }), at);
    assert_eq!(machine.handle(seen(1, 1), at), [Effect::Changed]);
    assert_eq!(machine.phase(), v1::Phase::Draining);
    // One that came and went restarts the quiet period.
    let (mut machine, start) = looking(policy());
    machine.handle(owing(Owed { bytes: 9, ..ONE }), start + QUIET);
    machine.handle(seen(0, 1), start + QUIET);
    assert_eq!(machine.next_deadline(), Some(start + QUIET * 2));
}

#[test]
fn a_timeout_of_zero_ends_at_once_and_holds() {
    let start = Instant::now();
    let (machine, effects) = Machine::start(
        Policy {
            timeout: Duration::ZERO,
            ..policy()
        },
        Hold::Holding,
        start,
    );
    assert_eq!(effects, [Effect::Keep, Effect::Publish, Effect::Changed]);
    assert_eq!(machine.outcome(), Some((Outcome::TimedOut, Hold::Holding)));
    assert_eq!(machine.closing_since(), Some(start));
}

#[test]
fn a_deadline_with_abort_lets_go() {
    let start = Instant::now();
    let (mut machine, _) = Machine::start(
        Policy {
            on_timeout: OnTimeout::Abort,
            ..policy()
        },
        Hold::Holding,
        start,
    );
    machine.handle(Event::Tick, start + TIMEOUT);
    assert_eq!(machine.outcome(), Some((Outcome::TimedOut, Hold::Released)));
    assert_eq!(machine.closing_since(), None);
}

#[test]
fn cancel_ends_a_running_drain_and_releases_an_ended_one_without_changing_its_outcome() {
    let (mut machine, start) = draining();
    machine.handle(Event::Cancel, start);
    assert_eq!(machine.outcome(), Some((Outcome::Cancelled, Hold::Released)));
    assert_eq!(machine.handle(Event::Cancel, start), []);

    let (mut machine, start) = draining();
    machine.handle(Event::Tick, start + TIMEOUT);
    assert_eq!(
        machine.handle(Event::Cancel, start + TIMEOUT),
        [Effect::Keep, Effect::Publish, Effect::Changed]
    );
    assert_eq!(machine.outcome(), Some((Outcome::TimedOut, Hold::Released)));
}

#[test]
fn an_ended_drain_that_holds_nobody_is_released_and_a_running_one_is_not() {
    let (mut machine, start) = draining();
    assert_eq!(machine.handle(Event::NobodyLeft, start), []);
    machine.handle(Event::Tick, start + TIMEOUT);
    machine.handle(Event::NobodyLeft, start + TIMEOUT);
    assert_eq!(machine.outcome(), Some((Outcome::TimedOut, Hold::Released)));
}

#[test]
fn a_resumed_drain_keeps_its_deadline_and_is_judged_anew() {
    let start = Instant::now();
    let mut machine = Machine::resume(policy(), Hold::Holding, start, Some(start));
    assert_eq!(machine.phase(), v1::Phase::Draining);
    assert_eq!(machine.next_deadline(), Some(start + TIMEOUT));
    let mut late = Machine::resume(policy(), Hold::Holding, start, Some(start));
    late.handle(Event::Tick, start + TIMEOUT * 2);
    assert_eq!(late.phase(), v1::Phase::TimedOut);
    machine.handle(seen(0, 0), start);
    assert_eq!(machine.phase(), v1::Phase::Quiet);
}

mod property {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        See {
            in_flight: u64,
            new: u64,
            unknown: usize,
            unconfirmed: usize,
            owed: Owed,
        },
        Cancel,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let few = || prop::bool::weighted(0.3);
        let owed =
            (few(), few(), few(), few(), few()).prop_map(|(unasked, unseen, sessions, bytes, upstream)| {
                Owed {
                    nodes: 1,
                    unasked: unasked.into(),
                    unseen: unseen.into(),
                    sessions: sessions.into(),
                    bytes: bytes.into(),
                    clients: bytes.into(),
                    upstream: upstream.into(),
                }
            });
        let see = (0u64..2, 0u64..2, 0usize..2, 0usize..2, owed.clone()).prop_map(
            |(in_flight, new, unknown, unconfirmed, owed)| Step::See {
                in_flight,
                new,
                unknown,
                unconfirmed,
                owed,
            },
        );
        // Most of the time nothing happens: else none would end drained.
        let calm = Step::See {
            in_flight: 0,
            new: 0,
            unknown: 0,
            unconfirmed: 0,
            owed: ONE,
        };
        let owes = owed.prop_map(|owed| Step::See {
            in_flight: 0,
            new: 0,
            unknown: 0,
            unconfirmed: 0,
            owed,
        });
        let see = prop_oneof![1 => see, 2 => owes, 4 => Just(calm)];
        let step = prop_oneof![6 => (0u64..400).prop_map(Step::Wait), 8 => see, 1 => Just(Step::Cancel)];
        prop::collection::vec(step, 1..80)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Against a model that only remembers since when nothing was in flight, unknown or new: whatever the order
        /// of events and the clock, `drained` comes only after that long, the deadline always holds, a cancel wins.
        #[test]
        fn any_order_of_events_keeps_the_rules(
            steps in steps(),
            quiet in 0u64..500,
            announce in 0u64..500,
            (linger, flush, idle) in (0u64..800, 0u64..800, 0u64..800),
        ) {
            let start = Instant::now();
            let quiet = Duration::from_millis(quiet);
            let policy = Policy {
                quiet_period: quiet,
                announce: Duration::from_millis(announce),
                timeout: Duration::from_secs(2),
                linger: Duration::from_millis(linger),
                flush: Duration::from_millis(flush),
                idle: Duration::from_millis(idle),
                ..Policy::default()
            };
            let (mut machine, _) = Machine::start(policy.clone(), Hold::Holding, start);
            let (mut now, mut arrivals) = (start, 0);
            let mut zero_since: Option<Instant> = None;
            // Since when it was zero before, when that ended, and the arrivals until then: what comes and is no arrival is a probe.
            let mut probed: Option<(Instant, Instant, u64)> = None;
            for step in steps {
                let before = machine.outcome();
                let mut last = None;
                match step {
                    Step::Wait(millis) => {
                        now += Duration::from_millis(millis);
                        machine.handle(Event::Tick, now);
                    }
                    Step::See { in_flight, new, unknown, unconfirmed, owed } => {
                        let arrived = arrivals;
                        arrivals += new;
                        let seen = Observation { in_flight, arrivals, unknown, unconfirmed, owed, cut: 0 };
                        last = Some(seen);
                        machine.handle(Event::Observed(seen), now);
                        if in_flight > 0 || unknown > 0 || owed.sessions > 0 {
                            let since = zero_since.take().filter(|_| machine.closing_since().is_some());
                            probed = probed.or(since.map(|since| (since, now, arrived)));
                            probed = probed.filter(|_| unknown == 0 && owed.sessions == 0);
                        } else if zero_since.is_none() || new > 0 {
                            let brief = probed.take().filter(|(_, at, before)| now <= *at + quiet && *before == arrivals);
                            zero_since = Some(brief.map_or(now, |(since, ..)| since));
                        }
                    }
                    Step::Cancel => {
                        machine.handle(Event::Cancel, now);
                        let outcome = machine.outcome().map(|(outcome, _)| outcome);
                        let late = now >= start + policy.timeout;
                        match before {
                            None => prop_assert_eq!(outcome, Some(if late { Outcome::TimedOut } else { Outcome::Cancelled })),
                            Some((was, _)) => prop_assert_eq!(outcome, Some(was)),
                        }
                    }
                }
                if before.is_none() && machine.outcome().map(|(outcome, _)| outcome) == Some(Outcome::Drained) {
                    let seen = last.expect("only an observation ends a drain as drained");
                    prop_assert_eq!((seen.in_flight, seen.unknown, seen.unconfirmed), (0, 0, 0));
                    let quiet_since = zero_since.expect("nothing was in flight");
                    prop_assert!(now >= quiet_since + quiet);
                    let owed = seen.owed;
                    prop_assert_eq!((owed.unasked, owed.sessions, owed.bytes), (0, 0, 0));
                    prop_assert!(now >= quiet_since + policy.flush);
                    prop_assert!(owed.unseen == 0 || now >= quiet_since + policy.linger);
                    prop_assert!(owed.upstream == 0 || now >= quiet_since + UPSTREAM_WITHIN);
                    prop_assert!(now >= start + policy.announce + policy.idle);
                    prop_assert!(now < start + policy.timeout);
                }
                if now >= start + policy.timeout {
                    machine.handle(Event::Tick, now);
                    prop_assert!(machine.is_ended());
                }
            }
        }
    }
}

#[test]
fn a_drain_whose_envoy_ended_with_requests_in_flight_ends_as_cut() {
    let (mut machine, start) = draining();
    let cut = Event::Observed(Observation {
        cut: 3,
        ..Observation::default()
    });
    machine.handle(cut, start);
    assert_eq!(machine.handle(Event::Tick, start + QUIET), [Effect::Confirm]);
    assert_eq!(machine.handle(cut, start + QUIET), [Effect::Look]);
    machine.handle(cut, start + QUIET);
    assert_eq!(machine.outcome(), Some((Outcome::Cut, Hold::Holding)));
    assert_eq!(machine.phase(), v1::Phase::Cut);
    let (mut late, start) = draining();
    late.handle(
        Event::Observed(Observation {
            cut: 3,
            in_flight: 1,
            ..Observation::default()
        }),
        start,
    );
    late.handle(Event::Tick, start + TIMEOUT);
    assert_eq!(late.phase(), v1::Phase::TimedOut, "something is left");
}

#[path = "machine/arrivals_tests.rs"]
mod arrivals;
