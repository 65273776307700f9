//! The command line, run as its users run it.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::{bins, process::spawn_bound_to_us, wait};

/// A command that runs.
#[derive(Debug)]
pub struct RunningCli {
    command: String,
    child: Child,
}

/// A command that has ended.
#[derive(Debug)]
pub struct CliOutput {
    /// The exit code; none after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Starts the command line against the control plane at `socket`.
///
/// # Errors
/// When it cannot be started.
pub fn start(socket: &Path, args: &[&str]) -> Result<RunningCli> {
    let mut command = Command::new(bins::ebb()?);
    command
        .args(args)
        .env("EBB_ENDPOINT", format!("unix:{}", socket.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = spawn_bound_to_us(&mut command).context("cannot start ebb")?;
    Ok(RunningCli {
        command: args.join(" "),
        child,
    })
}

impl RunningCli {
    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end within two minutes.
    pub async fn output(self) -> Result<CliOutput> {
        let what = format!("`ebb {}` ends", self.command);
        let output = wait::within(what, Duration::from_secs(120), self.child.wait_with_output()).await??;
        Ok(CliOutput {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Its process id; none once it has been reaped.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }
}

impl CliOutput {
    /// Standard output as one JSON object.
    ///
    /// # Errors
    /// When it is something else; the message shows it and standard error.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("standard output is no JSON: {self:?}"))
    }
}
