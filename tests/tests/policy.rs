//! What the keys of a drain's policy do to a real Envoy, and what an ended drain goes on doing.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use ebb_e2e::{
    api::{Client, drain_of, proto},
    client::http1,
    envoy::{Envoy, EnvoyOptions},
    wait,
    world::{World, folder, wait_attached},
};
use ebb_proto::v1::{Drain, OnTimeout, Phase, Policy, StartDrainRequest};

/// Longer than any test runs.
const LONG: Duration = Duration::from_secs(600);

async fn start(client: &mut Client, policy: Policy) -> Result<Drain> {
    let request = StartDrainRequest {
        policy: Some(policy),
        ..drain_of(&["ingress"])
    };
    Ok(client.start(request).await?)
}

/// How many of `requests`, each on a connection of its own, were told that it closes.
async fn closing(address: SocketAddr, requests: usize) -> Result<usize> {
    let mut closing = 0;
    for _ in 0..requests {
        let response = http1::Connection::open(address).await?.get("/").await?;
        assert_eq!(response.status, 200);
        closing += usize::from(response.says_close());
    }
    Ok(closing)
}

#[tokio::test]
async fn announced_drain_closes_nothing_yet() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let mut client = world.client().await?;
    let policy = Policy {
        announce: Some(proto(LONG)),
        timeout: Some(proto(2 * LONG)),
        ..Policy::default()
    };
    let drain = start(&mut client, policy).await?;
    assert_eq!(closing(world.ingress()?, 20).await?, 0);
    assert_eq!(client.drain(&drain.id).await?.phase(), Phase::Announced);
    Ok(())
}

#[tokio::test]
async fn announced_drain_closes_once_its_announcement_is_over() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let mut client = world.client().await?;
    let announce = Some(proto(Duration::from_millis(300)));
    let drain = start(
        &mut client,
        Policy {
            announce,
            ..Policy::default()
        },
    )
    .await?;
    client
        .wait_for_phase(&drain.id, Phase::Drained, wait::PATIENCE)
        .await?;
    assert_eq!(closing(world.ingress()?, 5).await?, 5);
    Ok(())
}

#[tokio::test]
async fn ramp_closes_a_share_that_has_hardly_begun_to_grow() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let mut client = world.client().await?;
    let policy = Policy {
        ramp: Some(proto(LONG)),
        timeout: Some(proto(2 * LONG)),
        ..Policy::default()
    };
    start(&mut client, policy).await?;
    // A second or two of ten minutes.
    let share = closing(world.ingress()?, 100).await?;
    assert!(share < 50, "{share} of 100 responses closed");
    Ok(())
}

#[tokio::test]
async fn timeout_of_zero_ends_at_once_and_holds() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let mut client = world.client().await?;
    let drain = start(
        &mut client,
        Policy {
            timeout: Some(proto(Duration::ZERO)),
            ..Policy::default()
        },
    )
    .await?;
    let drain = client
        .wait_for_phase(&drain.id, Phase::TimedOut, wait::PATIENCE)
        .await?;
    assert!(drain.holding, "{drain:?}");
    assert_eq!(closing(world.ingress()?, 5).await?, 5);
    Ok(())
}

#[tokio::test]
async fn missed_deadline_with_abort_lets_the_listener_serve_again() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let mut client = world.client().await?;
    let address = world.ingress()?;
    let held = tokio::spawn(async move { http1::Connection::open(address).await?.get("/hold").await });
    world.upstream.wait_held(1).await?;
    let policy = Policy {
        timeout: Some(proto(Duration::from_millis(500))),
        on_timeout: OnTimeout::Abort.into(),
        ..Policy::default()
    };
    let drain = start(&mut client, policy).await?;
    let drain = client
        .wait_for_phase(&drain.id, Phase::TimedOut, wait::PATIENCE)
        .await?;
    assert!(!drain.holding && drain.in_flight == 1, "{drain:?}");
    wait::until("the listener keeps connections", wait::PATIENCE, || async {
        Ok(closing(address, 1).await? == 0)
    })
    .await?;
    world.upstream.release_all();
    assert_eq!(held.await??.status, 200);
    Ok(())
}

