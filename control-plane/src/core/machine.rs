//! The drain machine: one drain, from its announcement to its end.
//!
//! ```text
//!   start --announce over--> Draining <-----------------------------------------.
//!     |                         | zero, nobody unknown                          | in flight, or somebody unknown
//!     | announce > 0            v                                               |
//!     '--> Announced          Quiet --quiet period over--> Confirming --all confirmed--> Looking --nothing owed--> Ended
//!                               ^ |                          ^                  |           | something      (drained)
//!                               '-'  a request came and went '--nothing owed-- Settling <---'
//!                               ^-----------------------------------------------'
//!
//!   Quiet --something in flight--> Draining --nothing again, soon, and no request came--> Quiet, where it was: a health probe
//!
//!   any state but Ended: the deadline passes -> Ended(timed out); cancel -> Ended(cancelled)
//!   Ended(drained) is Ended(cut) where an Envoy ended with requests in flight meanwhile.
//!   Ended(drained | cut | timed out) holds until it is released: by a cancel, because nobody is left to hold, or because a later
//!   drain of the same scope holds. One that closes nothing holds nothing, and owes its clients nothing.
//! ```
//! A reporter whose last word was zero may have died since; so at the end of the quiet period everybody is asked
//! once more, and only their answers end the drain. That costs one round trip and is what makes `drained` true.
//!
//! Requests that are done may not have been delivered. So then the Envoys are looked at from outside ([`Owed`]), and a drain
//! that had to wait for them has everything confirmed anew: it ends by words that are as fresh as if it had not waited.
//!
//! Nothing in here reads a clock, waits or does I/O: time comes in as `now`, work goes out as [`Effect`]s.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{
    policy::{Evidence, OnTimeout, Policy},
    settling::Owed,
};
use quiet::{Interrupted, Stage};

mod arrivals;
mod quiet;
mod standing;

pub use arrivals::ARRIVALS_WITHIN;
use arrivals::Arrivals;

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every request is done.
    Drained,
    /// The deadline came first.
    TimedOut,
    /// A caller ended it.
    Cancelled,
    /// Nothing is left, because an Envoy ended with requests in flight.
    Cut,
}

/// Whether the listeners of an ended drain go on closing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// They do.
    Holding,
    /// They serve as before.
    Released,
}

/// Where a drain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Announced,
    Draining,
    Quiet {
        since: Instant,
        arrivals: u64,
        stage: Stage,
    },
    Ended {
        outcome: Outcome,
        at: Instant,
        hold: Hold,
    },
}

/// What is known of the traffic in the scope of a drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// Requests in flight, of the reporters that are known.
    pub in_flight: u64,
    /// Requests that have begun since the drain did, without health probes; only ever compared with itself.
    pub arrivals: u64,
    /// Reporters whose count is not known.
    pub unknown: usize,
    /// Reporters that have not answered since the last [`Effect::Confirm`].
    pub unconfirmed: usize,
    /// Requests that were cut since the drain began, by Envoys that ended.
    pub cut: u64,
    /// What Envoys owe beyond that, as far as the drain waits for it.
    pub owed: Owed,
}

/// What happens to a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The traffic changed, or somebody answered.
    Observed(Observation),
    /// A caller wants it to end, or to let go.
    Cancel,
    /// Nobody that an ended drain holds is left.
    NobodyLeft,
    /// Time passed.
    Tick,
}

/// What a drain wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// What the filters have to do has changed: tell them.
    Publish,
    /// Ask every reporter in scope; its answer shows in [`Observation::unconfirmed`].
    Confirm,
    /// Look at every Envoy in scope; its answer shows in [`Owed::unasked`].
    Look,
    /// Write it down, before anything that follows: a control plane that comes after this one has to know.
    Keep,
    /// The phase, or whether it holds, changed: tell whoever watches.
    Changed,
}

/// One drain.
#[derive(Clone, Debug)]
pub struct Machine {
    policy: Policy,
    /// What an end leaves that does not let go.
    hold: Hold,
    started: Instant,
    closing_since: Option<Instant>,
    /// Requests known to be in flight when last observed.
    in_flight: u64,
    /// Requests known to be cut when last observed.
    cut: u64,
    /// Requests that still arrive.
    arrivals: Arrivals,
    /// The quiet that something in flight has interrupted.
    interrupted: Option<Interrupted>,
    state: State,
}

impl Machine {
    /// A drain that starts now, and the first thing it wants done. `hold`: whether it holds when it ends, if nothing else
    /// lets go.
    pub fn start(policy: Policy, hold: Hold, now: Instant) -> (Self, Vec<Effect>) {
        let mut machine = Self {
            policy,
            hold,
            started: now,
            closing_since: None,
            in_flight: 0,
            cut: 0,
            arrivals: Arrivals::default(),
            interrupted: None,
            state: State::Announced,
        };
        let mut effects = machine.handle(Event::Tick, now);
        if effects.is_empty() {
            effects.extend([Effect::Keep, Effect::Publish, Effect::Changed]);
        }
        (machine, effects)
    }

    /// A drain that an earlier control plane started at `started` and had not ended. It is judged anew from what the
    /// reporters say now; its deadline stays where it was.
    pub fn resume(policy: Policy, hold: Hold, started: Instant, closing_since: Option<Instant>) -> Self {
        let state = if closing_since.is_some() {
            State::Draining
        } else {
            State::Announced
        };
        Self {
            policy,
            hold,
            started,
            closing_since,
            in_flight: 0,
            cut: 0,
            arrivals: Arrivals::default(),
            interrupted: None,
            state,
        }
    }

