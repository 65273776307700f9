//! Running a command to its end, within a bound.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

/// Runs a command and returns what it printed on standard output.
///
/// Fails when it does not end within `bound` or ends with another code than 0; the message has its whole output.
pub(crate) async fn run(command: &mut Command, bound: Duration) -> Result<String> {
    let shown = format!("{:?}", command.as_std());
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(bound, output)
        .await
        .with_context(|| format!("waited {bound:?} in vain for the end of {shown}"))?
        .with_context(|| format!("cannot run {shown}"))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{shown} ended with {}:\n{printed}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(printed)
}

/// `docker` with these arguments.
pub(crate) fn docker(arguments: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command.args(arguments);
    command
}
