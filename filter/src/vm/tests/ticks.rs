//! When a VM asks to be woken.

use super::*;

#[test]
fn serving_as_usual_ticks_no_more_than_it_reports() {
    let mut bench = Bench::new();
    bench.configure(1, "a");
    bench.pass(ms(10));
    bench.command(1, Vec::new());
    let (reports, calls) = (bench.sent.len(), bench.timer_calls);
    bench.pass(ms(60_000));
    assert_eq!(bench.sent.len() - reports, 12);
    assert!(
        bench.timer_calls - calls <= 2,
        "{} timer calls",
        bench.timer_calls - calls
    );
}

#[test]
fn a_command_brings_the_next_tick_forward() {
    let mut bench = Bench::new();
    let listener = bench.configure(1, "a");
    bench.pass(ms(10));
    bench.drain(1, "a");
    let sent = bench.sent.len();
    bench.pass(ms(1000));
    assert_eq!(bench.sent.len(), sent + 2, "one each 500 ms");
    // A storm, from requests: its last word goes out by a tick, and the ticks go on as before.
    for _ in 0..10_000 {
        bench.crossed(&listener);
    }
    let (sent, calls) = (bench.sent.len(), bench.timer_calls);
    bench.crossed(&listener);
    assert_eq!(
        (bench.sent.len(), bench.timer_calls),
        (sent, calls),
        "the tick is set already"
    );
    bench.pass(ms(6));
    assert_eq!(bench.sent.len(), sent + 1);
    bench.pass(ms(1000));
    assert_eq!(bench.sent.len(), sent + 3);
}

#[test]
fn ticks_are_whole_milliseconds_and_never_early() {
    assert_eq!(whole_millis(Duration::ZERO), ms(1));
    assert_eq!(whole_millis(Duration::from_micros(1001)), ms(2));
    assert_eq!(whole_millis(ms(500)), ms(500));
    assert!(whole_millis(Duration::MAX) > ms(1));
}
