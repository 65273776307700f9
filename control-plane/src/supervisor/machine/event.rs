//! What goes into the machine, and what comes out.

use std::{fmt, time::Duration};

use nix::sys::signal::Signal;

use crate::supervisor::plan::ProcessId;

/// Something that happened. Answers to effects carry the `run` they belong to, so that one that comes late is told
/// from one of the process that was started since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Begin: start what depends on nothing.
    Start,
    /// SIGINT, SIGTERM or SIGQUIT was received.
    Signal(Signal),
    /// The terminal from which this was started is gone.
    TerminalLost,
    /// A caller asked for a shutdown.
    ShutdownRequested,
    /// A deadline may have passed: see [`super::Machine::next_deadline`].
    Tick,
    /// Something happened to a process.
    Process(ProcessId, u32, ProcessEvent),
}

/// Something that happened to a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessEvent {
    /// It runs.
    Spawned {
        /// Its pid.
        pid: u32,
    },
    /// It could not be started.
    SpawnFailed {
        /// Why, in words.
        error: String,
        /// The code that a shell gives: 127 not found, 126 not executable.
        code: i32,
    },
    /// Its readiness check passed.
    Ready,
    /// Its readiness check did not pass in its time.
    NotReady {
        /// Why, in words.
        why: String,
    },
    /// Its first process has exited.
    Exited {
        /// How.
        status: ExitStatus,
        /// Whether others of its process group are still alive; then [`ProcessEvent::GroupGone`] follows.
        leftovers: bool,
    },
    /// The last of its process group has exited.
    GroupGone,
    /// Its drain has ended.
    DrainEnded(DrainOutcome),
    /// Whether its listeners have stopped accepting; otherwise why not.
    Closed(Result<(), String>),
    /// Nothing has been in flight on its listeners for a quiet period since they closed.
    ListenersQuiet,
    /// Nothing is in flight towards the endpoints that it serves.
    GateQuiet,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// With a code.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// It was never started; the code stands for why.
    NotStarted(i32),
    /// Ended, and its status was for somebody else: it is not a child of Ebb.
    Unknown,
}

impl ExitStatus {
    /// Whether it ended well.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }

    /// As an exit code: 128 + the signal, 1 where nothing is known.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) | Self::NotStarted(code) => code,
            Self::Signal(signal) => 128 + signal,
            Self::Unknown => 1,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "ended by {signal}"),
                Err(_) => write!(f, "ended by signal {number}"),
            },
            Self::NotStarted(_) => f.write_str("not started"),
            Self::Unknown => f.write_str("exited"),
        }
    }
}

/// How the drain of a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrainOutcome {
    /// Every request is done.
    Drained,
    /// None stays in flight, but others keep coming: listeners have to be closed first.
    NoneStays,
    /// The deadline came first; what was left, in words.
    TimedOut(String),
    /// Cancelled by somebody: the process is stopped without waiting any longer.
    Cancelled,
    /// Nothing is left, because an Envoy ended with this many requests in flight.
    Cut(u64),
    /// It could not be run; why, in words.
    Failed(String),
}

impl fmt::Display for DrainOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drained => f.write_str("drained"),
            Self::NoneStays => {
                f.write_str("nothing stays in flight, but clients keep coming: turning them away")
            }
            Self::TimedOut(left) => write!(f, "drain timed out: {left}"),
            Self::Cancelled => f.write_str("drain cancelled"),
            Self::Cut(requests) => write!(f, "an Envoy ended with requests in flight: {requests} cut"),
            Self::Failed(why) => write!(f, "drain failed: {why}"),
        }
    }
}

/// Something to do. Each is done at once and without waiting; its answer is an [`Event`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Health turns bad: load balancers are to go elsewhere.
    Announce,
    /// Something to do for one process. The `run` goes back with the answer. It replaces what is still being done for
    /// the same process.
    Process(ProcessId, u32, ProcessEffect),
    /// Something to tell people.
    Record(Record),
    /// All is over: exit with this code.
    Finish {
        /// For `exit`.
        code: i32,
    },
}

/// Something to do for a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessEffect {
    /// Start it, or attach to it: [`ProcessEvent::Spawned`] or [`ProcessEvent::SpawnFailed`].
    Spawn,
    /// Check whether it is ready, within its time: [`ProcessEvent::Ready`] or [`ProcessEvent::NotReady`].
    Probe,
    /// Tell its Envoy to fail health checks; no answer.
    FailHealth,
    /// Drain its listeners: [`ProcessEvent::DrainEnded`].
    Drain {
        /// How long it goes on serving as usual first.
        announce: Duration,
        /// Bound over all of it.
        timeout: Duration,
    },
    /// Stop accepting connections: [`ProcessEvent::Closed`].
    Close,
    /// Wait until its listeners are quiet: [`ProcessEvent::ListenersQuiet`].
    AwaitListeners {
        /// After which the answer is of no use any more.
        timeout: Duration,
    },
    /// Wait until traffic towards it is quiet: [`ProcessEvent::GateQuiet`].
    AwaitGate {
        /// After which the answer is of no use any more.
        timeout: Duration,
    },
    /// Send a signal to its process group: [`ProcessEvent::Exited`] will follow.
    Signal(Signal),
    /// Send SIGKILL to its process group.
    Kill,
}

/// Something worth telling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The process it is about.
    pub process: Option<ProcessId>,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It runs under this pid.
    Started(u32),
    /// It is ready, this long after its start.
    Ready(Duration),
    /// It could not be started, or did not become ready.
    NotReady(String),
    /// It ended, and was meant to.
    Stopped(ExitStatus),
    /// It ended, and was not meant to.
    Died(ExitStatus),
    /// Others of its process group outlive it.
    Leftovers(ExitStatus),
    /// It will be started again: after this long, for the nth time.
    Restarting(Duration, u32),
    /// An ordered shutdown began.
    ShutdownBegan(Cause),
    /// A signal was received again.
    SignalIgnored(Signal),
    /// Everything is killed now.
    Forced(Force),
    /// Its drain began.
    Draining,
    /// Its drain ended.
    DrainEnded(DrainOutcome),
    /// Its listeners accept no more connections.
    Closed,
    /// Its listeners could not be closed.
    NotClosed(String),
    /// A wait came to its bound.
    WaitTimedOut(Wait),
    /// Its traffic is quiet.
    GateQuiet,
    /// It was told to stop.
    Signalled(Signal),
    /// It is killed: it did not stop within this.
    Killed(Duration),
    /// These did not even end by SIGKILL in time.
    Abandoned(Vec<String>),
    /// All is over.
    Ended(i32),
}

/// What is waited for while a process is being stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Its listeners are to be drained.
    Drain,
    /// Its listeners are to stop accepting.
    Close,
    /// Its closed listeners are to be quiet.
    Listeners,
    /// Traffic towards it is to be quiet.
    Gate,
}

/// Why an ordered shutdown began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// By a signal.
    Signal(Signal),
    /// The terminal from which this was started is gone.
    TerminalLost,
    /// By a caller.
    Request,
    /// A critical process died.
    Critical(ProcessId, ExitStatus),
    /// A process did not start; why, and its exit code.
    StartFailed(ProcessId, String, i32),
    /// Every process has ended; the code of the first that failed, or 0.
    NothingLeft(i32),
}

/// Why everything is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// The grace period is over.
    Deadline,
    /// The signal was repeated.
    Signal(Signal),
}
