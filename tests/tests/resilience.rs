//! The control plane comes and goes: no request fails, and its word holds again as soon as it is back.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use ebb_e2e::{
    api::{Client, drain_of, proto},
    bootstrap::Bootstrap,
    client::http1,
    ebb::{Ebb, EbbOptions},
    envoy::{Envoy, EnvoyOptions},
    load::{Load, Plan, Protocol},
    upstream::Upstream,
    wait,
    world::{World, folder, wait_attached},
};
use ebb_proto::v1::{Phase, Policy, StartDrainRequest};
use tokio::time::Instant;

/// What the issue of a lost control plane allows: the filters hear it again within this time of its return.
const BACK_WITHIN: Duration = Duration::from_secs(1);
/// How long the control plane is away.
const AWAY: Duration = Duration::from_secs(2);
/// The same, until the filters try again as rarely as they ever do.
const LONG_AWAY: Duration = Duration::from_secs(4);

fn both_protocols(envoy: &Envoy) -> Result<Vec<Plan>> {
    let mut plans = Vec::new();
    for listener in ["ingress", "internal"] {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            plans.push(Plan {
                address: envoy.address(listener)?,
                protocol,
                clients: 3,
                interval: Duration::from_millis(10),
                path: "/delay/5".to_owned(),
            });
        }
    }
    Ok(plans)
}

/// A drain that load keeps from ending.
fn long_drain() -> StartDrainRequest {
    let policy = Policy {
        timeout: Some(proto(Duration::from_secs(120))),
        ..Policy::default()
    };
    StartDrainRequest {
        policy: Some(policy),
        ..drain_of(&["ingress"])
    }
}

async fn closes(address: SocketAddr) -> Result<bool> {
    Ok(http1::Connection::open(address)
        .await?
        .get("/")
        .await?
        .says_close())
}

/// Waits until new connections of a listener are closed, or are not; fails unless that was within a second of `since`.
async fn told_within_a_second(address: SocketAddr, closing: bool, since: Instant) -> Result<()> {
    let what = if closing {
        "the listener closes connections"
    } else {
        "the listener keeps connections"
    };
    wait::until(what, wait::PATIENCE, || async {
        Ok(closes(address).await? == closing)
    })
    .await?;
    let after = since.elapsed();
    println!("{what} {after:?} after the control plane was back");
    ensure!(
        after < BACK_WITHIN,
        "{what}, but only {after:?} after the control plane was back"
    );
    Ok(())
}

async fn assert_no_failure(load: Load) -> Result<()> {
    load.wait_for_requests(50).await?;
    let tally = load.stop().await;
    println!("{tally:?}");
    assert_eq!(tally.failed(), 0, "{tally:?}");
    Ok(())
}

/// Leaves the control plane away for a while, under load.
async fn away(load: &Load, time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        load.wait_for_requests(10).await?;
    }
    Ok(())
}

#[tokio::test]
async fn absent_at_start_no_request_fails_and_its_drain_is_heard_on_its_arrival() -> Result<()> {
    let folder = folder()?;
    let options = EbbOptions::in_folder(folder.path());
    let upstream = Upstream::start().await?;
    let envoy = Envoy::start(
        &EnvoyOptions::default(),
        folder.path(),
        &options.socket,
        upstream.address(),
    )
    .await?;
    let load = Load::start(&both_protocols(&envoy)?);
    away(&load, LONG_AWAY).await?;

    let ebb = Ebb::start(options).await?;
    let back = Instant::now();
    start_when_known(&mut ebb.client().await?).await?;
    told_within_a_second(envoy.address("ingress")?, true, back).await?;
    assert_no_failure(load).await
}

async fn closes_now(envoy: &Envoy) -> Result<bool> {
    closes(envoy.address("ingress")?).await
}

