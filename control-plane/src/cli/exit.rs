//! How the program ends.

use std::process::ExitCode;

/// Exit codes: part of the stable command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: done; of a waited drain: drained.
    Success,
    /// 1: it could not be done.
    Error,
    /// 2: the command line makes no sense.
    Usage,
    /// 3: the waited drain timed out.
    TimedOut,
    /// 4: the waited drain was cancelled.
    Cancelled,
    /// 6: an Envoy of the waited drain ended with requests in flight.
    Cut,
    /// What `ebb run` passes on from its processes.
    Passed(u8),
    /// 130: Ctrl-C, as shells report SIGINT.
    Interrupted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Success => 0,
            Exit::Error => 1,
            Exit::Usage => 2,
            Exit::TimedOut => 3,
            Exit::Cancelled => 4,
            Exit::Cut => 6,
            Exit::Passed(code) => code,
            Exit::Interrupted => 130,
        })
    }
}

/// Why a command did not succeed, in one line for a person.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line is wrong: the text says how to put it right.
    #[error("{0}")]
    Usage(String),
    /// Anything else.
    #[error("{0}")]
    Error(String),
}

impl Failure {
    /// The exit code it ends with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Error(_) => Exit::Error,
        }
    }
}
