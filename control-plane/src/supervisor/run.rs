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
    Ended, Supervisor,
    drains::Drains,
    handle::Handle,
    health::Health,
    output::OutputFormat,
    signals::{Asked, Signals},
    survivors,
};
use crate::{
    config::Config,
    core::{policy::Policy, record::Kept},
    serve::{ServeOptions, Server},
    store::Store,
};

/// How often grpc.health.v1 learns of drains that others have begun. What the processes do it learns at once.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What connections get at least to close, however late it is: what is told to a stream needs a moment to leave.
const GOODBYE: Duration = Duration::from_millis(50);

/// How long a stop waits for what the last run kept to be cleared.
const CLEAR_WITHIN: Duration = Duration::from_millis(250);

/// Runs until every process has stopped, and all but the log is at its end.
///
/// # Errors
/// The control plane or the health endpoint cannot be started; no process was.
pub async fn run(config: &Config, options: ServeOptions, format: OutputFormat) -> anyhow::Result<Ended> {
    for process in config.processes.iter().filter(|process| process.may_be_missed()) {
        tracing::warn!(
            process = process.name,
            "a proxy with neither `restart` nor `critical`: should it die, everything else goes on without it, and /live stays good"
        );
    }
    let mut supervisor = Supervisor::new(config, format).context("cannot supervise")?;
    let handle = supervisor.handle();
    let grace_period = config.shutdown.grace_period;
    let serving = serve(options, &handle, supervisor.signals(), grace_period).await;
    let mut server = match serving {
        Ok(server) => server,
        Err(Prevented::Failed(error)) => return Err(error),
        Err(Prevented::Stopped(asked)) => {
            tracing::info!("{asked} before anything was started: there is nothing to stop");
            return Ok(Supervisor::never_ran());
        }
    };
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
        // Its socket goes with it.
        let _ = health.await;
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

/// Why it does not come to supervising.
enum Prevented {
    /// A stop was asked for before.
    Stopped(Asked),
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Prevented {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// The control plane, once nothing is left of the last run.
async fn serve(
    options: ServeOptions,
    supervisor: &Handle,
    signals: &mut Signals,
    grace_period: Duration,
) -> Result<Server, Prevented> {
    let (store, kept) = succeed(options.clone(), signals, grace_period).await?;
    let starting = Server::start_with(options, store, kept, Some(supervisor.clone()));
    unless_stopped(signals, starting).await
}

/// Takes the place of the last run, if that is dead: opens the store, and stops what is left of that run. The store, and what
/// is kept in it.
async fn succeed(
    options: ServeOptions,
    signals: &mut Signals,
    grace_period: Duration,
) -> Result<(Store, Kept), Prevented> {
    let opening = disk(move || {
        let store = options.open_store()?;
        let left = store.run()?;
        Ok((store, left))
    });
    let (mut store, left) = unless_stopped(signals, opening).await?;
    // The predecessor is dead, or the store would be in use. What it left must be gone before the same is started again.
    let asked = match left {
        Some(left) => survivors::stop(&left, signals, grace_period).await,
        None => None,
    };
    let clearing = disk(move || {
        let kept = store.take_over(SystemTime::now())?;
        Ok((store, kept))
    });
    match asked {
        None => unless_stopped(signals, clearing).await,
        Some(asked) => {
            // The next run must not look for what is gone; a disk that hangs must not hold this one up.
            if tokio::time::timeout(CLEAR_WITHIN, clearing).await.is_err() {
                tracing::warn!("the disk does not answer: what the last run left stays in the state");
            }
            Err(Prevented::Stopped(asked))
        }
    }
}

/// Does something that may take as long as the disk does.
async fn disk<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// What it comes to, unless a stop is asked for before.
async fn unless_stopped<T>(
    signals: &mut Signals,
    work: impl Future<Output = anyhow::Result<T>>,
) -> Result<T, Prevented> {
    tokio::select! {
        biased;
        done = work => Ok(done?),
        asked = signals.stop() => Err(Prevented::Stopped(asked)),
    }
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
