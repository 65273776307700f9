//! Which responses have to close their connection: pure decisions over what the control plane last said.

use std::cell::Cell;
use std::time::Duration;

use ebb_proto::v1::Directive;

/// Durations on the wire are cut to this, so that no sum overflows. Nothing drains for a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The drains that cover this VM, each under its own lease.
#[derive(Debug, Default)]
pub struct Directives(Vec<Active>);

/// One directive as it was received.
#[derive(Debug)]
struct Active {
    /// Empty = every listener.
    listener: String,
    ramp: Duration,
    /// How much of the ramp had passed at `received`.
    elapsed: Duration,
    received: Duration,
    lease_end: Duration,
    awaited: bool,
}

impl Active {
    fn covers(&self, listener: &str, now: Duration) -> bool {
        (self.listener.is_empty() || self.listener == listener) && now < self.lease_end
    }

    /// The share of responses that close now, from 0 to 1.
    fn share(&self, now: Duration) -> f64 {
        let elapsed = self.elapsed.saturating_add(now.saturating_sub(self.received));
        if elapsed >= self.ramp {
            1.0
        } else {
            elapsed.div_duration_f64(self.ramp)
        }
    }
}

impl Directives {
    /// Replaces all directives by what a command says.
    pub fn replace(&mut self, directives: Vec<Directive>, now: Duration) {
        self.0.clear();
        self.0.extend(directives.into_iter().map(|directive| Active {
            listener: directive.listener,
            ramp: wire_duration(directive.ramp),
            elapsed: wire_duration(directive.elapsed),
            received: now,
            lease_end: now.saturating_add(wire_duration(directive.lease)),
            awaited: directive.awaited,
        }));
    }

    /// Whether nothing is to be closed at all; the only question on the hot path.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether somebody waits for the counts of any listener.
    pub fn any_awaited(&self) -> bool {
        self.0.iter().any(|active| active.awaited)
    }

    /// Whether somebody waits for the count of this listener.
    pub fn awaits(&self, listener: &str, now: Duration) -> bool {
        self.0
            .iter()
            .any(|active| active.awaited && active.covers(listener, now))
    }

    /// When the next lease ends.
    pub fn next_lease_end(&self) -> Option<Duration> {
        self.0.iter().map(|active| active.lease_end).min()
    }

    /// Drops directives whose lease has ended, and names their listeners (empty = every listener).
    pub fn expire(&mut self, now: Duration) -> Vec<String> {
        let ended = self.0.extract_if(.., |active| active.lease_end <= now);
        ended.map(|active| active.listener).collect()
    }

    /// Whether the response at hand has to close its connection.
    ///
    /// During a ramp the share is met exactly, without chance and without asking other workers: `carry` holds what
    /// earlier decisions left over, and a response closes whenever a whole one has come together. Of several
    /// directives for a listener the one with the largest share counts.
    pub fn decide(&self, listener: &str, carry: &Cell<f64>, now: Duration) -> bool {
        let covering = self.0.iter().filter(|active| active.covers(listener, now));
        let share = covering.map(|active| active.share(now)).fold(0.0, f64::max);
        let sum = carry.get() + share;
        let close = sum >= 1.0;
        carry.set(if close { sum - 1.0 } else { sum });
        close
    }
}