#[tokio::test]
async fn killed_and_restarted_while_serving_no_request_fails() -> Result<()> {
    let World {
        envoy,
        ebb,
        upstream,
        folder,
    } = World::start(EnvoyOptions::default()).await?;
    let load = Load::start(&both_protocols(&envoy)?);
    load.wait_for_requests(50).await?;

    let options = ebb.kill().await?;
    away(&load, AWAY).await?;
    let ebb = Ebb::start(options).await?;
    let back = Instant::now();
    let mut client = ebb.client().await?;
    start_when_known(&mut client).await?;
    told_within_a_second(envoy.address("ingress")?, true, back).await?;
    assert_no_failure(load).await?;
    drop((upstream, folder));
    Ok(())
}

/// Starts the drain as soon as the listener is known again: before that it is refused as unknown.
async fn start_when_known(client: &mut Client) -> Result<()> {
    wait::eventually("the drain starts", wait::PATIENCE, || {
        let mut client = client.clone();
        async move { Ok(Some(client.start(long_drain()).await?)) }
    })
    .await?;
    Ok(())
}

/// A world whose control plane keeps its state in a folder, with a drain under load.
async fn draining_under_load(state: Option<&str>) -> Result<(World, Load, String)> {
    let world = World::start_with(EnvoyOptions::default(), |options, folder| {
        options.state = state.map(|name| -> PathBuf { folder.join(name) });
    })
    .await?;
    let load = Load::start(&both_protocols(&world.envoy)?);
    load.wait_for_requests(50).await?;
    let drain = world.client().await?.start(long_drain()).await?;
    wait::until("the listener closes connections", wait::PATIENCE, || {
        closes_now(&world.envoy)
    })
    .await?;
    Ok((world, load, drain.id))
}

#[tokio::test]
async fn killed_and_restarted_while_draining_with_durable_state_the_drain_goes_on() -> Result<()> {
    let (
        World {
            envoy,
            ebb,
            upstream,
            folder,
        },
        load,
        id,
    ) = draining_under_load(Some("state")).await?;
    let ingress = envoy.address("ingress")?;
    let options = ebb.kill().await?;
    away(&load, AWAY).await?;
    assert!(
        closes(ingress).await?,
        "the filter keeps its last state while the control plane is away"
    );

    let ebb = Ebb::start(options).await?;
    let back = Instant::now();
    let mut client = ebb.client().await?;
    told_within_a_second(ingress, true, back).await?;
    let drain = client.drain(&id).await?;
    assert!(drain.holding && drain.phase() == Phase::Draining, "{drain:?}");
    wait_attached(&mut client, "edge-1", 1).await?;
    assert!(
        closes(ingress).await?,
        "the drain goes on with the control plane back"
    );

    // The control plane is heard again: it can end the drain that it found.
    client.cancel(&id).await?;
    told_within_a_second(ingress, false, Instant::now()).await?;
    assert_no_failure(load).await?;
    drop((upstream, folder));
    Ok(())
}

#[tokio::test]
async fn killed_and_restarted_while_draining_a_cancel_right_at_its_return_is_heard_within_1_s() -> Result<()>
{
    let (
        World {
            envoy,
            ebb,
            upstream,
            folder,
        },
        load,
        id,
    ) = draining_under_load(Some("state")).await?;
    let options = ebb.kill().await?;
    away(&load, LONG_AWAY).await?;
    let ebb = Ebb::start(options).await?;
    let back = Instant::now();
    ebb.client().await?.cancel(&id).await?;
    told_within_a_second(envoy.address("ingress")?, false, back).await?;
    assert_no_failure(load).await?;
    drop((upstream, folder));
    Ok(())
}

#[tokio::test]
async fn killed_and_restarted_while_draining_without_state_the_listener_serves_again() -> Result<()> {
    let (
        World {
            envoy,
            ebb,
            upstream,
            folder,
        },
        load,
        id,
    ) = draining_under_load(None).await?;
    let options = ebb.kill().await?;
    away(&load, AWAY).await?;
    let ebb = Ebb::start(options).await?;
    let back = Instant::now();
    told_within_a_second(envoy.address("ingress")?, false, back).await?;
    let status = ebb.client().await?.drain(&id).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound, "{status:?}");
    assert_no_failure(load).await?;
    drop((upstream, folder));
    Ok(())
}

