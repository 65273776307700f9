//! The demo: acts that each show one thing on real parts, under load, and end with a report.
//!
//! An act gets the `Screen` and returns its `Report`; [`run`] plays them one after the other. Everything that an act
//! starts is a guard, so leaving it early, by an error or by a signal, leaves no process behind.

mod clients;
mod drain;
mod report;
mod screen;
mod shutdown;
mod timeline;
mod view;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::screen::Screen;

/// How to show it.
#[derive(Clone, Copy, Debug, clap::Parser)]
#[command(
    name = "demo",
    about = "Drains a listener of a real Envoy, and stops a gateway, both under load, and reports"
)]
pub struct Options {
    /// Show it in a few seconds and with little load, as the tests do
    #[arg(long)]
    quick: bool,
}

/// How the demo ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything went as it should.
    Well,
    /// The report names what did not.
    Badly,
    /// By a signal, with this number.
    Signal(u8),
}

impl Ending {
    /// The exit code: as shells have it after a signal.
    #[must_use]
    pub fn exit_code(self) -> ExitCode {
        match self {
            Self::Well => ExitCode::SUCCESS,
            Self::Badly => ExitCode::FAILURE,
            Self::Signal(number) => ExitCode::from(number.saturating_add(128)),
        }
    }
}

/// Plays all acts, or as much of them as a signal allows.
///
/// # Errors
/// When a part does not start or standard output is closed.
pub async fn run(options: Options) -> Result<Ending> {
    let mut interrupt = Interrupt::arm()?;
    let mut screen = Screen::new();
    let ending = tokio::select! {
        ending = play(options, &mut screen) => return ending,
        number = interrupt.come() => Ending::Signal(number),
    };
    // The acts are dropped by now, and with them every process that they had started.
    screen.say("interrupted: everything that the demo had started is stopped")?;
    Ok(ending)
}

async fn play(options: Options, screen: &mut Screen) -> Result<Ending> {
    let drained = drain::perform(&drain::Scale::new(options.quick), screen).await?;
    let stopped = shutdown::perform(&shutdown::Scale::new(options.quick), screen).await?;
    let mut faults = drained.faults();
    faults.extend(stopped.faults());
    for fault in &faults {
        screen.say(&format!("FAILED: {fault}"))?;
    }
    if !faults.is_empty() {
        return Ok(Ending::Badly);
    }
    let requests = report::number(drained.requests() + stopped.requests());
    screen.say(&format!("OK: 0 of {requests} requests failed."))?;
    Ok(Ending::Well)
}

/// The signals that end the demo.
struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Interrupt {
    fn arm() -> Result<Self> {
        let on = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    /// The number of the first signal that comes.
    async fn come(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 2,
            _ = self.terminate.recv() => 15,
            _ = self.hangup.recv() => 1,
        }
    }
}
