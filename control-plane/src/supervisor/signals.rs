//! Signals to this process.

use std::io;

use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};

/// A signal that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// SIGINT, SIGTERM or SIGQUIT.
    Stop(Signal),
    /// SIGHUP or SIGUSR1: for the processes.
    Forward(Signal),
}

/// The signals that mean something to a supervisor.
#[derive(Debug)]
pub struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    user1: tokio::signal::unix::Signal,
}

impl Signals {
    /// From now on none of them is lost, and none ends this process.
    ///
    /// # Errors
    /// The system refuses; no known one does.
    pub fn arm() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Received {
        tokio::select! {
            Some(()) = self.terminate.recv() => Received::Stop(Signal::SIGTERM),
            Some(()) = self.interrupt.recv() => Received::Stop(Signal::SIGINT),
            Some(()) = self.quit.recv() => Received::Stop(Signal::SIGQUIT),
            Some(()) = self.hangup.recv() => Received::Forward(Signal::SIGHUP),
            Some(()) = self.user1.recv() => Received::Forward(Signal::SIGUSR1),
            else => std::future::pending().await,
        }
    }
}
