//! Starting, and what follows a death that nobody asked for.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Cause, Effect, ExitStatus, Phase, ProcessEffect, State, Step, What};
use crate::{
    config::{Restart, defaults},
    supervisor::plan::ProcessId,
};

impl Step<'_> {
    /// Starts whatever has its dependencies ready.
    pub(super) fn advance_start(&mut self) {
        for id in self.machine.plan.ids() {
            let Some(planned) = self.planned(id) else { continue };
            if self.machine.state(id) != State::Waiting {
                continue;
            }
            if self.all(&planned.dependencies, |state| state == State::Ready) {
                self.spawn(id);
            } else if let Some(lost) = planned
                .dependencies
                .iter()
                .copied()
                .find(|dependency| self.machine.state(*dependency) == State::Gone)
            {
                let code = self.failure_code(lost);
                let why = format!("it ended, and {} needs it to start", self.machine.plan.name(id));
                self.begin_stop(Cause::StartFailed(lost, why, code));
                self.advance();
                return;
            }
        }
        if matches!(self.machine.phase, Phase::Starting)
            && self
                .machine
                .processes
                .iter()
                .all(|process| matches!(process.state, State::Ready | State::Gone))
        {
            self.machine.phase = Phase::Running;
        }
        if !self.machine.processes.is_empty()
            && self
                .machine
                .processes
                .iter()
                .all(|process| process.state == State::Gone)
        {
            self.begin_stop(Cause::NothingLeft(self.machine.first_failure.unwrap_or(0)));
            self.advance();
        }
    }

    pub(super) fn spawn(&mut self, id: ProcessId) {
        let now = self.now;
        if let Some(process) = self.process(id) {
            process.run += 1;
            process.pid = None;
            process.ready_at = None;
            process.exit = None;
            process.started_at = Some(now);
        }
        self.enter(id, State::Spawning);
        self.effect(id, ProcessEffect::Spawn);
    }

    pub(super) fn spawned(&mut self, id: ProcessId, pid: u32) {
        if let Some(process) = self.process(id) {
            process.pid = Some(pid);
        }
        self.record(id, What::Started(pid));
        self.enter(id, State::Starting);
        if self.is_forced() {
            self.kill(id);
        } else if self.planned(id).is_some_and(|planned| planned.probed) {
            self.effect(id, ProcessEffect::Probe);
        } else {
            self.ready(id);
        }
    }

    pub(super) fn spawn_failed(&mut self, id: ProcessId, error: String, code: i32) {
        self.record(id, What::NotReady(error.clone()));
        let status = ExitStatus::NotStarted(code);
        if let Some(process) = self.process(id) {
            process.exit = Some(status);
        }
        match self.machine.phase {
            Phase::Starting | Phase::Running => self.died(id, status, Some(error)),
            Phase::Idle | Phase::Stopping { .. } | Phase::Ended => self.enter(id, State::Gone),
        }
    }

    pub(super) fn ready(&mut self, id: ProcessId) {
        let now = self.now;
        let started = self.process(id).and_then(|process| {
            process.ready_at = Some(now);
            process.started_at
        });
        self.enter(id, State::Ready);
        self.record(
            id,
            What::Ready(started.map_or(Duration::ZERO, |started| now - started)),
        );
    }

    pub(super) fn not_ready(&mut self, id: ProcessId, why: String) {
        self.record(id, What::NotReady(why.clone()));
        match self.machine.phase {
            Phase::Starting => self.begin_stop(Cause::StartFailed(id, why, 1)),
            // A restart that failed: its death is the next failure.
            Phase::Running => self.tell_to_stop(id),
            Phase::Idle | Phase::Stopping { .. } | Phase::Ended => {}
        }
    }

    pub(super) fn exited(&mut self, id: ProcessId, status: ExitStatus, leftovers: bool) {
        if let Some(process) = self.process(id) {
            process.exit = Some(status);
        }
        if !leftovers {
            self.gone(id);
            return;
        }
        match self.machine.state(id) {
            // They have had the signal, and the time that is left.
            State::Signalled { .. } => {}
            State::Killed => self.effect(id, ProcessEffect::Kill),
            _ => {
                self.record(id, What::Leftovers(status));
                self.tell_to_stop(id);
            }
        }
    }

    /// The last of its group has exited.
    pub(super) fn gone(&mut self, id: ProcessId) {
        let Some(status) = self.process(id).map(|process| {
            process.pid = None;
            process.exit.unwrap_or(ExitStatus::Unknown)
        }) else {
            return;
        };
        match self.machine.phase {
            Phase::Starting | Phase::Running => {
                self.record(id, What::Died(status));
                self.died(id, status, None);
            }
            Phase::Idle | Phase::Stopping { .. } | Phase::Ended => {
                let asked = matches!(self.machine.state(id), State::Signalled { .. } | State::Killed);
                self.record(
                    id,
                    if asked {
                        What::Stopped(status)
                    } else {
                        What::Died(status)
                    },
                );
                self.enter(id, State::Gone);
            }
        }
    }

    /// Restart, shutdown or nothing, after a death that nobody asked for.
    fn died(&mut self, id: ProcessId, status: ExitStatus, error: Option<String>) {
        let now = self.now;
        let Some(planned) = self.machine.plan.get(id) else {
            return;
        };
        let Some(process) = self.machine.processes.get_mut(id.0) else {
            return;
        };
        // It was told to stop only because it did not become ready, or because its first process had left it.
        let told =
            matches!(process.state, State::Signalled { .. } | State::Killed) && process.ready_at.is_none();
        let failed = told || !status.is_success();
        if process
            .ready_at
            .is_some_and(|ready| now - ready >= defaults::RESTART_FORGET)
        {
            process.restarts = 0;
        }
        if let Restart::OnFailure { backoff, limit } = planned.restart
            && failed
            && limit.is_none_or(|limit| process.restarts < limit)
        {
            let doubled = backoff.saturating_mul(1_u32.checked_shl(process.restarts).unwrap_or(u32::MAX));
            let wait = doubled.min(defaults::RESTART_BACKOFF_MAX.max(backoff));
            process.restarts += 1;
            let nth = process.restarts;
            self.record(id, What::Restarting(wait, nth));
            self.enter(id, State::BackingOff { until: now + wait });
            return;
        }
        let (critical, was_ready) = (planned.critical, process.ready_at.is_some());
        self.enter(id, State::Gone);
        if failed {
            let code = self.failure_code(id);
            self.machine.first_failure.get_or_insert(code);
        }
        if matches!(self.machine.phase, Phase::Starting) && !was_ready {
            let why = error.unwrap_or_else(|| format!("{status} before it was ready"));
            self.begin_stop(Cause::StartFailed(id, why, self.failure_code(id)));
        } else if critical {
            self.begin_stop(Cause::Critical(id, status));
        }
    }

    /// The exit code of a process that failed; 1 if its own says nothing.
    fn failure_code(&self, id: ProcessId) -> i32 {
        let status = self.machine.processes.get(id.0).and_then(|process| process.exit);
        status
            .map(ExitStatus::code)
            .filter(|code| *code != 0)
            .unwrap_or(1)
    }

    pub(super) fn signal_of(&self, id: ProcessId) -> Signal {
        let received = match &self.machine.phase {
            Phase::Stopping {
                cause: Cause::Signal(signal),
                ..
            } => Some(*signal),
            _ => None,
        };
        let configured = self.planned(id).and_then(|planned| planned.stop_signal);
        configured.or(received).unwrap_or(Signal::SIGTERM)
    }

    pub(super) fn announce(&mut self) {
        self.effects.push(Effect::Announce);
        for id in self.machine.plan.ids() {
            let closable = self
                .planned(id)
                .and_then(|planned| planned.drain)
                .is_some_and(|drain| drain.closable);
            if closable && self.machine.state(id) == State::Ready {
                self.effect(id, ProcessEffect::FailHealth);
            }
        }
    }
}
