//! Which responses have to close their connection: pure decisions over what the control plane last said.

use std::cell::Cell;
use std::fmt;
use std::mem::take;
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
    scope: Scope,
    ramp: Duration,
    /// How much of the ramp had passed at `received`.
    elapsed: Duration,
    received: Duration,
    lease_end: Duration,
    awaited: bool,
    /// Whether it closes anything: Envoy may do so by itself.
    marks: bool,
}

/// What a directive is about.
#[derive(Debug)]
enum Scope {
    EveryListener,
    Listener(String),
    /// An upstream endpoint: it closes nothing, its count is awaited.
    Upstream(String),
}

impl Scope {
    fn of(directive: &mut Directive) -> Self {
        let (listener, upstream) = (take(&mut directive.listener), take(&mut directive.upstream));
        match (listener.is_empty(), upstream.is_empty()) {
            (_, false) => Self::Upstream(upstream),
            (true, true) => Self::EveryListener,
            (false, true) => Self::Listener(listener),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EveryListener => f.write_str("every listener"),
            Self::Listener(name) => f.write_str(name),
            Self::Upstream(address) => write!(f, "the upstream {address}"),
        }
    }
}

impl Active {
    fn covers(&self, listener: &str, now: Duration) -> bool {
        let in_scope = match &self.scope {
            Scope::EveryListener => true,
            Scope::Listener(name) => name == listener,
            Scope::Upstream(_) => false,
        };
        in_scope && now < self.lease_end
    }

    /// Attempts whose endpoint is not known may be any.
    fn concerns(&self, address: &str, now: Duration) -> bool {
        let in_scope = match &self.scope {
            Scope::EveryListener | Scope::Listener(_) => false,
            Scope::Upstream(upstream) => address.is_empty() || address == upstream,
        };
        in_scope && now < self.lease_end
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
        self.0.extend(directives.into_iter().map(|mut directive| Active {
            scope: Scope::of(&mut directive),
            ramp: wire_duration(directive.ramp),
            elapsed: wire_duration(directive.elapsed),
            received: now,
            lease_end: now.saturating_add(wire_duration(directive.lease)),
            awaited: directive.awaited,
            marks: !directive.counts_only,
        }));
    }

    /// Whether there is none; the only question on the hot path.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether somebody waits for any counts.
    pub fn any_awaited(&self) -> bool {
        self.0.iter().any(|active| active.awaited)
    }

    /// Whether somebody waits for the count of this listener.
    pub fn awaits(&self, listener: &str, now: Duration) -> bool {
        self.0
            .iter()
            .any(|active| active.awaited && active.covers(listener, now))
    }

    /// Whether somebody waits for the count of this endpoint. The empty address may be any endpoint.
    pub fn awaits_upstream(&self, address: &str, now: Duration) -> bool {
        self.0
            .iter()
            .any(|active| active.awaited && active.concerns(address, now))
    }

    /// When the next lease ends.
    pub fn next_lease_end(&self) -> Option<Duration> {
        self.0.iter().map(|active| active.lease_end).min()
    }

    /// Drops directives whose lease has ended, and says in words what each was about.
    pub fn expire(&mut self, now: Duration) -> Vec<String> {
        let ended = self.0.extract_if(.., |active| active.lease_end <= now);
        ended.map(|active| active.scope.to_string()).collect()
    }

    /// Whether the response at hand has to close its connection.
    ///
    /// During a ramp the share is met exactly, without chance and without asking other workers: `carry` holds what
    /// earlier decisions left over, and a response closes whenever a whole one has come together. Of several
    /// directives for a listener the one with the largest share counts.
    pub fn decide(&self, listener: &str, carry: &Cell<f64>, now: Duration) -> bool {
        let marking = self.0.iter().filter(|active| active.marks);
        let covering = marking.filter(|active| active.covers(listener, now));
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
            ..Directive::default()
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
    fn an_upstream_is_awaited_and_closes_nothing() {
        let towards = |upstream: &str, listener: &str| Directive {
            awaited: true,
            upstream: upstream.to_owned(),
            ..directive(listener, 0, 0, 5)
        };
        let mut directives = directives(vec![towards("a:1", ""), towards("b:1", "b")]);
        assert!(!directives.is_empty() && directives.any_awaited());
        for listener in ["a", "b"] {
            assert_eq!(closed_of(&directives, listener, 100, secs(100)), 0);
            assert!(!directives.awaits(listener, secs(100)));
        }
        assert!(directives.awaits_upstream("a:1", secs(104)));
        assert!(!directives.awaits_upstream("c:1", secs(104)));
        assert!(directives.awaits_upstream("", secs(104)), "it may be any");
        assert!(!directives.awaits_upstream("a:1", secs(105)));
        assert_eq!(
            directives.expire(secs(105)),
            ["the upstream a:1", "the upstream b:1"]
        );
    }

    #[test]
    fn where_envoy_closes_by_itself_counts_are_awaited_all_the_same() {
        let only = Directive {
            awaited: true,
            counts_only: true,
            ..directive("a", 0, 0, 5)
        };
        let alone = directives(vec![only.clone()]);
        assert!(alone.awaits("a", secs(100)) && !alone.is_empty());
        assert_eq!(closed_of(&alone, "a", 100, secs(100)), 0);
        let both = directives(vec![only, directive("a", 10, 5, 60)]);
        assert_eq!(closed_of(&both, "a", 100, secs(100)), 50, "another drain closes");
    }

    #[test]
    fn a_listener_is_no_upstream() {
        let awaited = Directive {
            awaited: true,
            ..directive("", 0, 0, 5)
        };
        let directives = directives(vec![awaited]);
        assert!(!directives.awaits_upstream("a:1", secs(100)) && !directives.awaits_upstream("", secs(100)));
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
