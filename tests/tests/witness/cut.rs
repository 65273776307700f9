//! Loss is told: a drain whose Envoy ended with requests in flight does not end as drained.

use anyhow::Result;
use ebb_e2e::{bins::EnvoyVersion, envoy::EnvoyOptions, on_both_envoys, wait, world::World};
use rustix::process::Signal;

use super::{Waiting, hold, only_drain};

on_both_envoys!(
    an_envoy_that_is_told_to_stop_halfway_is_a_cut,
    an_envoy_that_is_killed_halfway_is_a_cut,
);

async fn an_envoy_that_is_told_to_stop_halfway_is_a_cut(version: EnvoyVersion) -> Result<()> {
    stopped_by(Signal::TERM, version).await
}

async fn an_envoy_that_is_killed_halfway_is_a_cut(version: EnvoyVersion) -> Result<()> {
    stopped_by(Signal::KILL, version).await
}

async fn stopped_by(signal: Signal, version: EnvoyVersion) -> Result<()> {
    let mut world = World::start(EnvoyOptions {
        version,
        ..EnvoyOptions::default()
    })
    .await?;
    let held = hold(&world.upstream, world.ingress()?, 3).await?;
    let drain = world
        .ebb
        .cli_start(&["drain", "--listener", "ingress", "--wait", "-o", "json"])?;
    let drain = Waiting::on(drain);
    let client = world.client().await?;
    let id = only_drain(&client).await?.id;
    client.clone().wait_for_in_flight(&id, 3).await?;
    world.envoy.process().signal(signal)?;
    world.envoy.process().exit(wait::PATIENCE).await?;
    for request in held {
        assert!(request.await?.is_err(), "its client lost it");
    }
    let ended = drain.ended().await?;
    assert_eq!(ended.code, Some(6), "{ended:?}");
    let json = ended.json()?;
    assert_eq!(
        (&json["outcome"], &json["cut"]),
        (&"cut".into(), &3.into()),
        "{json}"
    );
    let report = client.clone().report(&id).await?;
    assert_eq!((report.requests_finished, report.saved), (0, None), "{report:?}");
    let text = world.ebb.cli(&["report", &id]).await?.stdout;
    assert!(
        text.contains("3 requests cut") && !text.contains("sooner"),
        "{text}"
    );
    Ok(())
}
