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

impl Machine {
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
