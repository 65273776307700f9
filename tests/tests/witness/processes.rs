//! Envoys that share a `node.id`, and Envoys that are cut off: what is not proven to be gone is unknown.

use std::time::Duration;

use anyhow::Result;
use ebb_e2e::{
    client::http1,
    envoy::{Envoy, EnvoyOptions},
    fake_filter::{FakeFilter, Identity},
    relay::Relay,
    wait,
    world::{World, live_reporters},
};

use super::{LOOK, Waiting, answered, hold, only_drain};

/// Waits until the node has as many reporters that are known.
async fn live(world: &World, count: usize) -> Result<()> {
    let client = world.client().await?;
    wait::until(format!("{count} reporters are live"), wait::PATIENCE, || {
        let mut client = client.clone();
        async move {
            let nodes = client.nodes().await?;
            Ok(nodes.iter().map(live_reporters).sum::<usize>() == count)
        }
    })
    .await
}

#[tokio::test]
async fn an_envoy_that_was_there_already_does_not_take_the_place_of_one_that_is_cut_off() -> Result<()> {
    let mut world = World::start(EnvoyOptions::default()).await?;
    let folder = world.folder.path().join("other");
    std::fs::create_dir(&folder)?;
    let socket = folder.join("relay.sock");
    let relay = Relay::start(&socket, world.ebb.socket())?;
    let other = Envoy::start(
        &EnvoyOptions::default(),
        &folder,
        &socket,
        world.upstream.address(),
    )
    .await?;
    live(&world, 4).await?;
    let held = hold(&world.upstream, other.address("ingress")?, 5).await?;
    drop(relay);
    std::fs::remove_file(&socket)?;
    live(&world, 2).await?;
    let drain = Waiting::on(
        world
            .ebb
            .cli_start(&["drain", "--listener", "ingress", "--wait"])?,
    );
    only_drain(&world.client().await?).await?;
    drain.goes_on(&world.upstream, "one is cut off").await;
    let drains = world.client().await?.drains().await?;
    assert_eq!(drains[0].unknown_reporters.len(), 2, "{drains:?}");
    // It comes back, and the drain ends when its requests do.
    let _relay = Relay::start(&socket, world.ebb.socket())?;
    live(&world, 4).await?;
    drain.goes_on(&world.upstream, "all are back").await;
    world.upstream.release_all();
    answered(held).await?;
    assert_eq!(drain.ended().await?.code, Some(0));
    world.envoy.process().check_running()
}

#[tokio::test]
async fn one_that_is_gone_for_good_is_named_until_an_operator_forgets_it() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let identity = Identity {
        node: "edge-7".to_owned(),
        process: 7,
        epoch: 70,
    };
    let gone = FakeFilter::start(world.ebb.socket(), identity, &["ingress"]);
    gone.set_in_flight(2);
    live(&world, 3).await?;
    drop(gone);
    live(&world, 2).await?;
    let drain = world
        .ebb
        .cli_start(&["drain", "--listener", "ingress", "--wait", "-o", "json"])?;
    let drain = Waiting::on(drain);
    let id = only_drain(&world.client().await?).await?.id;
    tokio::time::sleep(LOOK).await;
    let shown = world.client().await?.drain(&id).await?;
    assert_eq!(shown.unknown_reporters.len(), 1, "{shown:?}");
    assert_eq!(shown.unknown_reporters[0].node, "edge-7");
    for (node, text) in [("edge-1", "is attached"), ("edge-9", "is known")] {
        let refused = world.ebb.cli(&["forget", node]).await?;
        assert_eq!(refused.code, Some(1));
        assert!(refused.stderr.contains(text), "{refused:?}");
        assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
    }
    let forgotten = world.ebb.cli(&["forget", "edge-7"]).await?;
    assert_eq!(
        forgotten.stdout, "edge-7 forgotten: 1 reporter\n",
        "{forgotten:?}"
    );
    let ended = drain.ended().await?;
    // What it had in flight by its last word is lost with it.
    assert_eq!(ended.code, Some(6), "{ended:?}");
    let json = ended.json()?;
    assert_eq!((&json["outcome"], &json["cut"]), (&"cut".into(), &2.into()));
    Ok(())
}

#[tokio::test]
async fn an_envoy_that_dies_while_nobody_drains_is_not_waited_for() -> Result<()> {
    let mut world = World::start(EnvoyOptions::default()).await?;
    let identity = Identity {
        node: "edge-2".to_owned(),
        process: 2,
        epoch: 20,
    };
    let _other = FakeFilter::start(world.ebb.socket(), identity, &["ingress"]);
    live(&world, 3).await?;
    world.envoy.process().signal(rustix::process::Signal::KILL)?;
    world.envoy.process().exit(wait::PATIENCE).await?;
    live(&world, 1).await?;
    let drain = ["drain", "--listener", "ingress", "--wait", "--timeout", "60s"];
    let ended = wait::within("the drain ends", Duration::from_secs(30), world.ebb.cli(&drain)).await??;
    assert_eq!(ended.code, Some(0), "its pid proves that it is gone: {ended:?}");
    Ok(())
}

#[tokio::test]
async fn of_two_envoys_with_one_id_both_are_told_to_close_and_what_one_cuts_is_told() -> Result<()> {
    let mut world = World::start_with(EnvoyOptions::default(), |ebb, folder| {
        for admin in ["admin.sock", "other/admin.sock"] {
            ebb.admins.push(format!("unix:{}", folder.join(admin).display()));
        }
    })
    .await?;
    let folder = world.folder.path().join("other");
    std::fs::create_dir(&folder)?;
    let (socket, upstream) = (world.ebb.socket().to_owned(), world.upstream.address());
    let mut other = Envoy::start(&EnvoyOptions::default(), &folder, &socket, upstream).await?;
    live(&world, 4).await?;
    wait::until("both admin endpoints are found", wait::PATIENCE, || async {
        Ok(world.ebb.log().matches("admin endpoint found").count() == 2)
    })
    .await?;
    let mut lost = hold(&world.upstream, other.address("internal")?, 2).await?;
    lost.extend(hold(&world.upstream, other.address("ingress")?, 1).await?);
    let held = hold(&world.upstream, world.ingress()?, 1).await?;
    let drain = ["drain", "--node", "edge-1", "--wait", "-o", "json"];
    let drain = Waiting::on(world.ebb.cli_start(&drain)?);
    let client = world.client().await?;
    let id = only_drain(&client).await?.id;
    client.clone().wait_for_in_flight(&id, 4).await?;
    for envoy in [&other, &world.envoy] {
        wait::until("new requests are told to leave", wait::PATIENCE, || async {
            let mut connection = http1::Connection::open(envoy.address("ingress")?).await?;
            Ok(connection.get("/").await?.says_close())
        })
        .await?;
    }
    other.process().signal(rustix::process::Signal::TERM)?;
    other.process().exit(wait::PATIENCE).await?;
    for request in lost {
        assert!(request.await?.is_err(), "its client lost it");
    }
    drain.goes_on(&world.upstream, "the other holds one").await;
    world.upstream.release_all();
    answered(held).await?;
    let ended = drain.ended().await?;
    assert_eq!(ended.code, Some(6), "{ended:?}");
    assert_eq!(ended.json()?["cut"], 3, "{ended:?}");
    world.envoy.process().check_running()
}
