//! Requests that no filter counts: a listener without it, beside one that has it.

use std::time::Duration;

use anyhow::Result;
use ebb_e2e::{bootstrap::Bootstrap, client::http1, envoy::EnvoyOptions, wait, world::World};
use ebb_proto::v1::{Evidence, Phase};

use crate::{Held, admin_found, drain_that, ended, goes_on_draining, unix, warned, within};

fn without_the_filter_on_internal(bootstrap: &mut Bootstrap) -> Result<()> {
    let router = "envoy.filters.http.router";
    bootstrap
        .http_filters_mut("internal")?
        .retain(|filter| filter.get("name").is_some_and(|name| name == router));
    Ok(())
}

/// An Envoy with its admin endpoint, and the filter on `ingress` only; and a request on `internal` that the upstream holds.
async fn start() -> Result<(World, Held)> {
    let options = EnvoyOptions {
        edit: without_the_filter_on_internal,
        ..EnvoyOptions::default()
    };
    let world = World::start_with(options, |options, folder| {
        options.admins = vec![unix(&folder.join("admin.sock"))];
    })
    .await?;
    admin_found(&world).await?;
    let address = world.internal()?;
    let held = tokio::spawn(async move { http1::Connection::open(address).await?.get("/hold").await });
    world.upstream.wait_held(1).await?;
    Ok((world, held))
}

#[tokio::test]
async fn whole_node_waits_for_a_request_that_no_filter_counts() -> Result<()> {
    let (world, held) = start().await?;
    let mut client = world.client().await?;
    let id = client.start(within(&[], Duration::from_secs(60))).await?.id;
    let drain = drain_that(&client, &id, "waits for it, and says so", |drain| {
        drain.in_flight == 1 && warned(drain, &["edge-1", "no filter counts"])
    })
    .await?;
    assert!(drain.unknown_reporters.is_empty(), "{drain:?}");
    goes_on_draining(&mut client, &id).await?;
    world.upstream.release_all();
    assert_eq!(held.await??.status, 200);
    let drain = ended(&client, &id, wait::PATIENCE).await?;
    assert_eq!((drain.phase(), drain.in_flight), (Phase::Drained, 0), "{drain:?}");
    Ok(())
}

#[tokio::test]
async fn listener_without_the_filter_drains_by_envoys_own_count() -> Result<()> {
    let (world, held) = start().await?;
    let mut client = world.client().await?;
    let id = client
        .start(within(&["internal"], Duration::from_secs(60)))
        .await?
        .id;
    let drain = drain_that(&client, &id, "waits for it", |drain| drain.in_flight == 1).await?;
    assert_eq!(drain.evidence(), Evidence::Admin, "{drain:?}");
    goes_on_draining(&mut client, &id).await?;
    world.upstream.release_all();
    assert_eq!(held.await??.status, 200);
    let drain = ended(&client, &id, wait::PATIENCE).await?;
    assert_eq!(
        (drain.phase(), drain.evidence()),
        (Phase::Drained, Evidence::Admin),
        "{drain:?}"
    );
    let output = world.ebb.cli(&["drain", "--listener", "nobody"]).await?;
    assert!(
        output.code == Some(1) && output.stderr.contains("known: ingress, internal"),
        "{output:?}"
    );
    Ok(())
}
