//! After a restart of the control plane filters come back one by one. A drain waits for all of them, also one that is
//! requested right after the start.

use std::time::Duration;

use anyhow::Result;
use ebb_e2e::{
    bootstrap::Bootstrap,
    ebb::Ebb,
    envoy::EnvoyOptions,
    wait,
    world::{World, wait_attached},
};
use serde_json::json;

use super::{Waiting, answered, hold};

/// In each of the four worlds.
const ROUNDS: usize = 10;

fn slow_to_come_back(bootstrap: &mut Bootstrap) -> Result<()> {
    bootstrap.configure_plugins("reconnect_max", &json!("5s"))
}

/// An Envoy of as many workers, whose control plane is restarted again and again while a request is held.
async fn rounds(concurrency: u32, edit: fn(&mut Bootstrap) -> Result<()>, seed: u64) -> Result<()> {
    eprintln!("{concurrency} workers, seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let options = EnvoyOptions {
        concurrency,
        edit,
        ..EnvoyOptions::default()
    };
    let mut world = World::start_with(options.clone(), |ebb, folder| {
        ebb.state = Some(folder.join("state"));
    })
    .await?;
    for round in 0..ROUNDS {
        let held = hold(&world.upstream, world.ingress()?, 1).await?;
        let stopped = if rng.bool() {
            world.ebb.kill().await?
        } else {
            world.ebb.terminate().await?
        };
        // How far each filter has come with its backoff when the control plane is back.
        tokio::time::sleep(Duration::from_millis(rng.u64(500..3500))).await;
        world.ebb = Ebb::start(stopped).await?;
        let quiet = if rng.bool() { "50ms" } else { "200ms" };
        let drain = [
            "drain",
            "--listener",
            "ingress",
            "--wait",
            "-o",
            "json",
            "--quiet-period",
            quiet,
        ];
        let drain = Waiting::on(world.ebb.cli_start(&drain)?);
        let what = format!("round {round} of {concurrency} workers");
        let mut client = world.client().await?;
        let back = wait_attached(&mut client, &options.node_id, concurrency);
        tokio::pin!(back);
        while tokio::time::timeout(Duration::from_millis(10), &mut back)
            .await
            .is_err()
        {
            assert!(!drain.0.is_finished(), "{what}: ended while filters are away");
        }
        drain.goes_on(&world.upstream, &what).await;
        world.upstream.release_all();
        answered(held).await?;
        let ended = drain.ended().await?;
        assert_eq!(ended.code, Some(0), "{what}: {ended:?}");
        let id = ended.json()?;
        let id = id.get("drain_id").and_then(|id| id.as_str()).unwrap_or_default();
        world.client().await?.cancel(id).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_drain_right_after_a_restart_waits_for_every_filter_that_was_known() -> Result<()> {
    let shipped: fn(&mut Bootstrap) -> Result<()> = |_| Ok(());
    let seeds: Vec<u64> = (0..4).map(|_| fastrand::u64(..)).collect();
    let worlds = [
        (1, slow_to_come_back as fn(&mut Bootstrap) -> Result<()>),
        (2, shipped),
        (3, slow_to_come_back),
        (4, shipped),
    ];
    let worlds = worlds.into_iter().zip(seeds);
    let worlds = worlds.map(|((workers, edit), seed)| rounds(workers, edit, seed));
    futures::future::try_join_all(worlds).await?;
    Ok(())
}

#[tokio::test]
async fn without_a_state_the_first_vm_of_an_envoy_tells_of_the_others() -> Result<()> {
    let options = EnvoyOptions {
        concurrency: 3,
        edit: slow_to_come_back,
        ..EnvoyOptions::default()
    };
    let mut world = World::start(options).await?;
    let held = hold(&world.upstream, world.ingress()?, 1).await?;
    let stopped = world.ebb.kill().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.ebb = Ebb::start(stopped).await?;
    let drain = [
        "drain",
        "--listener",
        "ingress",
        "--wait",
        "--quiet-period",
        "50ms",
    ];
    let drain = Waiting::on(world.ebb.cli_start(&drain)?);
    wait_attached(&mut world.client().await?, "edge-1", 3).await?;
    drain.goes_on(&world.upstream, "everybody is back").await;
    world.upstream.release_all();
    answered(held).await?;
    assert_eq!(drain.ended().await?.code, Some(0));
    Ok(())
}

#[tokio::test]
async fn without_a_state_a_drain_by_the_filter_alone_waits_for_it_to_come_back() -> Result<()> {
    let options = EnvoyOptions {
        edit: slow_to_come_back,
        ..EnvoyOptions::default()
    };
    let mut world = World::start(options).await?;
    let held = hold(&world.upstream, world.ingress()?, 1).await?;
    let mut stopped = world.ebb.kill().await?;
    let admin = format!("unix:{}", world.envoy.admin_socket().display());
    stopped.admins.push(admin);
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.ebb = Ebb::start(stopped).await?;
    wait::until("its Envoy's admin endpoint is found", wait::PATIENCE, || async {
        Ok(world.ebb.log().contains("admin endpoint found"))
    })
    .await?;
    let drain = Waiting::on(
        world
            .ebb
            .cli_start(&["drain", "--evidence", "filter", "--wait"])?,
    );
    wait_attached(&mut world.client().await?, "edge-1", 1).await?;
    drain.goes_on(&world.upstream, "its filter is back").await;
    world.upstream.release_all();
    answered(held).await?;
    assert_eq!(drain.ended().await?.code, Some(0));
    Ok(())
}
