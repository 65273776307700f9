//! What a drain rests on, and what closes: the filter, or Envoy by itself, and what happens when either is lost.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use ebb_e2e::{
    api::{Client, drain_of, proto},
    bins,
    bootstrap::Bootstrap,
    client::{Failure, Response, http1},
    ebb::{Ebb, EbbOptions},
    envoy::{Envoy, EnvoyOptions},
    load::{Load, Plan, Protocol},
    relay::Relay,
    upstream::Upstream,
    wait,
    world::{World, folder, live_reporters, wait_attached},
};
use ebb_proto::v1::{Drain, Evidence, Lever, Phase, Policy, StartDrainRequest};
use tokio::{net::UnixListener, task::JoinHandle};

/// How long a drain is looked at that must not end.
const LOOK: Duration = Duration::from_secs(2);

fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

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

/// A drain of the listeners, or of whole nodes if there is none, with this deadline.
fn within(listeners: &[&str], timeout: Duration) -> StartDrainRequest {
    let timeout = Some(proto(timeout));
    StartDrainRequest {
        policy: Some(Policy {
            timeout,
            ..Policy::default()
        }),
        ..drain_of(listeners)
    }
}

/// Load on both listeners, which ends well or fails the test.
fn load_on(world: &World) -> Result<Load> {
    let mut plans = Vec::new();
    for address in [world.ingress()?, world.internal()?] {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            plans.push(Plan {
                address,
                protocol,
                clients: 2,
                interval: Duration::from_millis(10),
                path: "/delay/5".to_owned(),
            });
        }
    }
    Ok(Load::start(&plans))
}

async fn stop(load: Load) -> Result<()> {
    load.wait_for_requests(50).await?;
    let tally = load.stop().await;
    assert_eq!(tally.failed(), 0, "{tally:?}");
    Ok(())
}

type Held = JoinHandle<Result<Response, Failure>>;

/// A request on `ingress` that the upstream holds.
async fn hold(world: &World) -> Result<Held> {
    let (address, count) = (world.ingress()?, world.upstream.held() + 1);
    let held = tokio::spawn(async move { http1::Connection::open(address).await?.get("/hold").await });
    world.upstream.wait_held(count).await?;
    Ok(held)
}

async fn ended(client: &Client, id: &str, bound: Duration) -> Result<Drain> {
    wait::eventually(format!("drain {id} ends"), bound, || {
        let mut client = client.clone();
        async move {
            let drain = client.drain(id).await?;
            let running = matches!(drain.phase(), Phase::Announced | Phase::Draining | Phase::Quiet);
            Ok((!running).then_some(drain))
        }
    })
    .await
}

async fn drain_that(
    client: &Client,
    id: &str,
    what: &str,
    holds: impl Fn(&Drain) -> bool + Copy,
) -> Result<Drain> {
    wait::eventually(format!("drain {id}: {what}"), wait::PATIENCE, || {
        let mut client = client.clone();
        async move { Ok(Some(client.drain(id).await?).filter(holds)) }
    })
    .await
}

/// Fails if a drain does anything but wait for a while.
async fn goes_on_draining(client: &mut Client, id: &str) -> Result<()> {
    let until = tokio::time::Instant::now() + LOOK;
    while tokio::time::Instant::now() < until {
        let drain = client.drain(id).await?;
        assert_eq!(drain.phase(), Phase::Draining, "{drain:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn warned(drain: &Drain, words: &[&str]) -> bool {
    let has_all = |warning: &String| words.iter().all(|word| warning.contains(word));
    drain.warnings.iter().any(has_all)
}

/// Whether a connection is told to close, and closed.
async fn closes(world: &World) -> Result<bool> {
    let mut connection = http1::Connection::open(world.ingress()?).await?;
    let told = connection.get("/").await?.says_close();
    Ok(told && connection.closed_within(wait::PATIENCE).await)
}

async fn serves(world: &World) -> Result<()> {
    wait::until("connections are kept again", wait::PATIENCE, || async {
        let mut connection = http1::Connection::open(world.ingress()?).await?;
        let first = connection.get("/").await?;
        Ok(!first.says_close() && connection.get("/").await.is_ok_and(|second| !second.says_close()))
    })
    .await
}

/// Waits until the control plane knows whose admin endpoint it has.
async fn admin_found(world: &World) -> Result<()> {
    wait::until("the admin endpoint is found", wait::PATIENCE, || async {
        Ok(world.ebb.log().contains("admin endpoint found"))
    })
    .await
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
    let drain = ended(&client, &drain.id, wait::PATIENCE).await?;
    assert_eq!(drain.phase(), Phase::Drained, "{drain:?}");
    assert_eq!(drain.evidence(), Evidence::Filter, "{drain:?}");
    assert!(drain.unknown_reporters.is_empty(), "{drain:?}");
    // A later one says it from its start.
    let output = world.ebb.cli(&["drain", "--wait", "-o", "json"]).await?;
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
    let drain = ended(&client, &id, wait::PATIENCE).await?;
    assert_eq!(
        (drain.phase(), drain.evidence()),
        (Phase::Drained, Evidence::Filter),
        "{drain:?}"
    );

    // The call that was given up arrives after all: Envoy closes, and a cancel undoes that as well.
    relay.silence_all(false);
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
async fn with_relay(with_admin: bool) -> Result<(World, Relay)> {
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
async fn silence_its_worker(client: &Client, relay: &Relay, id: &str, with_admin: bool) -> Result<()> {
    for number in relay.connections() {
        relay.silence(number, true);
        let drain = drain_that(client, id, "one reporter is unknown", |drain| {
            drain.unknown_reporters.len() == 1
        })
        .await?;
        let by_filter: u64 = drain.listeners.iter().map(|listener| listener.in_flight).sum();
        if by_filter == 0 {
            let reason = &drain.unknown_reporters[0].reason;
            assert!(reason.contains("silent for"), "{drain:?}");
            return Ok(());
        }
        relay.silence(number, false);
        drain_that(client, id, "every reporter is known again", |drain| {
            drain.unknown_reporters.is_empty() && drain.in_flight == 1
        })
        .await?;
    }
    anyhow::bail!("no connection is that of the worker with the request; admin: {with_admin}")
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
    silence_its_worker(&client, &relay, &id, false).await?;
    world.upstream.release_all();
    assert_eq!(held.await??.status, 200);
    goes_on_draining(&mut client, &id).await?;

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
    silence_its_worker(&client, &relay, &id, true).await?;
    let drain = drain_that(&client, &id, "goes by Envoy's own count", |drain| {
        drain.evidence() == Evidence::Admin && drain.in_flight == 1
    })
    .await?;
    assert!(warned(&drain, &["Envoy's own count"]), "{drain:?}");
    goes_on_draining(&mut client, &id).await?;

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
