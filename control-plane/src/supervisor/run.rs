//! `ebb run`: the control plane and its processes, from the first signal handler to the exit code.

use std::{
    io,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context;
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::{
    Ended, Supervisor, drains::Drains, handle::Handle, health::Health, output::OutputFormat, survivors,
};
use crate::{
    config::Config,
    core::policy::Policy,
    serve::{ServeOptions, Server},
};

/// How often grpc.health.v1 learns of drains that others have begun. What the processes do it learns at once.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What connections get at least to close, however late it is: what is told to a stream needs a moment to leave.
const GOODBYE: Duration = Duration::from_millis(50);

/// Runs until every process has stopped, and all but the log is at its end.
///
/// # Errors
/// The control plane or the health endpoint cannot be started; no process was.
pub async fn run(config: &Config, options: ServeOptions, format: OutputFormat) -> anyhow::Result<Ended> {
    let supervisor = Supervisor::new(config, format).context("cannot supervise")?;
    let handle = supervisor.handle();
    let mut store = options.open_store()?;
    // The predecessor is dead, or the store would be in use. What it left must be gone before the same is started again.
    if let Some(left) = store.run()? {
        survivors::stop(&left).await;
    }
    let kept = store.take_over(SystemTime::now())?;
    let mut server = Server::start_with(options, store, kept, Some(handle.clone())).await?;
    for address in server.addresses() {
        tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "serving");
    }
    let policy = Policy::default().overridden(&config.drain);
    let drains = Drains::new(server.engine().clone(), policy).of(handle.nodes());
    let health = match &config.control_plane.health {
        Some(address) => {
            let bound = Health::bind(address).await;
            let bound = bound.with_context(|| format!("control_plane.health: cannot listen on {address}"))?;
            Some(tokio::spawn(bound.serve(handle.clone(), drains.clone())))
        }
        None => None,
    };
    let supervising = tokio::spawn(supervisor.run(drains.clone()));
    let ended = keep(supervising, &mut server, &handle, &drains).await;
    let until = ended
        .as_ref()
        .map_or_else(|_| Instant::now(), |ended| ended.until);
    // The log comes after it.
    let left = until.saturating_duration_since(Instant::now()) / 2;
    server.stop_within(left.max(GOODBYE)).await;
    if let Some(health) = health {
        health.abort();
    }
    // After everything else that is logged: it is what somebody looks for.
    if let Ok(Ended {
        verdict: Some(verdict),
        ..
    }) = &ended
    {
        verdict.log();
    }
    ended
}

/// Waits for the supervisor, and has grpc.health.v1 say what `/ready` says.
async fn keep(
    mut supervisor: JoinHandle<Ended>,
    server: &mut Server,
    handle: &Handle,
    drains: &Drains,
) -> anyhow::Result<Ended> {
    let mut status = handle.status();
    status.mark_changed();
    let mut look_again = interval(LOOK_AGAIN);
    look_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut serving = None;
    let mut server_failed = false;
    loop {
        tokio::select! {
            ended = &mut supervisor => return ended.context("the supervisor failed"),
            ended = server.failed(), if !server_failed => {
                // The processes serve without it; what holds them together must not be what ends them.
                server_failed = true;
                let error = ended.err().unwrap_or_else(|| io::Error::other("a listener ended").into());
                tracing::error!("{error:#}");
                continue;
            }
            Ok(()) = status.changed() => {}
            _ = look_again.tick() => {}
        }
        let ready = status.borrow_and_update().unready.is_none() && drains.closing().await.is_none();
        if serving.replace(ready) != Some(ready) {
            server.set_serving(ready).await;
        }
    }
}
