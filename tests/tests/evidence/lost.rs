//! Reporters that are lost while a drain waits: a VM that traps, a worker that is cut off from its control plane.

use std::time::Duration;

use anyhow::Result;
use ebb_e2e::{
    api::Client,
    bins,
    bootstrap::Bootstrap,
    client::http1,
    ebb::{Ebb, EbbOptions},
    envoy::{Envoy, EnvoyOptions},
    relay::Relay,
    upstream::Upstream,
    wait,
    world::{World, folder, live_reporters, wait_attached},
};
use ebb_proto::v1::{Evidence, Phase, UnknownReporter};

use crate::{
    admin_found, drain_that, ended, goes_on_draining, hold, load_on, load_on_internal, serves, stop, unix,
    warned, within,
};

/// Shorter reports, so that a silent VM is soon known to be silent.
fn report_often(bootstrap: &mut Bootstrap) -> Result<()> {
    bootstrap.configure_plugins("report_interval", &"500ms".into())
}

async fn trap(world: &World) -> Result<()> {
    let mut connection = http1::Connection::open(world.internal()?).await?;
    let response = connection.get_with("/", "x-ebb-test-trap: 1\r\n").await?;
    assert_eq!(response.status, 200, "the request that traps the VM is served");
    let trapped = world.envoy.log().contains("proxy_on_request_headers failed");
    anyhow::ensure!(trapped, "the VM should have trapped");
    Ok(())
}

async fn with_trap(with_admin: bool) -> Result<World> {
    let options = EnvoyOptions {
        wasm: Some(bins::wasm_trap()?),
        edit: report_often,
        ..EnvoyOptions::default()
    };
    let world = World::start_with(options, |options, folder| {
        if with_admin {
            options.admins = vec![unix(&folder.join("admin.sock"))];
        }
    })
    .await?;
    if with_admin {
        admin_found(&world).await?;
    }
    Ok(world)
}

#[tokio::test]
async fn vm_that_traps_is_stood_in_for_by_envoys_own_count() -> Result<()> {
    let world = with_trap(true).await?;
    let mut client = world.client().await?;
    let load = load_on(&world)?;
    let held = hold(&world).await?;
    let id = client
        .start(within(&["ingress"], Duration::from_secs(90)))
        .await?
        .id;
    trap(&world).await?;
    stop(load).await?;
    let drain = drain_that(&client, &id, "goes by Envoy's own count", |drain| {
        drain.evidence() == Evidence::Admin && drain.in_flight == 1
    })
    .await?;
    assert!(
        warned(
            &drain,
            &["reporters of the filter are unknown", "Envoy's own count"]
        ),
        "{drain:?}"
    );
    goes_on_draining(&mut client, &id).await?;
    assert_eq!(world.envoy.downstream_rq_active("ingress").await?, 1);
    world.upstream.release_all();
    assert_eq!(held.await??.status, 200);
    let drain = ended(&client, &id, wait::PATIENCE).await?;
    assert_eq!(
        (drain.phase(), drain.evidence()),
        (Phase::Drained, Evidence::Admin),
        "{drain:?}"
    );
    assert_eq!(drain.in_flight, 0, "{drain:?}");
    Ok(())
}

#[tokio::test]
async fn vm_that_traps_without_an_admin_is_named_at_the_deadline() -> Result<()> {
    let world = with_trap(false).await?;
    let mut client = world.client().await?;
    let held = hold(&world).await?;
    let id = client
        .start(within(&["ingress"], Duration::from_secs(8)))
        .await?
        .id;
    client.wait_for_in_flight(&id, 1).await?;
    trap(&world).await?;
    world.upstream.release_all();
    assert_eq!(held.await??.status, 200);
    let drain = ended(&client, &id, wait::PATIENCE).await?;
    assert_eq!(drain.phase(), Phase::TimedOut, "{drain:?}");
    let [unknown] = &drain.unknown_reporters[..] else {
        panic!("one reporter should be unknown: {drain:?}")
    };
    assert_eq!(unknown.node, "edge-1", "{drain:?}");
    assert!(unknown.reason.contains("silent for"), "{drain:?}");
    Ok(())
}

/// A world of two workers, with a relay between Envoy and the control plane.
pub(crate) async fn with_relay(with_admin: bool) -> Result<(World, Relay)> {
    let folder = folder()?;
    let mut ebb = EbbOptions::in_folder(folder.path());
    if with_admin {
        ebb.admins = vec![unix(&folder.path().join("admin.sock"))];
    }
    let upstream = Upstream::start().await?;
    let ebb = Ebb::start(ebb).await?;
    let socket = folder.path().join("relay.sock");
    let relay = Relay::start(&socket, ebb.socket())?;
    let options = EnvoyOptions {
        concurrency: 2,
        ..EnvoyOptions::default()
    };
    let envoy = Envoy::start(&options, folder.path(), &socket, upstream.address()).await?;
    let world = World {
        envoy,
        ebb,
        upstream,
        folder,
    };
    wait_attached(&mut world.client().await?, "edge-1", 2).await?;
    if with_admin {
        admin_found(&world).await?;
    }
    Ok((world, relay))
}

