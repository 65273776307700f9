//! Envoys whose admin endpoint is of no use: the drain works through the filter.

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    bins::EnvoyVersion,
    client::http2,
    fake_filter::{FakeFilter, Identity},
    wait,
};
use ebb_proto::v1::{Phase, Policy, ProcessState, Scope, StartDrainRequest};
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

#[tokio::test]
async fn clean_stop_of_a_whole_node_warns_of_nothing() -> Result<()> {
    let mut world = World::start_with(EnvoyVersion::V1_40, |setup| {
        let drain = setup
            .process_mut("router")?
            .get_mut("drain")
            .and_then(toml::Value::as_table_mut);
        drain
            .context("no drain")?
            .remove("listeners")
            .context("no listeners")?;
        Ok(())
    })
    .await?;
    let stop = world.gateway.stop().await?;
    let log = world.gateway.log();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains(" WARN ebb::")).collect();
    ensure!(warnings.is_empty(), "{warnings:#?}\n{:#?}", stop.events);
    Ok(())
}

#[tokio::test]
async fn drains_that_do_not_close_it_leave_it_ready() -> Result<()> {
    let world = World::start().await?;
    let identity = Identity {
        node: "other".to_owned(),
        process: 1,
        epoch: 1,
    };
    let other = FakeFilter::start(&world.gateway.setup().socket(), identity, &["ingress"]);
    let mut client = world.gateway.client().await?;
    wait::until("the other node is attached", wait::PATIENCE, || {
        let mut client = client.clone();
        async move { Ok(client.nodes().await?.iter().any(|node| node.id == "other")) }
    })
    .await?;
    let held = world.hold().await?;
    other.set_in_flight(1);
    let scope = |node: &str, upstreams: &[String]| Scope {
        nodes: vec![node.to_owned()],
        upstreams: upstreams.to_vec(),
        ..Scope::default()
    };
    let upstream = [world.upstream.address().to_string()];
    for (scope, status) in [
        (scope("router", &upstream), 200),
        (scope("other", &[]), 200),
        (scope("router", &[]), 503),
    ] {
        let request = StartDrainRequest {
            scope: Some(scope.clone()),
            policy: Some(Policy::default()),
            ..StartDrainRequest::default()
        };
        let drain = client.start(request).await?;
        ensure!(drain.phase() == Phase::Draining, "{drain:?}");
        let (ready, why) = world.gateway.ready().await?;
        ensure!(ready == status, "{ready} {why} by a drain of {scope:?}");
    }
    world.upstream.release_all();
    ensure!(held.await??.status == 200);
    Ok(())
}
