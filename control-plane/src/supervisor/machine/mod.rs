//! The life of all processes, as a pure state machine: events and the time go in, effects and the next deadline come
//! out. It does no I/O, reads no clock and logs nothing.
//!
//! A process:
//!
//! ```text
//!               dependencies ready      spawned           check passed
//!     Waiting ──────────────────> Spawning ──────> Starting ──────> Ready
//!        │                          │                │  │             │
//!        │ shutdown                 │ not spawned    │  │ not ready   │ died
//!        │                          v                │  v             │
//!        │      backoff over     ┌─────────── died <─┼─ Signalled ────┤
//!        │   Spawning <── BackingOff (restart left)  │                │
//!        v                       └─> Gone (none left)│                │
//!      Gone                                          │                │
//!                                                    │                │
//!     shutdown, and every dependant is Gone:         │                │
//!                                                    │                v
//!                  (never ready: nothing to drain)   │   with drain: Draining     without: Announced
//!                                                    │      │ drained     │ timed out,        │
//!                                                    │      v             │ cancelled,        │ announce
//!                                                    │   Closing ───────> │ failed            │ is over
//!                                                    │      │ closed   not│closable           │
//!                                                    │      v             │                   │
//!                                                    │   Settling         │                   │
//!                                                    │      │ quiet again,│                   │
//!                                                    │      │ or timed out│                   │
//!                                                    v      v             v                   v
//!                                            with gate: Gated ── quiet, or latest moment ──> Signalled
//!                                                                                             │     │ stop timeout
//!                                                                                      exited │     v
//!                                                                                     Gone <──┴── Killed
//! ```
//!
//! A process that ends by itself in any state is `Gone` at once (its group is told to follow: `Signalled`). All of them:
//!
//! ```text
//!     Idle ── start ──> Starting ── all ready ──> Running
//!                          │                         │  signal, request, critical process dead, start failed,
//!                          v                         v  nothing left
//!                       Stopping, orderly ─── grace period over, or signal thrice ──> Stopping, forced
//!                          │ all gone                                                    │ all gone, or reserve over
//!                          v                                                             v
//!                        Ended  <────────────────────────────────────────────────────────┘
//! ```
//!
//! Every wait of a shutdown ends early enough that each process still has what is kept for its stop, and those below it
//! what is kept for theirs, before the grace period is over (the `tail` of a plan); that one deadline bounds everything. Stop
//! timeouts that nobody set are longer than what is kept of them: until a process needs it, the rest is lent to the drains.

mod event;
mod start;
mod stop;
mod view;

use std::time::{Duration, Instant};

pub use event::{
    Cause, DrainOutcome, Effect, Event, ExitStatus, Force, ProcessEffect, ProcessEvent, Record, Wait, What,
};
pub use view::{ProcessState, ProcessView};

use super::plan::{Plan, Planned, ProcessId};

/// Within this time of the one before, a repeated signal forces.
pub(super) const FORCE_WITHIN: Duration = Duration::from_secs(2);

/// The state of all processes. See the module's documentation.
#[derive(Debug)]
pub struct Machine {
    plan: Plan,
    processes: Vec<Process>,
    phase: Phase,
    /// Exit code of the first process that failed for good.
    first_failure: Option<i32>,
}

#[derive(Debug)]
enum Phase {
    Idle,
    Starting,
    Running,
    Stopping {
        cause: Cause,
        began: Instant,
        pace: Pace,
    },
    Ended,
}

#[derive(Debug)]
enum Pace {
    /// In order, until `until`. `repeated` is when the signal last came again.
    Orderly {
        until: Instant,
        repeated: Option<Instant>,
    },
    /// Everything is killed; what is not gone then is abandoned.
    Forced { until: Instant },
}

