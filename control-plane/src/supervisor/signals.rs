//! Signals to this process. Every one that would end it and that is not a fault of its own is caught: what is no stop must
//! not end a supervisor and leave its processes alone.

use std::{
    fmt,
    fs::{self, File},
    future::poll_fn,
    io,
    ops::RangeInclusive,
    os::unix::fs::OpenOptionsExt,
    task::{Context, Poll},
};

use nix::sys::signal::Signal;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::RELAYABLE;

/// Those that ask for a stop.
const STOP: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];

/// Further ones that would end this process, by number: SIGSTKFLT and the real-time signals. Not every system has all.
const NOBODYS: [RangeInclusive<i32>; 2] = [16..=16, 34..=64];

/// A signal that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// SIGINT, SIGTERM or SIGQUIT.
    Stop(Signal),
    /// SIGHUP, and the terminal from which this was started is gone.
    TerminalLost,
    /// One of [`RELAYABLE`]: for the processes that list it.
    Relay(Signal),
    /// Nobody's; its number.
    Nobodys(i32),
}

/// Why a stop is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// By this signal.
    Signal(Signal),
    /// The terminal is gone.
    TerminalLost,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(signal) => write!(f, "received {signal}"),
            Self::TerminalLost => f.write_str("its terminal is gone"),
        }
    }
}

/// The signals to this process.
#[derive(Debug)]
pub struct Signals {
    /// Those that ask for a stop first.
    all: Vec<(i32, tokio::signal::unix::Signal)>,
    /// The terminal that can be lost; `None` = there is none, or it may be: see `nohup`.
    terminal: Option<File>,
}

impl Signals {
    /// From now on none of them is lost, and none ends this process.
    ///
    /// # Errors
    /// The system refuses; no known one does.
    pub fn arm() -> io::Result<Self> {
        let terminal = if ignores_hangup() { None } else { terminal() };
        let mut all = Vec::new();
        for kind in STOP.into_iter().chain(RELAYABLE) {
            let number = kind as i32;
            all.push((number, signal(SignalKind::from_raw(number))?));
        }
        for number in NOBODYS.into_iter().flatten() {
            all.extend(
                signal(SignalKind::from_raw(number))
                    .ok()
                    .map(|signal| (number, signal)),
            );
        }
        Ok(Self { all, terminal })
    }

    /// The next one.
    pub async fn next(&mut self) -> Received {
        let number = poll_fn(|context| self.poll(context)).await;
        match Signal::try_from(number) {
            Ok(signal) if STOP.contains(&signal) => Received::Stop(signal),
            Ok(Signal::SIGHUP) if self.terminal_is_lost() => Received::TerminalLost,
            Ok(signal) if RELAYABLE.contains(&signal) => Received::Relay(signal),
            _ => Received::Nobodys(number),
        }
    }

    /// The next that asks for a stop, where there is nobody to relay the others to.
    pub async fn stop(&mut self) -> Asked {
        loop {
            match self.next().await {
                Received::Stop(signal) => return Asked::Signal(signal),
                Received::TerminalLost => return Asked::TerminalLost,
                other => other.log_ignored(),
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<i32> {
        for (number, signal) in &mut self.all {
            if signal.poll_recv(context) == Poll::Ready(Some(())) {
                return Poll::Ready(*number);
            }
        }
        Poll::Pending
    }

    fn terminal_is_lost(&self) -> bool {
        let Some(terminal) = &self.terminal else {
            return false;
        };
        let mut asked = [PollFd::new(terminal, PollFlags::empty())];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut asked, Some(&at_once)).is_ok()
            && asked.iter().any(|fd| fd.revents().contains(PollFlags::HUP))
    }
}

impl Received {
    /// Says that it has no effect; of those that have none by nature nothing.
    pub fn log_ignored(self) {
        match self {
            Self::Relay(Signal::SIGWINCH | Signal::SIGURG) => {}
            Self::Relay(signal) => tracing::info!(%signal, "ignored: no process has it relayed"),
            Self::Nobodys(number) => tracing::info!(number, "signal ignored"),
            Self::Stop(_) | Self::TerminalLost => {}
        }
    }
}

/// The controlling terminal of this process.
fn terminal() -> Option<File> {
    let flags = OFlags::NOCTTY | OFlags::NONBLOCK;
    let mut options = File::options();
    options.read(true).custom_flags(flags.bits().cast_signed());
    options.open("/dev/tty").ok()
}

/// Whether whoever started this process wants it to outlive its terminal.
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (Signal::SIGHUP as u64 - 1)) != 0)
}
