//! What the state machine needs to know of the configuration: the graph and the bounds, and nothing of commands,
//! sockets or addresses.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::{
    config::{Config, Origin, Restart, defaults},
    core::policy::Policy,
};

/// A process of a [`Plan`]; valid for the plan it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub(super) usize);

/// All processes, what depends on what, and the time for it.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) processes: Vec<Planned>,
    /// From the beginning of a shutdown until the orchestrator kills. 0: everything is killed at once.
    pub(super) grace_period: Duration,
    /// From the announcement of a shutdown until the first process is stopped.
    pub(super) announce: Duration,
}

/// One process of a [`Plan`].
#[derive(Clone, Debug)]
pub struct Planned {
    /// Its unique name.
    pub(super) name: String,
    /// What must be ready before it starts, and stops only after it.
    pub(super) dependencies: Vec<ProcessId>,
    /// What starts after it, and must have exited before it is stopped.
    pub(super) dependants: Vec<ProcessId>,
    /// Whether its readiness is probed; otherwise it is ready as soon as it runs.
    pub(super) probed: bool,
    /// `None`: the signal that began the shutdown.
    pub(super) stop_signal: Option<Signal>,
    /// From its signal to SIGKILL, where there is time for it. 0: SIGKILL at once.
    pub(super) stop_timeout: Duration,
    /// What it has of that in any case.
    pub(super) stop_kept: Duration,
    /// What is drained before it is stopped.
    pub(super) drain: Option<PlannedDrain>,
    /// Whether traffic towards it must be quiet before it is stopped.
    pub(super) gated: bool,
    /// What follows its unexpected death.
    pub(super) restart: Restart,
    /// Whether its unexpected death shuts all down.
    pub(super) critical: bool,
    /// The time that must be left when it is signalled: what is kept for its own stop, and for everything below it on the
    /// longest chain.
    pub(super) tail: Duration,
}

/// The drain of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedDrain {
    /// Bound of the drain, announcement and closing of the listeners included, where there is time for it. 0: it is not waited
    /// for.
    pub(super) timeout: Duration,
    /// What it has of that in any case.
    pub(super) kept: Duration,
    /// Whether its listeners can be told to stop accepting before it is signalled.
    pub(super) closable: bool,
}

impl Plan {
    /// The plan of a configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let processes = config
            .processes
            .iter()
            .map(|process| Planned {
                name: process.name.clone(),
                dependencies: process.depends_on.iter().copied().map(ProcessId).collect(),
                dependants: Vec::new(),
                probed: process.ready.is_some(),
                stop_signal: process.stop.signal,
                stop_timeout: process.stop.timeout(),
                stop_kept: process.stop.kept(config.shutdown.grace_period),
                drain: process.drain.as_ref().map(|drain| PlannedDrain {
                    timeout: config.shutdown.drain.most,
                    kept: config.shutdown.drain.least,
                    closable: drain.admin.is_some(),
                }),
                gated: !process.gate.is_empty(),
                restart: match process.origin {
                    Origin::Command(_) => process.restart.clone(),
                    Origin::Attach(_) => Restart::Never,
                },
                critical: process.critical,
                tail: Duration::ZERO,
            })
            .collect();
        Self::link(
            processes,
            config.shutdown.grace_period,
            config.drain.announce.unwrap_or(Policy::default().announce),
        )
    }

    /// Fills in `dependants` and `tail`, which follow from the rest.
    pub(super) fn link(mut processes: Vec<Planned>, grace_period: Duration, announce: Duration) -> Self {
        let edges: Vec<(ProcessId, ProcessId)> = processes
            .iter()
            .enumerate()
            .flat_map(|(index, process)| process.dependencies.iter().map(move |id| (ProcessId(index), *id)))
            .collect();
        for (dependant, dependency) in &edges {
            if let Some(process) = processes.get_mut(dependency.0) {
                process.dependants.push(*dependant);
            }
        }
        // As many rounds as the longest chain has links: there is no cycle.
        for _ in 0..processes.len() {
            let below: Vec<Duration> = processes.iter().map(Planned::below).collect();
            for process in &mut processes {
                let longest = process.dependencies.iter().filter_map(|id| below.get(id.0)).max();
                process.tail = process
                    .stop_kept
                    .saturating_add(longest.copied().unwrap_or_default());
            }
        }
        Self {
            processes,
            grace_period,
            announce,
        }
    }

    /// Every process, in the order of the configuration.
    pub fn ids(&self) -> impl Iterator<Item = ProcessId> + use<> {
        (0..self.processes.len()).map(ProcessId)
    }

    /// From the beginning of a shutdown until the orchestrator kills.
    pub(super) fn grace_period(&self) -> Duration {
        self.grace_period
    }

    /// The bound of the drains that somebody set; `None` = nothing is drained, or they have what the grace period leaves.
    pub(super) fn drain_timeout(&self) -> Option<Duration> {
        let drains = self.processes.iter().filter_map(|process| process.drain);
        let longest = drains.map(|drain| drain.timeout).max();
        longest.filter(|timeout| *timeout < self.grace_period)
    }

    /// How long the drain of a process may take at least and at most; `None` = it is not drained.
    pub(super) fn drain_times(&self, id: ProcessId) -> Option<(Duration, Duration)> {
        let process = self.get(id)?;
        let drain = process.drain?;
        let reserved = defaults::RESERVE.saturating_add(process.tail);
        let most = drain.timeout.min(self.grace_period.saturating_sub(reserved));
        Some((drain.kept.min(most), most))
    }

    /// The name of a process.
    #[must_use]
    pub fn name(&self, id: ProcessId) -> &str {
        self.processes.get(id.0).map_or("", |process| &process.name)
    }

    pub(super) fn get(&self, id: ProcessId) -> Option<&Planned> {
        self.processes.get(id.0)
    }
}

impl ProcessId {
    /// Its place in the configuration.
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }
}

impl Planned {
    /// The time that it needs from the moment its last dependant has exited.
    fn below(&self) -> Duration {
        self.drain
            .map_or(Duration::ZERO, |drain| drain.kept)
            .saturating_add(self.tail)
    }
}