#[derive(Debug)]
struct Process {
    state: State,
    /// When the state was entered.
    since: Instant,
    /// Counts its starts, from 1.
    run: u32,
    pid: Option<u32>,
    /// Restarts that count against the limit.
    restarts: u32,
    /// When it became ready in this run.
    ready_at: Option<Instant>,
    /// When it was started in this run.
    started_at: Option<Instant>,
    /// How it ended, in this run or the last.
    exit: Option<ExitStatus>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// For its dependencies.
    Waiting,
    /// Asked for, no answer yet.
    Spawning,
    /// Alive, not yet ready.
    Starting,
    /// Alive. In a shutdown: until its dependants are gone.
    Ready,
    /// Dead, to be started again.
    BackingOff { until: Instant },
    /// Load balancers are being told.
    Announced { until: Instant },
    /// Its requests are coming to an end.
    Draining { until: Instant },
    /// Its listeners are being closed.
    Closing { until: Instant },
    /// Its listeners are closed; requests on the last connections come to an end.
    Settling { until: Instant },
    /// Traffic towards it is coming to an end.
    Gated { until: Instant },
    /// Told to stop.
    Signalled { kill_at: Instant },
    /// Sent SIGKILL.
    Killed,
    /// Dead for good, or never alive.
    Gone,
}

impl State {
    /// Whether there may be a living process.
    fn is_alive(self) -> bool {
        !matches!(self, Self::Waiting | Self::BackingOff { .. } | Self::Gone)
    }

    fn deadline(self) -> Option<Instant> {
        match self {
            Self::BackingOff { until }
            | Self::Announced { until }
            | Self::Draining { until }
            | Self::Closing { until }
            | Self::Settling { until }
            | Self::Gated { until }
            | Self::Signalled { kill_at: until } => Some(until),
            Self::Waiting | Self::Spawning | Self::Starting | Self::Ready | Self::Killed | Self::Gone => None,
        }
    }
}

impl Machine {
    /// A machine in which nothing has been started yet.
    #[must_use]
    pub fn new(plan: Plan, now: Instant) -> Self {
        let process = |_: &Planned| Process {
            state: State::Waiting,
            since: now,
            run: 0,
            pid: None,
            restarts: 0,
            ready_at: None,
            started_at: None,
            exit: None,
        };
        Self {
            processes: plan.processes.iter().map(process).collect(),
            plan,
            phase: Phase::Idle,
            first_failure: None,
        }
    }

    /// What follows from an event at this time. Times must not go backwards.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        let mut step = Step {
            machine: self,
            now,
            effects: Vec::new(),
        };
        step.event(event);
        step.expire();
        step.advance();
        step.effects
    }

    /// When [`Event::Tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let overall = match &self.phase {
            Phase::Stopping {
                pace: Pace::Orderly { until, .. } | Pace::Forced { until },
                ..
            } => Some(*until),
            Phase::Ended => return None,
            Phase::Idle | Phase::Starting | Phase::Running => None,
        };
        let process = self
            .processes
            .iter()
            .filter_map(|process| process.state.deadline())
            .min();
        [overall, process].into_iter().flatten().min()
    }

    /// The plan it follows.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    fn state(&self, id: ProcessId) -> State {
        self.processes
            .get(id.0)
            .map_or(State::Gone, |process| process.state)
    }
}

/// One call of [`Machine::handle`].
struct Step<'m> {
    machine: &'m mut Machine,
    now: Instant,
    effects: Vec<Effect>,
}