/// A duration from the wire: absent and negative are 0, what is absurdly long is cut. (The conversion of
/// `prost_types` overflows on the smallest numbers.)
fn wire_duration(duration: Option<prost_types::Duration>) -> Duration {
    let Some(prost_types::Duration { seconds, nanos }) = duration else {
        return Duration::ZERO;
    };
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(seconds), Ok(nanos)) => Duration::from_secs(seconds)
            .saturating_add(Duration::from_nanos(nanos.into()))
            .min(LONGEST),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn directive(listener: &str, ramp: u64, elapsed: u64, lease: u64) -> Directive {
        let wire = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        Directive {
            listener: listener.to_owned(),
            ramp: wire(ramp as i64),
            elapsed: wire(elapsed as i64),
            lease: wire(lease as i64),
            awaited: false,
        }
    }

    fn directives(list: Vec<Directive>) -> Directives {
        let mut directives = Directives::default();
        directives.replace(list, secs(100));
        directives
    }

    fn closed_of(directives: &Directives, listener: &str, responses: usize, now: Duration) -> usize {
        let carry = Cell::new(0.0);
        (0..responses)
            .filter(|_| directives.decide(listener, &carry, now))
            .count()
    }

    #[test]
    fn nothing_closes_without_a_directive() {
        assert_eq!(closed_of(&Directives::default(), "a", 1000, secs(1)), 0);
    }

    #[test]
    fn without_a_ramp_every_response_of_that_listener_closes() {
        let directives = directives(vec![directive("a", 0, 0, 60)]);
        assert_eq!(closed_of(&directives, "a", 1000, secs(100)), 1000);
        assert_eq!(closed_of(&directives, "b", 1000, secs(100)), 0);
    }

    #[test]
    fn an_empty_name_is_every_listener() {
        let directives = directives(vec![directive("", 0, 0, 60)]);
        assert_eq!(closed_of(&directives, "b", 10, secs(100)), 10);
    }

    #[test]
    fn a_ramp_is_met_exactly_and_goes_on_from_where_it_was() {
        let directives = directives(vec![directive("a", 10, 3, 60)]);
        for (now, expected) in [(100, 300), (102, 500), (106, 900), (107, 1000), (150, 1000)] {
            let closed = closed_of(&directives, "a", 1000, secs(now));
            assert!(
                closed.abs_diff(expected) <= 1,
                "at {now} s: {closed} of 1000, not {expected}"
            );
        }
    }

    #[test]
    fn a_share_is_spread_evenly() {
        let directives = directives(vec![directive("a", 4, 1, 60)]);
        let carry = Cell::new(0.0);
        let closing: Vec<bool> = (0..8)
            .map(|_| directives.decide("a", &carry, secs(100)))
            .collect();
        assert_eq!(closing, [false, false, false, true, false, false, false, true]);
    }

    #[test]
    fn the_largest_share_counts() {
        let directives = directives(vec![directive("a", 10, 1, 60), directive("", 10, 5, 60)]);
        assert_eq!(closed_of(&directives, "a", 1000, secs(100)), 500);
    }

    #[test]
    fn a_lease_ends_by_itself() {
        let mut directives = directives(vec![directive("a", 0, 0, 5), directive("b", 0, 0, 9)]);
        assert_eq!(directives.next_lease_end(), Some(secs(105)));
        assert_eq!(
            closed_of(&directives, "a", 10, Duration::from_millis(104_999)),
            10
        );
        assert_eq!(closed_of(&directives, "a", 10, secs(105)), 0);
        assert!(directives.expire(Duration::from_millis(104_999)).is_empty());
        assert_eq!(directives.expire(secs(105)), ["a"]);
        assert_eq!(directives.next_lease_end(), Some(secs(109)));
        assert_eq!(directives.expire(secs(200)), ["b"]);
        assert!(directives.is_empty());
    }

    #[test]
    fn awaited_is_per_listener_and_ends_with_the_lease() {
        let awaited = Directive {
            awaited: true,
            ..directive("a", 0, 0, 5)
        };
        let directives = directives(vec![awaited, directive("b", 0, 0, 5)]);
        assert!(directives.any_awaited());
        assert!(directives.awaits("a", secs(104)));
        assert!(!directives.awaits("b", secs(104)));
        assert!(!directives.awaits("a", secs(105)));
    }

    #[test]
    fn nonsense_from_the_wire_does_no_harm() {
        let wire = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
        let odd = [
            None,
            wire(-5, 0),
            wire(i64::MAX, i32::MAX),
            wire(i64::MIN, i32::MIN),
            wire(1, -1),
        ];
        for ramp in odd {
            for lease in odd {
                let one = Directive {
                    ramp,
                    elapsed: ramp,
                    lease,
                    ..Directive::default()
                };
                let directives = directives(vec![one]);
                closed_of(&directives, "a", 3, secs(100));
                closed_of(&directives, "a", 3, Duration::MAX);
            }
        }
        let unleased = directives(vec![Directive::default()]);
        assert_eq!(
            closed_of(&unleased, "a", 3, secs(100)),
            0,
            "a directive without a lease holds for no time"
        );
    }
}
