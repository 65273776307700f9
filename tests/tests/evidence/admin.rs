//! The admin endpoint: one that works, one that never answers, one that stops answering, and none.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use ebb_e2e::{
    ebb::{Ebb, EbbOptions},
    envoy::EnvoyOptions,
    relay::Relay,
    wait,
    world::World,
};
use ebb_proto::v1::{Evidence, Lever, Phase};
use tokio::{net::UnixListener, task::JoinHandle};

use crate::{
    admin_found, closes, drain_that, ended, goes_on_draining, hold, load_on, serves, stop, unix, warned,
    within,
};

/// Accepts, and never answers.
fn hanging(socket: &Path) -> Result<JoinHandle<()>> {
    let listener = UnixListener::bind(socket).context("cannot bind the hanging endpoint")?;
    Ok(tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
        }
    }))
}

#[tokio::test]
async fn admin_that_never_answered_the_filter_closes_and_counts_and_the_drain_says_so() -> Result<()> {
    let mut endpoint = None;
    let world = World::start_with(EnvoyOptions::default(), |options, folder| {
        let socket = folder.join("hanging.sock");
        options.admins = vec![unix(&socket)];
        endpoint = Some(hanging(&socket));
    })
    .await?;
    let mut client = world.client().await?;
    let load = load_on(&world)?;
    load.wait_for_requests(50).await?;
    let held = hold(&world).await?;
    let drain = client.start(within(&[], Duration::from_secs(60))).await?;
    assert!(closes(&world).await?, "the filter closes");
    let drain = drain_that(
        &client,
        &drain.id,
        "says that the admin endpoint is silent",
        |drain| warned(drain, &["hanging.sock", "did not answer within 1s"]),
    )
    .await?;
    assert_eq!(drain.lever(), Lever::Filter, "{drain:?}");
    stop(load).await?;
    world.upstream.release_all();
    assert_eq!(held.await??.status, 200);
    // What is behind that endpoint may have requests that no filter counts.
    goes_on_draining(&mut client, &drain.id).await?;
    client.cancel(&drain.id).await?;
    // A later one says it from its start; one that is to go by the filter alone does not wait for it.
    let output = world
        .ebb
        .cli(&["drain", "--wait", "--evidence", "filter", "-o", "json"])
        .await?;
    assert_eq!(output.code, Some(0), "{output:?}");
    let json = output.json()?;
    assert_eq!(json.get("outcome"), Some(&"drained".into()), "{json}");
    let id = json
        .get("drain_id")
        .and_then(serde_json::Value::as_str)
        .context("no id")?;
    let later = client.drain(id).await?;
    assert!(warned(&later, &["hanging.sock"]), "{later:?}");
    drop(endpoint);
    Ok(())
}

#[tokio::test]
async fn without_an_admin_the_filter_closes_and_counts_and_there_is_nothing_to_say() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let mut client = world.client().await?;
    let load = load_on(&world)?;
    let held = hold(&world).await?;
    let drain = client.start(within(&[], Duration::from_secs(60))).await?;
    assert!(closes(&world).await?, "the filter closes");
    stop(load).await?;
    world.upstream.release_all();
    assert_eq!(held.await??.status, 200);
    let drain = ended(&client, &drain.id, wait::PATIENCE).await?;
    assert_eq!(drain.phase(), Phase::Drained, "{drain:?}");
    assert_eq!(
        (drain.evidence(), drain.lever()),
        (Evidence::Filter, Lever::Filter),
        "{drain:?}"
    );
    assert_eq!(drain.warnings, Vec::<String>::new(), "{drain:?}");
    client.cancel(&drain.id).await?;
    serves(&world).await
}

/// A drain of a whole node that has ended and holds, by Envoy's own lever; and its control plane was stopped.
async fn stopped_with_the_lever_pulled(
    state: impl FnOnce(&Path) -> Option<PathBuf>,
) -> Result<(World, EbbOptions)> {
    let mut world = World::start_with(EnvoyOptions::default(), |options, folder| {
        options.admins = vec![unix(&folder.join("admin.sock"))];
        options.state = state(folder);
    })
    .await?;
    admin_found(&world).await?;
    let mut client = world.client().await?;
    let id = client.start(within(&[], Duration::from_secs(60))).await?.id;
    let drain = ended(&client, &id, wait::PATIENCE).await?;
    assert_eq!(
        (drain.phase(), drain.lever()),
        (Phase::Drained, Lever::Admin),
        "{drain:?}"
    );
    let idle = EbbOptions {
        socket: world.folder.path().join("idle.sock"),
        ..EbbOptions::in_folder(world.folder.path())
    };
    let idle = Ebb::start(idle).await?;
    let options = std::mem::replace(&mut world.ebb, idle).terminate().await?;
    Ok((world, options))
}

