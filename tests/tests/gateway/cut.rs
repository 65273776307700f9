//! The last word of a stop: what it cut. The upstream and the clients know what was.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    bins::EnvoyVersion,
    cli,
    client::{Failure, Response, http1},
    wait,
};
use ebb_proto::v1::{ProcessState, ShutdownEvent};
use rustix::process::{Signal, kill_process};
use tokio::task::JoinHandle;

use crate::{left::pid_of, world::World};

const HELD: usize = 5;

type Clients = Vec<JoinHandle<Result<Response, Failure>>>;

/// Requests on `ingress` that the upstream holds.
async fn hold_all(world: &World) -> Result<Clients> {
    let mut clients = Vec::new();
    for _ in 0..HELD {
        let mut connection = http1::Connection::open(world.gateway.setup().ingress()).await?;
        clients.push(tokio::spawn(async move { connection.get("/hold").await }));
    }
    world.upstream.wait_held(HELD).await?;
    Ok(clients)
}

/// None of them got its answer.
async fn all_cut(world: &World, clients: Clients) -> Result<()> {
    for client in clients {
        let answer = client.await?;
        ensure!(answer.is_err(), "{answer:?}");
    }
    world.upstream.wait_held(0).await
}

/// Whose last line is about the whole shutdown, and a warning or not: its text.
fn last_word(events: &[ShutdownEvent], warning: bool) -> Result<&str> {
    let last = events.last().context("nothing was told")?;
    ensure!(last.process.is_empty() && last.warning == warning, "{last:?}");
    Ok(&last.text)
}

/// Whether a line counts all that were held. Envoy's own word may be missing beside that of the filters.
fn says_all_cut(line: &str) -> bool {
    line.contains("5 requests were cut") && line.contains(": 5 in flight on ingress of router")
}

/// The last line that `ebb run` logged.
fn last_line(world: &World) -> Result<String> {
    let log = world.gateway.log();
    log.lines().last().map(str::to_owned).context("no log")
}

#[tokio::test]
async fn clean_stop_says_that_nothing_was_cut() -> Result<()> {
    let mut world = World::start().await?;
    let held = world.hold().await?;
    world.gateway.signal(Signal::TERM)?;
    world.gateway.in_state("router", ProcessState::Draining).await?;
    let events = tokio::join!(world.gateway.follow_shutdown(), async {
        world.upstream.release_all();
    });
    let events = events.0?;
    ensure!(last_word(&events, false)? == "nothing was cut", "{events:?}");
    ensure!(world.gateway.ended().await?.success() && held.await??.status == 200);
    let line = last_line(&world)?;
    ensure!(
        line.contains("INFO") && line.ends_with("nothing was cut"),
        "{line}"
    );
    Ok(())
}

#[tokio::test]
async fn too_short_a_time_is_named_with_what_it_cut() -> Result<()> {
    let mut world = World::start_with(EnvoyVersion::V1_40, |setup| {
        setup.set(&["drain", "timeout"], "1s")
    })
    .await?;
    let clients = hold_all(&world).await?;
    let shutdown = cli::start(&world.gateway.setup().socket(), &["shutdown", "--wait"])?;
    let said = shutdown.output().await?;
    let status = world.gateway.ended().await?;
    ensure!(status.success(), "a stop that was asked for: {status:?}");
    all_cut(&world, clients).await?;
    let last = said.stderr.lines().last().unwrap_or_default();
    ensure!(said.code == Some(0) && says_all_cut(last), "{said:?}");
    ensure!(
        last.ends_with("; raise the grace period (30s) or drain.timeout (1s)"),
        "{last}"
    );
    let line = last_line(&world)?;
    let (_, text) = last.split_once("5 requests").context("no text")?;
    ensure!(line.contains("WARN") && line.ends_with(text), "{line}");
    // Should it be killed before that, the log has told what it waited for, and never that this was nothing.
    let log = world.gateway.log();
    ensure!(
        log.contains("waiting for its requests to end: 5 in flight on ingress of router")
            && !log.contains("in_flight=0"),
        "{log}"
    );
    Ok(())
}

#[tokio::test]
async fn envoy_that_ends_in_its_drain_has_cut_its_requests() -> Result<()> {
    // Killed, it says nothing any more; told to stop by somebody else, it counts what it cuts.
    for signal in [Signal::KILL, Signal::TERM] {
        let mut world = World::start().await?;
        let clients = hold_all(&world).await?;
        world.gateway.signal(Signal::TERM)?;
        world.gateway.logged("5 in flight on ingress of router").await?;
        let router = pid_of(&world, "router").await?;
        let (events, _) = tokio::join!(world.gateway.follow_shutdown(), async {
            kill_process(router, signal)
        });
        let events = events?;
        let last = last_word(&events, true)?;
        ensure!(last.starts_with("5 requests were cut"), "{signal:?}: {last}");
        ensure!(!last.contains("raise"), "that would not help: {last}");
        world.gateway.ended().await?;
        all_cut(&world, clients).await?;
    }
    Ok(())
}

#[tokio::test]
async fn who_does_not_want_to_wait_is_told_what_that_cut() -> Result<()> {
    let mut world = World::start().await?;
    let clients = hold_all(&world).await?;
    world.gateway.signal(Signal::TERM)?;
    world.gateway.logged("5 in flight on ingress of router").await?;
    world.gateway.signal(Signal::TERM)?;
    world.gateway.logged("SIGTERM again").await?;
    world.gateway.signal(Signal::TERM)?;
    world.gateway.ended().await?;
    all_cut(&world, clients).await?;
    let line = last_line(&world)?;
    ensure!(
        says_all_cut(&line) && line.ends_with("when router was stopped"),
        "{line}"
    );
    Ok(())
}

#[tokio::test]
async fn shutdown_that_is_killed_is_told_by_the_next_run() -> Result<()> {
    let mut world = World::start().await?;
    let clients = hold_all(&world).await?;
    world.gateway.signal(Signal::TERM)?;
    world.gateway.logged("5 in flight on ingress of router").await?;
    world.gateway.kill().await?;
    all_cut(&world, clients).await?;
    world.gateway.restart().await?;
    let log = world.gateway.log();
    let warned = log
        .lines()
        .find(|line| line.contains("the shutdown of the last run was killed"));
    let warned = warned.with_context(|| format!("not told: {log}"))?;
    for text in [
        "WARN",
        "after it began",
        "shorter than the grace period (30s)",
        "EBB_GRACE_PERIOD",
        "terminationGracePeriodSeconds",
        "stop_grace_period",
    ] {
        ensure!(warned.contains(text), "{text}: {warned}");
    }
    // After a stop that came to its end there is nothing to tell.
    world.gateway.stop().await?;
    world.gateway.restart().await?;
    let log = world.gateway.log();
    ensure!(log.matches("the shutdown of the last run was killed").count() == 1);
    wait::within("it stops", Duration::from_secs(60), world.gateway.stop()).await??;
    Ok(())
}