    /// A drain that has ended before.
    pub fn ended(
        policy: Policy,
        started: Instant,
        closing_since: Option<Instant>,
        outcome: Outcome,
        at: Instant,
        hold: Hold,
    ) -> Self {
        Self {
            policy,
            hold,
            started,
            closing_since,
            in_flight: 0,
            cut: 0,
            arrivals: Arrivals::default(),
            interrupted: None,
            state: State::Ended { outcome, at, hold },
        }
    }

    /// Takes one event. The deadline is looked at first, whatever the event: a cancel that comes after it does not change
    /// the outcome, and lets go.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        let ended = self.pass_deadline(now);
        let effects = self.take(event, now);
        // After an end there is nothing but to let go, which wants done what the end does.
        if effects.is_empty() { ended } else { effects }
    }

    fn pass_deadline(&mut self, now: Instant) -> Vec<Effect> {
        if !self.is_ended() && now >= self.deadline() {
            let by_delay = self.policy.evidence == Evidence::Delay && self.closing_since.is_some();
            let waited = by_delay && self.in_flight == 0 && !self.policy.timeout.is_zero();
            return self.end(
                if waited {
                    Outcome::Drained
                } else {
                    Outcome::TimedOut
                },
                now,
            );
        }
        Vec::new()
    }

    fn take(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        match (event, self.state) {
            (
                Event::Cancel,
                State::Ended {
                    outcome,
                    at,
                    hold: Hold::Holding,
                },
            )
            | (
                Event::NobodyLeft,
                State::Ended {
                    outcome,
                    at,
                    hold: Hold::Holding,
                },
            ) => {
                self.state = State::Ended {
                    outcome,
                    at,
                    hold: Hold::Released,
                };
                vec![Effect::Keep, Effect::Publish, Effect::Changed]
            }
            (Event::Cancel, State::Ended { .. }) | (Event::NobodyLeft, _) => Vec::new(),
            (Event::Cancel, _) => self.end(Outcome::Cancelled, now),
            (Event::Observed(seen), state) => self.observed(seen, state, now),
            (Event::Tick, state) => self.tick(state, now),
        }
    }

    fn observed(&mut self, seen: Observation, state: State, now: Instant) -> Vec<Effect> {
        (self.in_flight, self.cut) = (seen.in_flight, seen.cut);
        let nothing = seen.in_flight == 0 && seen.may_be_probes();
        let zero = nothing && self.policy.evidence != Evidence::Delay;
        if seen.unknown == 0 && !matches!(state, State::Announced | State::Ended { .. }) {
            self.arrivals.everybody_told(now);
        }
        match state {
            State::Announced | State::Ended { .. } => Vec::new(),
            State::Draining if zero => self.quiet_again(seen, now),
            State::Draining => {
                self.interrupted = self.interrupted.filter(|_| seen.may_be_probes());
                Vec::new()
            }
            State::Quiet { .. } if !zero => {
                self.interrupted = self.interrupt(seen, now);
                self.state = State::Draining;
                vec![Effect::Changed]
            }
            State::Quiet { arrivals, .. } if arrivals != seen.arrivals => self.arrived(seen, now),
            State::Quiet { since, stage, .. } => self.still(stage, since, seen, now),
        }
    }

    fn tick(&mut self, state: State, now: Instant) -> Vec<Effect> {
        match state {
            State::Announced if now >= self.started + self.policy.announce => {
                self.state = State::Draining;
                self.closing_since = Some(now);
                vec![Effect::Keep, Effect::Publish, Effect::Changed]
            }
            State::Quiet { since, stage, .. }
                if self.stage_ends(stage, since).is_some_and(|at| at <= now) =>
            {
                self.go_on(Stage::Confirming, vec![Effect::Confirm])
            }
            _ => Vec::new(),
        }
    }

    fn end(&mut self, outcome: Outcome, now: Instant) -> Vec<Effect> {
        let outcome = match outcome {
            Outcome::Drained if self.cut > 0 => Outcome::Cut,
            outcome => outcome,
        };
        let hold = match (outcome, self.policy.on_timeout) {
            (Outcome::Cancelled, _) | (Outcome::TimedOut, OnTimeout::Abort) => Hold::Released,
            (Outcome::Drained | Outcome::Cut, _) | (Outcome::TimedOut, OnTimeout::Proceed) => self.hold,
        };
        // A deadline inside the announcement still leaves a drain that holds, so it closes from here on.
        if hold == Hold::Holding {
            self.closing_since.get_or_insert(now);
        }
        self.state = State::Ended {
            outcome,
            at: now,
            hold,
        };
        vec![Effect::Keep, Effect::Publish, Effect::Changed]
    }

    /// When [`Event::Tick`] is due next; `None` = never.
    pub fn next_deadline(&self) -> Option<Instant> {
        let deadline = self.deadline();
        match self.state {
            State::Announced => Some(deadline.min(self.started + self.policy.announce)),
            State::Draining => Some(deadline),
            State::Quiet { since, stage, .. } => {
                let ends = self.stage_ends(stage, since);
                Some(ends.map_or(deadline, |at| at.min(deadline)))
            }
            State::Ended { .. } => None,
        }
    }

    fn deadline(&self) -> Instant {
        self.started + self.policy.timeout
    }

    /// Its policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Since when its listeners close, if they do.
    pub fn closing_since(&self) -> Option<Instant> {
        match self.state {
            State::Ended {
                hold: Hold::Released, ..
            } => None,
            _ => self.closing_since,
        }
    }

    /// How it ended, and whether it holds; `None` while it runs.
    pub fn outcome(&self) -> Option<(Outcome, Hold)> {
        match self.state {
            State::Ended { outcome, hold, .. } => Some((outcome, hold)),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