async fn is_told_to_close(world: &World) -> Result<bool> {
    let state = world.envoy.admin(hyper::Method::GET, "/server_info").await?;
    Ok(state.contains("\"DRAINING\""))
}

#[tokio::test]
async fn a_control_plane_that_keeps_nothing_undoes_its_levers_when_it_stops() -> Result<()> {
    let (world, _) = stopped_with_the_lever_pulled(|_| None).await?;
    assert!(!is_told_to_close(&world).await?, "nobody else would undo it");
    Ok(())
}

#[tokio::test]
async fn a_lever_that_a_killed_control_plane_left_and_did_not_keep_is_undone_by_its_node() -> Result<()> {
    let admin =
        |options: &mut EbbOptions, folder: &Path| options.admins = vec![unix(&folder.join("admin.sock"))];
    let mut world = World::start_with(EnvoyOptions::default(), admin).await?;
    admin_found(&world).await?;
    let mut client = world.client().await?;
    let id = client.start(within(&[], Duration::from_secs(60))).await?.id;
    ended(&client, &id, wait::PATIENCE).await?;
    let held = world.ebb.cli(&["cancel", "--node", "edge-1"]).await?;
    assert!(held.code == Some(1) && held.stderr.contains(&id), "{held:?}");
    let idle = EbbOptions {
        socket: world.folder.path().join("idle.sock"),
        ..EbbOptions::in_folder(world.folder.path())
    };
    let idle = Ebb::start(idle).await?;
    let options = std::mem::replace(&mut world.ebb, idle).kill().await?;
    world.ebb = Ebb::start(options).await?;
    wait::until(
        "it is told that the Envoy fails its health checks",
        wait::PATIENCE,
        || async { Ok(world.ebb.log().contains("`ebb cancel --node` undoes it")) },
    )
    .await?;
    assert!(is_told_to_close(&world).await?);
    let undone = world.ebb.cli(&["cancel", "--node", "edge-1"]).await?;
    assert_eq!(
        (undone.code, undone.stdout.trim()),
        (Some(0), "edge-1 passes its health checks again (1 Envoy)"),
        "{undone:?}"
    );
    assert!(!is_told_to_close(&world).await?);
    let nobody = world.ebb.cli(&["cancel", "--node", "edge-2"]).await?;
    assert!(
        nobody.code == Some(1) && nobody.stderr.contains("no admin endpoint"),
        "{nobody:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_control_plane_that_could_not_write_its_drain_undoes_the_lever_when_it_stops() -> Result<()> {
    let blocked = |folder: &Path| {
        let state = folder.join("state");
        let blocked = std::fs::write(&state, "a file in the place of the folder");
        blocked.is_ok().then_some(state)
    };
    let (world, options) = stopped_with_the_lever_pulled(blocked).await?;
    assert!(
        !is_told_to_close(&world).await?,
        "no successor knows of the drain"
    );
    let log = std::fs::read_to_string(options.log)?;
    assert!(log.contains("the state is not written"), "{log}");
    Ok(())
}

#[tokio::test]
async fn a_control_plane_whose_drain_holds_leaves_the_lever_to_its_successor() -> Result<()> {
    let (mut world, options) = stopped_with_the_lever_pulled(|folder| Some(folder.join("state"))).await?;
    assert!(is_told_to_close(&world).await?, "the drain holds");
    world.ebb = Ebb::start(options).await?;
    let mut client = world.client().await?;
    let [drain] = &client.drains().await?[..] else {
        panic!("one drain is kept")
    };
    client.cancel(&drain.id).await?;
    wait::until("Envoy serves", wait::PATIENCE, || async {
        Ok(!is_told_to_close(&world).await?)
    })
    .await
}

#[tokio::test]
async fn admin_that_answers_has_envoy_close_a_whole_node_and_serve_again_on_cancel() -> Result<()> {
    let world = World::start_with(EnvoyOptions::default(), |options, folder| {
        options.admins = vec![unix(&folder.join("admin.sock"))];
    })
    .await?;
    admin_found(&world).await?;
    let mut client = world.client().await?;
    let load = load_on(&world)?;
    let held = hold(&world).await?;
    let id = client.start(within(&[], Duration::from_secs(60))).await?.id;
    let drain = drain_that(&client, &id, "Envoy closes by itself", |drain| {
        drain.lever() == Lever::Admin
    })
    .await?;
    assert_eq!(drain.warnings, Vec::<String>::new(), "{drain:?}");
    assert!(closes(&world).await?, "Envoy closes");
    let state = world.envoy.admin(hyper::Method::GET, "/server_info").await?;
    assert!(state.contains("\"DRAINING\""), "{state}");
    stop(load).await?;
    world.upstream.release_all();
    let held = held.await??;
    assert!(held.status == 200 && held.says_close(), "{held:?}");
    let drain = ended(&client, &id, wait::PATIENCE).await?;
    assert_eq!(drain.phase(), Phase::Drained, "{drain:?}");
    assert_eq!(
        (drain.evidence(), drain.lever()),
        (Evidence::Filter, Lever::Admin),
        "{drain:?}"
    );
    assert!(drain.holding && closes(&world).await?, "it holds: {drain:?}");

    client.cancel(&id).await?;
    serves(&world).await?;
    let state = world.envoy.admin(hyper::Method::GET, "/server_info").await?;
    assert!(state.contains("\"LIVE\""), "{state}");
    Ok(())
}

/// A world whose control plane reaches Envoy's admin endpoint through a relay.
async fn with_relayed_admin() -> Result<(World, Relay)> {
    let mut relay = None;
    let world = World::start_with(EnvoyOptions::default(), |options, folder| {
        let socket = folder.join("relay.sock");
        options.admins = vec![unix(&socket)];
        options.state = Some(folder.join("state"));
        relay = Some(Relay::start(&socket, &folder.join("admin.sock")));
    })
    .await?;
    admin_found(&world).await?;
    Ok((world, relay.context("the control plane was not started")??))
}

#[tokio::test]
async fn admin_that_hangs_later_the_filter_closes_instead_and_envoy_serves_after_a_cancel() -> Result<()> {
    let (world, relay) = with_relayed_admin().await?;
    let mut client = world.client().await?;
    relay.silence_all(true);
    let load = load_on(&world)?;
    let held = hold(&world).await?;
    let id = client.start(within(&[], Duration::from_secs(60))).await?.id;
    assert!(closes(&world).await?, "the filter closes");
    let drain = drain_that(&client, &id, "says that Envoy cannot be told", |drain| {
        warned(
            drain,
            &[
                "/healthcheck/fail of edge-1 failed",
                "its filter closes instead",
                "1s",
            ],
        )
    })
    .await?;
    assert_eq!(drain.lever(), Lever::Filter, "{drain:?}");
    stop(load).await?;
    world.upstream.release_all();
    assert_eq!(held.await??.status, 200);
    goes_on_draining(&mut client, &id).await?;

    // The call that was given up arrives after all: Envoy closes, and a cancel undoes that as well.
    relay.silence_all(false);
    let drain = ended(&client, &id, wait::PATIENCE).await?;
    assert_eq!(drain.phase(), Phase::Drained, "{drain:?}");
    wait::until("Envoy has heard of it", wait::PATIENCE, || async {
        let state = world.envoy.admin(hyper::Method::GET, "/server_info").await?;
        Ok(state.contains("\"DRAINING\""))
    })
    .await?;
    client.cancel(&id).await?;
    serves(&world).await
}

#[tokio::test]
async fn cancel_that_envoy_has_not_heard_is_told_by_the_next_control_plane() -> Result<()> {
    let (world, relay) = with_relayed_admin().await?;
    let mut client = world.client().await?;
    let id = client.start(within(&[], Duration::from_secs(60))).await?.id;
    drain_that(&client, &id, "Envoy closes by itself", |drain| {
        drain.lever() == Lever::Admin
    })
    .await?;
    relay.silence_all(true);
    client.cancel(&id).await?;
    let World {
        envoy,
        ebb,
        upstream,
        folder,
    } = world;
    let options = ebb.kill().await?;
    relay.silence_all(false);
    let world = World {
        ebb: Ebb::start(options).await?,
        envoy,
        upstream,
        folder,
    };
    serves(&world).await
}