#[tokio::test]
async fn terminated_and_restarted_while_draining_no_request_fails_and_the_drain_goes_on() -> Result<()> {
    let (
        World {
            envoy,
            ebb,
            upstream,
            folder,
        },
        load,
        id,
    ) = draining_under_load(Some("state")).await?;
    let options = ebb.terminate().await?;
    away(&load, AWAY).await?;
    let ebb = Ebb::start(options).await?;
    let mut client = ebb.client().await?;
    assert!(client.drain(&id).await?.holding);
    wait_attached(&mut client, "edge-1", 1).await?;
    assert!(closes(envoy.address("ingress")?).await?);
    assert_no_failure(load).await?;
    drop((upstream, folder));
    Ok(())
}

#[tokio::test]
async fn lease_ends_by_itself_when_the_control_plane_stays_away() -> Result<()> {
    let World {
        envoy,
        ebb,
        upstream,
        folder,
    } = World::start(EnvoyOptions::default()).await?;
    let load = Load::start(&both_protocols(&envoy)?);
    let lease = Some(proto(Duration::from_secs(2)));
    let policy = Policy {
        lease,
        timeout: Some(proto(Duration::from_secs(120))),
        ..Policy::default()
    };
    let mut client = ebb.client().await?;
    client
        .start(StartDrainRequest {
            policy: Some(policy),
            ..drain_of(&["ingress"])
        })
        .await?;
    wait::until("the listener closes connections", wait::PATIENCE, || {
        closes_now(&envoy)
    })
    .await?;
    // Longer than the lease: as long as the control plane is there it renews it.
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        load.wait_for_requests(10).await?;
        ensure!(closes_now(&envoy).await?, "the lease was not renewed");
    }
    ebb.kill().await?;
    assert!(closes_now(&envoy).await?, "it goes on closing under its lease");
    wait::until("the listener keeps connections", wait::PATIENCE, || async {
        Ok(!closes_now(&envoy).await?)
    })
    .await?;
    let told = "the drain of ingress ends here with its lease";
    wait::until("Envoy's log says so", wait::PATIENCE, || async {
        Ok(envoy.log().contains(told))
    })
    .await?;
    assert_no_failure(load).await?;
    drop((upstream, folder));
    Ok(())
}

/// Names that parse as a `GrpcService` message, on which an Envoy dies that is given them bare.
async fn serves_and_drains_with_cluster(name: &str) -> Result<()> {
    let options = EnvoyOptions {
        control_plane_cluster: Some(name.to_owned()),
        ..EnvoyOptions::default()
    };
    let mut world = World::start(options).await?;
    let drain = world.client().await?.start(drain_of(&["ingress"])).await?;
    assert!(closes(world.ingress()?).await?);
    world
        .client()
        .await?
        .wait_for_phase(&drain.id, Phase::Drained, wait::PATIENCE)
        .await?;
    world.envoy.process().check_running()
}

#[tokio::test]
async fn cluster_named_envoy_does_not_crash_envoy() -> Result<()> {
    serves_and_drains_with_cluster("envoy").await
}

#[tokio::test]
async fn cluster_named_edge1_does_not_crash_envoy() -> Result<()> {
    serves_and_drains_with_cluster("edge1").await
}

#[tokio::test]
async fn cluster_that_does_not_exist_fails_no_request() -> Result<()> {
    fn misname(bootstrap: &mut Bootstrap) -> Result<()> {
        bootstrap.configure_plugins("control_plane_cluster", &"nowhere".into())
    }
    let folder = folder()?;
    let upstream = Upstream::start().await?;
    let options = EnvoyOptions {
        edit: misname,
        ..EnvoyOptions::default()
    };
    let mut envoy = Envoy::start(
        &options,
        folder.path(),
        &folder.path().join("ebb.sock"),
        upstream.address(),
    )
    .await?;
    let load = Load::start(&both_protocols(&envoy)?);
    away(&load, AWAY).await?;
    assert_no_failure(load).await?;
    envoy.process().check_running()
}
