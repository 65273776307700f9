//! Envoys whose admin endpoint is of no use: the drain works through the filter.

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{bins::EnvoyVersion, client::http2};
use ebb_proto::v1::ProcessState;
use rustix::process::Signal;
use tokio::net::UnixListener;

use crate::world::World;

/// SIGTERM with a request in flight: new ones are served and told to leave, and all of them end well.
async fn drains(world: &mut World) -> Result<String> {
    let held = world.hold().await?;
    let multiplexed = http2::Connection::open(world.gateway.setup().ingress()).await?;
    ensure!(multiplexed.get("/").await?.status == 200);
    world.gateway.signal(Signal::TERM)?;
    world.gateway.in_state("router", ProcessState::Draining).await?;
    world.until_told_to_leave().await?;
    ensure!(multiplexed.get("/").await?.status == 200 && !multiplexed.goaways().is_empty());
    let log = world.gateway.log();
    ensure!(!log.contains("sent SIGTERM"), "a request is in flight: {log}");
    world.upstream.release_all();
    ensure!(held.await??.status == 200);
    ensure!(world.gateway.ended().await?.success());
    world.gateway.nothing_is_left()?;
    let log = world.gateway.log();
    let shutdown = log.find("shutting down: ").and_then(|at| log.get(at..));
    let shutdown = shutdown.context("no shutdown in the log")?.to_owned();
    ensure!(shutdown.contains("drained process=\"router\""), "{shutdown}");
    Ok(shutdown)
}

#[tokio::test]
async fn without_an_admin_endpoint_the_drain_works_through_the_filter() -> Result<()> {
    let mut world = World::start_with(EnvoyVersion::V1_40, |setup| setup.without_admin()).await?;
    let log = drains(&mut world).await?;
    ensure!(!log.contains("WARN"), "nothing is amiss: {log}");
    Ok(())
}

#[tokio::test]
async fn an_admin_endpoint_that_accepts_and_never_answers_holds_a_stop_up_to_its_drain_timeout() -> Result<()>
{
    let mut hangs = None;
    let mut world = World::start_with(EnvoyVersion::V1_40, |setup| {
        let path = setup.folder().join("hangs.sock");
        hangs = Some(UnixListener::bind(&path)?);
        setup.set(&["drain", "timeout"], "3s")?;
        setup.set_process_key("router", &["drain", "admin"], format!("unix:{}", path.display()))
    })
    .await?;
    let held = world.hold().await?;
    world.gateway.signal(Signal::TERM)?;
    world.gateway.in_state("router", ProcessState::Draining).await?;
    world.until_told_to_leave().await?;
    world.upstream.release_all();
    ensure!(held.await??.status == 200);
    ensure!(world.gateway.ended().await?.success());
    let log = world.gateway.log();
    ensure!(log.contains("does not answer"), "why it waited: {log}");
    let told = log.lines().any(|line| {
        line.contains("its health checks cannot be made to fail") && line.contains("did not answer within 1s")
    });
    ensure!(told, "{log}");
    Ok(())
}
