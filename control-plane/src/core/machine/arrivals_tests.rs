//! Health probes, and clients that keep coming.

use super::*;

#[test]
fn a_health_probe_interrupts_the_quiet_and_does_not_begin_it_anew() {
    let (mut machine, start) = draining();
    machine.handle(seen(0, 1), start);
    let probe = start + QUIET / 2;
    assert_eq!(machine.handle(seen(1, 2), probe), [Effect::Changed]);
    assert_eq!(machine.handle(seen(0, 1), probe + QUIET / 8), [Effect::Changed]);
    assert_eq!(machine.next_deadline(), Some(start + QUIET));
    assert_eq!(machine.handle(Event::Tick, start + QUIET), [Effect::Confirm]);
    // Also while everybody is asked.
    let waits = Observation {
        arrivals: 1,
        unconfirmed: 1,
        ..Observation::default()
    };
    assert_eq!(machine.handle(Event::Observed(waits), start + QUIET), []);
    machine.handle(seen(1, 2), start + QUIET);
    assert_eq!(
        machine.handle(seen(0, 1), start + QUIET),
        [Effect::Look, Effect::Changed]
    );
}

#[test]
fn what_took_longer_than_the_quiet_period_was_no_probe() {
    let (mut machine, start) = draining();
    machine.handle(seen(0, 1), start);
    machine.handle(seen(1, 1), start + QUIET / 2);
    let end = start + QUIET * 2;
    assert_eq!(machine.handle(seen(0, 1), end), [Effect::Changed]);
    assert_eq!(machine.next_deadline(), Some(end + QUIET));
}

#[test]
fn arrivals_hold_no_stop_longer_than_their_bound_and_any_other_drain_to_its_deadline() {
    let ends = |of_a_stop: bool| {
        let (mut machine, start) = draining();
        if of_a_stop {
            machine = machine.of_a_stop();
        }
        let mut now = start;
        for arrivals in 1.. {
            let arrived = [seen(1, arrivals), seen(0, arrivals), Event::Tick];
            for event in arrived {
                machine.handle(event, now);
            }
            // Who was asked has answered.
            for _ in 0..2 {
                machine.handle(seen(0, arrivals), now);
            }
            if machine.is_ended() {
                return (
                    machine.outcome().map(|(outcome, _)| outcome),
                    now - start,
                    machine.why_never_quiet(),
                );
            }
            now += QUIET / 2;
        }
        unreachable!("it ends at its deadline")
    };
    let (outcome, after, why) = ends(true);
    assert_eq!((outcome, why), (Some(Outcome::Drained), None));
    assert!(
        after >= ARRIVALS_WITHIN && after < ARRIVALS_WITHIN + QUIET,
        "{after:?}"
    );
    let (outcome, after, why) = ends(false);
    assert_eq!((outcome, after), (Some(Outcome::TimedOut), TIMEOUT));
    let why = why.expect("a reason");
    assert!(
        why.starts_with("nothing was left, but requests kept arriving, 99 of them"),
        "{why}"
    );
    assert!(why.contains("make quiet_period shorter"), "{why}");
}

#[test]
fn a_request_that_stays_holds_a_stop_however_long_ago_everybody_was_told() {
    let (machine, start) = draining();
    let mut machine = machine.of_a_stop();
    let late = start + ARRIVALS_WITHIN * 2;
    assert_eq!(machine.handle(seen(1, 1), late), []);
    assert_eq!(
        machine.handle(seen(0, 1), late),
        [Effect::Changed, Effect::Confirm]
    );
    assert_eq!(machine.handle(seen(1, 2), late), [Effect::Changed]);
    assert_eq!(machine.handle(Event::Tick, late + QUIET * 5), []);
    assert!(!machine.is_ended());
}
