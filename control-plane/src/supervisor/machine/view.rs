//! The machine, told to people.

use std::time::{Duration, Instant};

use super::{ExitStatus, Machine, Phase, State};
use crate::supervisor::plan::ProcessId;

/// A process as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessView {
    /// Its name.
    pub name: String,
    /// Where it is in its life.
    pub state: ProcessState,
    /// Its pid while it is alive.
    pub pid: Option<u32>,
    /// Since its start, while it is alive.
    pub uptime: Option<Duration>,
    /// What it waits for, in words; empty for nothing.
    pub waits_for: String,
    /// Restarts that count against its limit.
    pub restarts: u32,
    /// How it ended the last time, if it is not alive.
    pub exit: Option<ExitStatus>,
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessState {
    /// For its dependencies.
    Waiting,
    /// Not yet ready.
    Starting,
    /// Serving.
    Ready,
    /// Dead, to be started again.
    BackingOff,
    /// To be stopped once what it serves is gone.
    Holding,
    /// Its requests are coming to an end.
    Draining,
    /// Told to stop.
    Stopping,
    /// Dead.
    Exited,
}

impl ProcessState {
    /// As it is written in the output of commands.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::BackingOff => "backing_off",
            Self::Holding => "holding",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
            Self::Exited => "exited",
        }
    }
}

impl Machine {
    /// Every process, in the order of the configuration.
    #[must_use]
    pub fn view(&self, now: Instant) -> Vec<ProcessView> {
        self.plan.ids().filter_map(|id| self.view_of(id, now)).collect()
    }

    /// Why not everything is ready and serving; `None` if it is.
    #[must_use]
    pub fn unready(&self) -> Option<String> {
        match &self.phase {
            Phase::Idle | Phase::Starting => return Some("starting".to_owned()),
            Phase::Stopping { cause, .. } => {
                return Some(format!("shutting down: {}", cause.text(&self.plan)));
            }
            Phase::Ended => return Some("shut down".to_owned()),
            Phase::Running => {}
        }
        let missing: Vec<String> = self
            .plan
            .ids()
            .filter(|id| self.state(*id) != State::Ready)
            .map(|id| {
                let state = self.view_state(id).as_str();
                format!("{} is {state}", self.plan.name(id))
            })
            .collect();
        (!missing.is_empty()).then(|| missing.join(", "))
    }

    fn view_of(&self, id: ProcessId, now: Instant) -> Option<ProcessView> {
        let process = self.processes.get(id.0)?;
        let alive = process.state.is_alive();
        Some(ProcessView {
            name: self.plan.name(id).to_owned(),
            state: self.view_state(id),
            pid: process.pid,
            uptime: process
                .started_at
                .filter(|_| alive)
                .map(|started| now.saturating_duration_since(started)),
            waits_for: self.waits_for(id, now),
            restarts: process.restarts,
            exit: process.exit.filter(|_| !alive),
        })
    }

    fn view_state(&self, id: ProcessId) -> ProcessState {
        let stopping = matches!(self.phase, Phase::Stopping { .. } | Phase::Ended);
        match self.state(id) {
            State::Waiting => ProcessState::Waiting,
            State::Starting | State::Ready if stopping => ProcessState::Holding,
            State::Spawning | State::Starting => ProcessState::Starting,
            State::Ready => ProcessState::Ready,
            State::BackingOff { .. } => ProcessState::BackingOff,
            State::Announced { .. } | State::Gated { .. } => ProcessState::Holding,
            State::Draining { .. } | State::Closing { .. } | State::Settling { .. } => ProcessState::Draining,
            State::Signalled { .. } | State::Killed => ProcessState::Stopping,
            State::Gone => ProcessState::Exited,
        }
    }

    fn waits_for(&self, id: ProcessId, now: Instant) -> String {
        let Some(planned) = self.plan.get(id) else {
            return String::new();
        };
        let names = |ids: &[ProcessId], waited: fn(State) -> bool| {
            let names: Vec<&str> = ids
                .iter()
                .filter(|id| waited(self.state(**id)))
                .map(|id| self.plan.name(*id))
                .collect();
            names.join(", ")
        };
        let left = |until: Instant| {
            let left = until.saturating_duration_since(now).as_millis();
            humantime::format_duration(Duration::from_millis(u64::try_from(left).unwrap_or(u64::MAX)))
                .to_string()
        };
        let stopping = matches!(self.phase, Phase::Stopping { .. });
        match self.state(id) {
            State::Waiting => format!(
                "{} to be ready",
                names(&planned.dependencies, |state| state != State::Ready)
            ),
            State::Starting | State::Ready if stopping => {
                format!(
                    "{} to exit",
                    names(&planned.dependants, |state| state != State::Gone)
                )
            }
            State::Spawning | State::Starting if planned.probed => "its readiness check".to_owned(),
            State::Spawning | State::Starting | State::Ready | State::Gone => String::new(),
            State::BackingOff { until } => format!("its restart in {}", left(until)),
            State::Announced { until } => format!("load balancers, {}", left(until)),
            State::Draining { until } => format!("its requests, at most {}", left(until)),
            State::Closing { until } => format!("its listeners to close, at most {}", left(until)),
            State::Settling { until } => format!("its last connections, at most {}", left(until)),
            State::Gated { until } => format!("traffic towards it, at most {}", left(until)),
            State::Signalled { kill_at } => format!("its exit, at most {}", left(kill_at)),
            State::Killed => "its exit".to_owned(),
        }
    }
}
