//! The ordered shutdown.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{
    Cause, DrainOutcome, Effect, FORCE_WITHIN, Force, Pace, Phase, ProcessEffect, State, Step, Wait, What,
};
use crate::{config::defaults, supervisor::plan::ProcessId};

impl Step<'_> {
    /// SIGINT, SIGTERM or SIGQUIT: the first begins, the next is ignored, one soon after that forces.
    pub(super) fn signalled(&mut self, signal: Signal) {
        let now = self.now;
        match &mut self.machine.phase {
            Phase::Idle | Phase::Starting | Phase::Running => self.begin_stop(Cause::Signal(signal)),
            Phase::Stopping {
                pace: Pace::Orderly { repeated, .. },
                ..
            } => match repeated.replace(now) {
                Some(before) if now - before <= FORCE_WITHIN => self.force(Force::Signal(signal)),
                _ => self.record_all(What::SignalIgnored(signal)),
            },
            Phase::Stopping { .. } => self.record_all(What::SignalIgnored(signal)),
            Phase::Ended => {}
        }
    }

    /// Begins the shutdown, unless one has begun: the first cause counts.
    pub(super) fn begin_stop(&mut self, cause: Cause) {
        if matches!(self.machine.phase, Phase::Stopping { .. } | Phase::Ended) {
            return;
        }
        self.record_all(What::ShutdownBegan(cause.clone()));
        let grace = self.machine.plan.grace_period;
        self.machine.phase = Phase::Stopping {
            cause,
            began: self.now,
            pace: Pace::Orderly {
                until: self.now + grace.saturating_sub(defaults::RESERVE),
                repeated: None,
            },
        };
        self.announce();
        // Without a grace period the deadline has passed already.
        self.expire_grace();
    }

    /// Stops whatever has its dependants gone; ends when all are.
    pub(super) fn advance_stop(&mut self) {
        for id in self.machine.plan.ids() {
            // Nothing of it is alive, and nothing will be.
            if matches!(self.machine.state(id), State::Waiting | State::BackingOff { .. }) {
                self.enter(id, State::Gone);
            }
        }
        for id in self.machine.plan.ids() {
            let state = self.machine.state(id);
            let free = self
                .planned(id)
                .is_some_and(|planned| self.all(&planned.dependants, |state| state == State::Gone));
            if free && matches!(state, State::Starting | State::Ready) {
                self.stop(id, state == State::Ready);
            }
        }
        if self
            .machine
            .processes
            .iter()
            .all(|process| process.state == State::Gone)
        {
            self.finish();
        }
    }

    /// Its dependants are gone: whatever comes before its signal.
    fn stop(&mut self, id: ProcessId, was_ready: bool) {
        let latest = self.latest(id);
        let announce = self.announce_left();
        let drain = self.planned(id).and_then(|planned| planned.drain);
        match drain {
            // What was never ready has no traffic.
            _ if !was_ready => self.tell_to_stop(id),
            Some(drain) => {
                let until = (self.now + drain.timeout).min(latest);
                self.record(id, What::Draining);
                self.enter(id, State::Draining { until });
                self.effect(
                    id,
                    ProcessEffect::Drain {
                        announce,
                        timeout: until.saturating_duration_since(self.now),
                    },
                );
            }
            None if !announce.is_zero() => {
                let until = (self.now + announce).min(latest);
                self.enter(id, State::Announced { until });
            }
            None => self.gate(id),
        }
    }

    pub(super) fn drain_ended(&mut self, id: ProcessId, outcome: DrainOutcome, until: Instant) {
        let drained = matches!(
            outcome,
            DrainOutcome::Drained | DrainOutcome::NoneStays | DrainOutcome::Cut(_)
        );
        self.record(id, What::DrainEnded(outcome));
        let closable = self
            .planned(id)
            .and_then(|planned| planned.drain)
            .is_some_and(|drain| drain.closable);
        if drained && closable {
            self.enter(id, State::Closing { until });
            self.effect(id, ProcessEffect::Close);
        } else {
            self.gate(id);
        }
    }

    pub(super) fn closed(&mut self, id: ProcessId, result: Result<(), String>, until: Instant) {
        match result {
            Ok(()) => {
                self.record(id, What::Closed);
                self.enter(id, State::Settling { until });
                let timeout = until.saturating_duration_since(self.now);
                self.effect(id, ProcessEffect::AwaitListeners { timeout });
            }
            Err(why) => {
                self.record(id, What::NotClosed(why));
                self.gate(id);
            }
        }
    }

    pub(super) fn timed_out(&mut self, id: ProcessId, wait: Wait) {
        self.record(id, What::WaitTimedOut(wait));
        match wait {
            Wait::Drain | Wait::Close | Wait::Listeners => self.gate(id),
            Wait::Gate => self.tell_to_stop(id),
        }
    }

    /// Waits for traffic towards it, as long as those below can spare.
    pub(super) fn gate(&mut self, id: ProcessId) {
        let until = self.latest(id);
        if self.planned(id).is_some_and(|planned| planned.gated) && self.now < until {
            self.enter(id, State::Gated { until });
            let timeout = until.saturating_duration_since(self.now);
            self.effect(id, ProcessEffect::AwaitGate { timeout });
        } else {
            self.tell_to_stop(id);
        }
    }

    pub(super) fn tell_to_stop(&mut self, id: ProcessId) {
        let timeout = self
            .planned(id)
            .map_or(Duration::ZERO, |planned| planned.stop_timeout);
        if timeout.is_zero() {
            self.record(id, What::Killed(timeout));
            self.kill(id);
            return;
        }
        let signal = self.signal_of(id);
        self.record(id, What::Signalled(signal));
        let kill_at = (self.now + timeout).min(self.latest_kill(id)).max(self.now);
        self.enter(id, State::Signalled { kill_at });
        self.effect(id, ProcessEffect::Signal(signal));
    }

    pub(super) fn kill(&mut self, id: ProcessId) {
        self.enter(id, State::Killed);
        self.effect(id, ProcessEffect::Kill);
    }

    /// The end of the grace period: what is alive is killed, and a little later abandoned.
    pub(super) fn expire_grace(&mut self) {
        let Phase::Stopping { pace, .. } = &self.machine.phase else {
            return;
        };
        match pace {
            Pace::Orderly { until, .. } if *until <= self.now => self.force(Force::Deadline),
            Pace::Forced { until } if *until <= self.now => {
                let left: Vec<String> = self
                    .machine
                    .plan
                    .ids()
                    .filter(|id| self.machine.state(*id).is_alive())
                    .map(|id| self.machine.plan.name(id).to_owned())
                    .collect();
                if !left.is_empty() {
                    self.record_all(What::Abandoned(left));
                }
                self.finish();
            }
            _ => {}
        }
    }

    fn force(&mut self, why: Force) {
        let end = self.now + defaults::KILL_WITHIN;
        if let Phase::Stopping { pace, .. } = &mut self.machine.phase {
            *pace = Pace::Forced { until: end };
        }
        if self
            .machine
            .processes
            .iter()
            .any(|process| process.state.is_alive())
        {
            self.record_all(What::Forced(why));
        }
        for id in self.machine.plan.ids() {
            match self.machine.state(id) {
                State::Waiting | State::BackingOff { .. } => self.enter(id, State::Gone),
                // Killed as soon as it is known.
                State::Spawning | State::Gone => {}
                _ => self.kill(id),
            }
        }
    }

    fn finish(&mut self) {
        let code = match &self.machine.phase {
            Phase::Stopping { cause, .. } => match cause {
                Cause::Signal(_) | Cause::TerminalLost | Cause::Request => 0,
                Cause::Critical(_, status) => status.code(),
                Cause::StartFailed(_, _, code) | Cause::NothingLeft(code) => *code,
            },
            _ => return,
        };
        self.machine.phase = Phase::Ended;
        self.record_all(What::Ended(code));
        self.effects.push(Effect::Finish { code });
    }

    pub(super) fn is_forced(&self) -> bool {
        matches!(
            self.machine.phase,
            Phase::Stopping {
                pace: Pace::Forced { .. },
                ..
            }
        )
    }

    /// The last moment to signal a process, so that it and everything below it still have what is kept for them.
    fn latest(&self, id: ProcessId) -> Instant {
        let tail = self.tail(id);
        match &self.machine.phase {
            Phase::Stopping {
                pace: Pace::Orderly { until, .. } | Pace::Forced { until },
                ..
            } => until.checked_sub(tail).unwrap_or(self.now).max(self.now),
            _ => self.now,
        }
    }

    /// The last moment for a process to end by itself, so that everything below it still has what is kept for it.
    fn latest_kill(&self, id: ProcessId) -> Instant {
        let planned = self.planned(id);
        let stop = planned.map_or(Duration::ZERO, |planned| planned.stop_timeout);
        let kept = planned.map_or(Duration::ZERO, |planned| planned.stop_kept);
        match &self.machine.phase {
            Phase::Stopping { .. } => self.latest(id) + kept,
            // One that is to be started again has all the time that it may take.
            _ => self.now + stop,
        }
    }

    fn tail(&self, id: ProcessId) -> Duration {
        self.planned(id).map_or(Duration::ZERO, |planned| planned.tail)
    }

    fn announce_left(&self) -> Duration {
        match &self.machine.phase {
            Phase::Stopping { began, .. } => {
                (*began + self.machine.plan.announce).saturating_duration_since(self.now)
            }
            _ => Duration::ZERO,
        }
    }
}