#[tokio::test]
async fn drained_listener_goes_on_closing_until_released_and_its_outcome_stays() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let mut client = world.client().await?;
    let drain = start(&mut client, Policy::default()).await?;
    let drained = client
        .wait_for_phase(&drain.id, Phase::Drained, wait::PATIENCE)
        .await?;
    assert!(drained.holding, "{drained:?}");
    assert_eq!(closing(world.ingress()?, 5).await?, 5);
    let released = client.cancel(&drain.id).await?;
    assert!(
        !released.holding && released.phase() == Phase::Drained,
        "{released:?}"
    );
    assert_eq!(closing(world.ingress()?, 5).await?, 0);
    Ok(())
}

#[tokio::test]
async fn drain_of_everything_closes_on_every_listener() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let mut client = world.client().await?;
    let drain = client.start(StartDrainRequest::default()).await?;
    assert_eq!(closing(world.ingress()?, 5).await?, 5);
    assert_eq!(closing(world.internal()?, 5).await?, 5);
    let drained = client
        .wait_for_phase(&drain.id, Phase::Drained, wait::PATIENCE)
        .await?;
    let names: Vec<_> = drained
        .listeners
        .iter()
        .map(|listener| listener.name.as_str())
        .collect();
    assert_eq!(names, ["ingress", "internal"]);
    Ok(())
}

#[tokio::test]
async fn envoy_started_in_place_of_a_drained_one_serves() -> Result<()> {
    let options = EnvoyOptions::default();
    let World {
        envoy,
        ebb,
        upstream,
        folder,
    } = World::start(options.clone()).await?;
    let mut client = ebb.client().await?;
    let drain = start(&mut client, Policy::default()).await?;
    client
        .wait_for_phase(&drain.id, Phase::Drained, wait::PATIENCE)
        .await?;
    drop(envoy);
    let envoy = Envoy::start(&options, folder.path(), ebb.socket(), upstream.address()).await?;
    wait::until("the new Envoy alone is attached", wait::PATIENCE, || {
        let mut client = client.clone();
        async move {
            let node = wait_attached(&mut client, "edge-1", 1).await?;
            Ok(node.reporters.len() == 2)
        }
    })
    .await?;
    assert_eq!(closing(envoy.address("ingress")?, 5).await?, 0);
    Ok(())
}

#[tokio::test]
async fn node_that_joins_while_a_drain_runs_closes_as_soon_as_it_is_attached() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let mut client = world.client().await?;
    let policy = Policy {
        timeout: Some(proto(LONG)),
        ..Policy::default()
    };
    let address = world.ingress()?;
    let held = tokio::spawn(async move { http1::Connection::open(address).await?.get("/hold").await });
    world.upstream.wait_held(1).await?;
    let id = start(&mut client, policy).await?.id;
    let (folder, options) = (
        folder()?,
        EnvoyOptions {
            node_id: "edge-2".to_owned(),
            ..EnvoyOptions::default()
        },
    );
    let joined = Envoy::start(
        &options,
        folder.path(),
        world.ebb.socket(),
        world.upstream.address(),
    )
    .await?;
    wait_attached(&mut client, "edge-2", 1).await?;
    wait::until("the node that joined closes", wait::PATIENCE, || async {
        Ok(closing(joined.address("ingress")?, 3).await? == 3)
    })
    .await?;
    assert_eq!(
        closing(joined.address("internal")?, 3).await?,
        0,
        "it is another listener"
    );
    let drain = client.drain(&id).await?;
    assert!(
        drain.listeners.iter().any(|listener| listener.node == "edge-2"),
        "{drain:?}"
    );
    world.upstream.release_all();
    assert_eq!(held.await??.status, 200);
    client.wait_for_phase(&id, Phase::Drained, wait::PATIENCE).await?;
    Ok(())
}
