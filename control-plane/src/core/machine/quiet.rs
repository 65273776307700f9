//! A drain that has nothing in flight: what it still waits for.

use std::time::Instant;

use super::{Effect, Evidence, Hold, Machine, Observation, Outcome, Owed, State};

/// What a drain waits for that has nothing in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The end of the quiet period.
    Resting,
    /// That everybody confirms it.
    Confirming,
    /// That everybody was looked at since.
    Looking,
    /// What is owed.
    Settling(Owed),
}

/// A quiet that something in flight has interrupted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interrupted {
    since: Instant,
    arrivals: u64,
    stage: Stage,
    at: Instant,
}

impl Observation {
    /// Whether there is nothing but, at most, requests in flight, each of which may be a health probe.
    pub(super) fn may_be_probes(&self) -> bool {
        self.unknown == 0 && self.owed.sessions == 0
    }
}

impl Machine {
    /// Something is in flight. If that is all, and it is only a health probe, the quiet goes on after it.
    pub(super) fn interrupt(&self, seen: Observation, now: Instant) -> Option<Interrupted> {
        let State::Quiet {
            since,
            arrivals,
            stage,
        } = self.state
        else {
            return None;
        };
        let at = now;
        seen.may_be_probes().then_some(Interrupted {
            since,
            arrivals,
            stage,
            at,
        })
    }

    /// Nothing is in flight any more.
    pub(super) fn quiet_again(&mut self, seen: Observation, now: Instant) -> Vec<Effect> {
        let interrupted = self.interrupted.take();
        let brief = interrupted.filter(|before| now <= before.at + self.policy.quiet_period);
        let turned_away = self.arrivals.are_turned_away(&self.policy, now);
        match brief {
            Some(before) if before.arrivals == seen.arrivals || turned_away => {
                self.state = State::Quiet {
                    since: before.since,
                    arrivals: seen.arrivals,
                    stage: before.stage,
                };
                let mut effects = self.tick(self.state, now);
                if effects.is_empty() {
                    effects = self.still(before.stage, before.since, seen, now);
                }
                // An end says all of this itself, and is kept first.
                if !self.is_ended() {
                    effects.push(Effect::Changed);
                }
                effects
            }
            _ => {
                if brief.is_some() {
                    self.arrivals.hinder(now);
                }
                self.quiet(seen, now, vec![Effect::Changed])
            }
        }
    }

    /// A request has come and gone.
    pub(super) fn arrived(&mut self, seen: Observation, now: Instant) -> Vec<Effect> {
        match &mut self.state {
            State::Quiet {
                since,
                arrivals,
                stage,
            } if self.arrivals.are_turned_away(&self.policy, now) => {
                *arrivals = seen.arrivals;
                let (since, stage) = (*since, *stage);
                self.still(stage, since, seen, now)
            }
            _ => {
                self.arrivals.hinder(now);
                self.quiet(seen, now, Vec::new())
            }
        }
    }

    /// Begins the quiet period, or begins it anew.
    pub(super) fn quiet(&mut self, seen: Observation, now: Instant, mut effects: Vec<Effect>) -> Vec<Effect> {
        self.state = State::Quiet {
            since: now,
            arrivals: seen.arrivals,
            stage: Stage::Resting,
        };
        effects.extend(self.tick(self.state, now));
        effects
    }

    /// It is quiet since `since` and still is.
    pub(super) fn still(
        &mut self,
        stage: Stage,
        since: Instant,
        seen: Observation,
        now: Instant,
    ) -> Vec<Effect> {
        match stage {
            Stage::Resting => Vec::new(),
            Stage::Confirming | Stage::Looking if seen.unconfirmed > 0 => Vec::new(),
            Stage::Confirming if !self.settles() => self.end(Outcome::Drained, now),
            Stage::Confirming => self.go_on(Stage::Looking, vec![Effect::Look]),
            Stage::Looking if seen.owed.unasked > 0 => Vec::new(),
            Stage::Looking if self.settled_at(seen.owed, since).is_some_and(|at| at <= now) => {
                self.end(Outcome::Drained, now)
            }
            Stage::Looking | Stage::Settling(_) => {
                self.go_on(Stage::Settling(seen.owed), Vec::new());
                self.tick(self.state, now)
            }
        }
    }

    pub(super) fn go_on(&mut self, next: Stage, effects: Vec<Effect>) -> Vec<Effect> {
        if let State::Quiet { stage, .. } = &mut self.state {
            *stage = next;
        }
        effects
    }

    /// When everybody is to confirm, if nothing happens until then; `None` = something has to.
    pub(super) fn stage_ends(&self, stage: Stage, since: Instant) -> Option<Instant> {
        match stage {
            // Whoever comes after that is turned away in any case.
            Stage::Resting if self.arrivals.are_turned_away(&self.policy, since) => Some(since),
            Stage::Resting => Some(since + self.policy.quiet_period),
            Stage::Settling(owed) => self.settled_at(owed, since),
            Stage::Confirming | Stage::Looking => None,
        }
    }

    fn settled_at(&self, owed: Owed, since: Instant) -> Option<Instant> {
        owed.settled_at(&self.policy, since, self.closing_since.unwrap_or(since))
    }

    /// Whether its end waits for what Envoys owe their clients: not if it closes nothing, or goes by time alone.
    pub fn settles(&self) -> bool {
        let is_closing = !self.is_ended() && self.closing_since.is_some();
        is_closing && self.hold == Hold::Holding && self.policy.evidence != Evidence::Delay
    }
}