impl Step<'_> {
    fn event(&mut self, event: Event) {
        match event {
            Event::Start => {
                if matches!(self.machine.phase, Phase::Idle) {
                    self.machine.phase = Phase::Starting;
                }
            }
            Event::Signal(signal) => self.signalled(signal),
            Event::TerminalLost => self.begin_stop(Cause::TerminalLost),
            Event::ShutdownRequested => self.begin_stop(Cause::Request),
            Event::Tick => {}
            Event::Process(id, run, event) => {
                let current = self
                    .machine
                    .processes
                    .get(id.0)
                    .is_some_and(|process| process.run == run);
                if current && !matches!(self.machine.phase, Phase::Ended) {
                    self.process_event(id, event);
                }
            }
        }
    }

    fn process_event(&mut self, id: ProcessId, event: ProcessEvent) {
        let state = self.machine.state(id);
        match (event, state) {
            (ProcessEvent::Spawned { pid }, State::Spawning) => self.spawned(id, pid),
            (ProcessEvent::SpawnFailed { error, code }, State::Spawning) => {
                self.spawn_failed(id, error, code)
            }
            (ProcessEvent::Ready, State::Starting) => self.ready(id),
            (ProcessEvent::NotReady { why }, State::Starting) => self.not_ready(id, why),
            (ProcessEvent::Exited { status, leftovers }, state) if state.is_alive() => {
                self.exited(id, status, leftovers);
            }
            (ProcessEvent::GroupGone, state) if state.is_alive() => self.gone(id),
            (ProcessEvent::DrainEnded(outcome), State::Draining { until }) => {
                self.drain_ended(id, outcome, until)
            }
            (ProcessEvent::Closed(result), State::Closing { until }) => self.closed(id, result, until),
            (ProcessEvent::ListenersQuiet, State::Settling { .. }) => self.gate(id),
            (ProcessEvent::GateQuiet, State::Gated { .. }) => {
                self.record(id, What::GateQuiet);
                self.tell_to_stop(id);
            }
            // An answer to something that is not waited for any more.
            _ => {}
        }
    }

    /// Carries out every deadline that has passed.
    fn expire(&mut self) {
        self.expire_grace();
        for id in self.machine.plan.ids() {
            let state = self.machine.state(id);
            if state.deadline().is_none_or(|deadline| self.now < deadline) {
                continue;
            }
            match state {
                // A shutdown may have begun in this very step.
                State::BackingOff { .. } if matches!(self.machine.phase, Phase::Stopping { .. }) => {}
                State::BackingOff { .. } => self.spawn(id),
                State::Announced { .. } => self.gate(id),
                State::Draining { .. } => self.timed_out(id, Wait::Drain),
                State::Closing { .. } => self.timed_out(id, Wait::Close),
                State::Settling { .. } => self.timed_out(id, Wait::Listeners),
                State::Gated { .. } => self.timed_out(id, Wait::Gate),
                State::Signalled { kill_at } => {
                    let since = self.process(id).map_or(kill_at, |process| process.since);
                    self.record(id, What::Killed(kill_at.saturating_duration_since(since)));
                    self.kill(id);
                }
                State::Waiting
                | State::Spawning
                | State::Starting
                | State::Ready
                | State::Killed
                | State::Gone => {}
            }
        }
    }

    /// Does what the state as a whole allows now.
    fn advance(&mut self) {
        match self.machine.phase {
            Phase::Idle | Phase::Ended => {}
            Phase::Starting | Phase::Running => self.advance_start(),
            Phase::Stopping { .. } => self.advance_stop(),
        }
    }

    fn planned(&self, id: ProcessId) -> Option<&Planned> {
        self.machine.plan.get(id)
    }

    fn process(&mut self, id: ProcessId) -> Option<&mut Process> {
        self.machine.processes.get_mut(id.0)
    }

    fn enter(&mut self, id: ProcessId, state: State) {
        let now = self.now;
        if let Some(process) = self.process(id) {
            process.state = state;
            process.since = now;
        }
    }

    fn effect(&mut self, id: ProcessId, effect: ProcessEffect) {
        let run = self.machine.processes.get(id.0).map_or(0, |process| process.run);
        self.effects.push(Effect::Process(id, run, effect));
    }

    fn record(&mut self, id: ProcessId, what: What) {
        self.effects.push(Effect::Record(Record {
            process: Some(id),
            what,
        }));
    }

    fn record_all(&mut self, what: What) {
        self.effects.push(Effect::Record(Record { process: None, what }));
    }

    /// Whether every process in the list is in a state that satisfies the condition.
    fn all(&self, ids: &[ProcessId], condition: impl Fn(State) -> bool) -> bool {
        ids.iter().all(|id| condition(self.machine.state(*id)))
    }
}

#[cfg(test)]
mod tests;