/// Silences that connection whose worker has the one request that a drain waits for, and no other. While a reporter is
/// unknown it counts for nothing, which tells whose connection it is.
pub(crate) async fn silence_its_worker(client: &Client, relay: &Relay, id: &str) -> Result<()> {
    for number in relay.connections() {
        relay.silence(number, true);
        let drain = drain_that(client, id, "one reporter is unknown", |drain| {
            drain.unknown_reporters.len() == 1
        })
        .await?;
        let by_filter: u64 = drain.listeners.iter().map(|listener| listener.in_flight).sum();
        if by_filter == 0 {
            let silent = |unknown: &UnknownReporter| unknown.reason.contains("silent for");
            assert!(drain.unknown_reporters.iter().all(silent), "{drain:?}");
            return Ok(());
        }
        relay.silence(number, false);
        drain_that(client, id, "every reporter is known again", |drain| {
            drain.unknown_reporters.is_empty() && drain.in_flight == 1
        })
        .await?;
    }
    anyhow::bail!("no connection is that of the worker with the request")
}

#[tokio::test]
async fn worker_cut_off_from_its_control_plane_keeps_the_drain_waiting_until_it_is_heard_again() -> Result<()>
{
    let (world, relay) = with_relay(false).await?;
    let mut client = world.client().await?;
    let held = hold(&world).await?;
    let id = client
        .start(within(&["ingress"], Duration::from_secs(120)))
        .await?
        .id;
    client.wait_for_in_flight(&id, 1).await?;
    let load = load_on(&world)?;
    load.wait_for_requests(50).await?;
    stop(load).await?;
    // On the other listener, so that the request that is held is the only one that counts.
    let load = load_on_internal(&world)?;
    silence_its_worker(&client, &relay, &id).await?;
    world.upstream.release_all();
    assert_eq!(held.await??.status, 200);
    goes_on_draining(&mut client, &id).await?;
    stop(load).await?;

    relay.silence_all(false);
    let drain = ended(&client, &id, wait::PATIENCE).await?;
    assert_eq!(
        (drain.phase(), drain.evidence()),
        (Phase::Drained, Evidence::Filter),
        "{drain:?}"
    );
    assert!(drain.unknown_reporters.is_empty(), "{drain:?}");
    let node = wait_attached(&mut client, "edge-1", 2).await?;
    assert_eq!(live_reporters(&node), 3, "{node:?}");
    Ok(())
}

#[tokio::test]
async fn worker_cut_off_from_its_control_plane_is_stood_in_for_by_envoys_own_count() -> Result<()> {
    let (world, relay) = with_relay(true).await?;
    let mut client = world.client().await?;
    let held = hold(&world).await?;
    let id = client
        .start(within(&["ingress"], Duration::from_secs(120)))
        .await?
        .id;
    client.wait_for_in_flight(&id, 1).await?;
    let load = load_on_internal(&world)?;
    silence_its_worker(&client, &relay, &id).await?;
    let drain = drain_that(&client, &id, "goes by Envoy's own count", |drain| {
        drain.evidence() == Evidence::Admin && drain.in_flight == 1
    })
    .await?;
    assert!(warned(&drain, &["Envoy's own count"]), "{drain:?}");
    goes_on_draining(&mut client, &id).await?;
    stop(load).await?;

    world.upstream.release_all();
    assert_eq!(held.await??.status, 200);
    let drain = ended(&client, &id, wait::PATIENCE).await?;
    assert_eq!(
        (drain.phase(), drain.evidence()),
        (Phase::Drained, Evidence::Admin),
        "{drain:?}"
    );
    relay.silence_all(false);
    wait_attached(&mut client, "edge-1", 2).await?;
    client.cancel(&id).await?;
    serves(&world).await
}

#[tokio::test]
async fn envoys_that_share_a_node_id_are_told_of_and_drains_of_them_warn() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let folder = folder()?;
    let (options, upstream) = (EnvoyOptions::default(), world.upstream.address());
    let _twin = Envoy::start(&options, folder.path(), world.ebb.socket(), upstream).await?;
    let told = || world.ebb.log().matches("several Envoys are attached").count();
    // Not at once: it may be a restart.
    wait::until("it is said", Duration::from_secs(60), || async { Ok(told() > 0) }).await?;
    let mut client = world.client().await?;
    let id = client
        .start(within(&["ingress"], Duration::from_secs(30)))
        .await?
        .id;
    let drain = ended(&client, &id, wait::PATIENCE).await?;
    assert!(warned(&drain, &["several Envoys", "edge-1"]), "{drain:?}");
    assert_eq!((drain.phase(), told()), (Phase::Drained, 1), "{drain:?}");
    Ok(())
}
