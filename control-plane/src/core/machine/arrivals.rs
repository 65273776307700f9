//! Requests that go on arriving while nothing stays in flight: when they hold a drain, and what to say of it.
//!
//! A drain that ends while clients still come has ended early for the next of them: so every arrival begins the quiet period
//! anew. A stop closes the listeners next, which turns late clients away: there, arrivals count only for a while after every
//! filter has been told.

use std::time::{Duration, Instant};

use super::{Machine, Outcome, Policy, State};

/// How long arrivals begin the quiet period of a stop anew; or twice as long as that, if it is longer.
pub const ARRIVALS_WITHIN: Duration = Duration::from_secs(1);

/// What is known of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrivals {
    of_a_stop: bool,
    /// When every reporter had first answered since it was told to close.
    told: Option<Instant>,
    /// How often they have begun the quiet period anew.
    hindrances: u64,
    /// When they last did.
    last: Option<Instant>,
}

impl Arrivals {
    /// Every reporter has answered since it was told to close.
    pub(super) fn everybody_told(&mut self, now: Instant) {
        self.told.get_or_insert(now);
    }

    /// One has begun the quiet period anew.
    pub(super) fn hinder(&mut self, now: Instant) {
        self.hindrances = self.hindrances.saturating_add(1);
        self.last = Some(now);
    }

    /// Whether they do not count any more at this time.
    pub(super) fn are_turned_away(&self, policy: &Policy, now: Instant) -> bool {
        let patience = ARRIVALS_WITHIN.max(policy.quiet_period.saturating_mul(2));
        self.of_a_stop && self.told.is_some_and(|told| now >= told + patience)
    }

    /// That they are why a drain that ended at `end` never was quiet for long enough, in words; `None` = they are not.
    pub(super) fn hindered(&self, policy: &Policy, end: Instant) -> Option<String> {
        let last = self.last?;
        let rest = policy.quiet_period;
        // Else there was time enough since.
        (end.saturating_duration_since(last) <= rest).then(|| {
            format!(
                "nothing was left, but requests kept arriving, {} of them while nothing else was in flight, so that it was \
                 never quiet for {}: send them elsewhere, or make quiet_period shorter than the time between them (health \
                 probes count unless Envoy's health_check filter answers them)",
                self.hindrances,
                humantime::format_duration(rest)
            )
        })
    }
}

impl Machine {
    /// The same for a process that is stopped when the drain ends: its closed listeners turn late clients away, so these must
    /// not hold the drain.
    pub fn of_a_stop(mut self) -> Self {
        self.arrivals.of_a_stop = true;
        self
    }

    /// What kept coming while nothing stayed in flight, if that is why it timed out; in words, with what to do.
    pub fn why_never_quiet(&self) -> Option<String> {
        match self.state {
            State::Ended {
                outcome: Outcome::TimedOut,
                at,
                ..
            } if self.in_flight == 0 => self.arrivals.hindered(&self.policy, at),
            _ => None,
        }
    }
}
