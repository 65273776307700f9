//! A VM dies: its requests go on, and what it would have counted is unknown, not zero.

use std::time::Duration;

use anyhow::{Result, ensure};
use ebb_e2e::{
    api::{drain_of, proto},
    bins,
    bootstrap::Bootstrap,
    client::{Failure, Response, http1},
    envoy::EnvoyOptions,
    load::{Load, Plan, Protocol},
    wait,
    world::World,
};
use ebb_proto::v1::{Node, Phase, Policy, ReporterState, StartDrainRequest};

/// Shorter reports, so that a silent VM is soon known to be silent.
fn report_often(bootstrap: &mut Bootstrap) -> Result<()> {
    bootstrap.configure_plugins("report_interval", &"500ms".into())
}

async fn world() -> Result<World> {
    let wasm = Some(bins::wasm_trap()?);
    World::start(EnvoyOptions {
        wasm,
        edit: report_often,
        ..EnvoyOptions::default()
    })
    .await
}

fn unknown(node: &Node) -> usize {
    node.reporters
        .iter()
        .filter(|reporter| reporter.state() == ReporterState::Unknown)
        .count()
}

async fn trap_vm(world: &World) -> Result<()> {
    let mut connection = http1::Connection::open(world.ingress()?).await?;
    let response = connection.get_with("/", "x-ebb-test-trap: 1\r\n").await?;
    assert_eq!(response.status, 200, "the request that traps the VM is served");
    let trapped = world.envoy.log().contains("proxy_on_request_headers failed");
    ensure!(trapped, "the VM should have trapped");
    Ok(())
}

async fn wait_unknown(world: &World) -> Result<Node> {
    let client = world.client().await?;
    wait::eventually("the trapped VM is unknown", wait::PATIENCE, || {
        let mut client = client.clone();
        async move { Ok(client.nodes().await?.into_iter().find(|node| unknown(node) == 1)) }
    })
    .await
}

#[tokio::test]
async fn trapped_vm_fails_no_request() -> Result<()> {
    let world = world().await?;
    let address = world.ingress()?;
    let plans = [Protocol::Http1, Protocol::Http2].map(|protocol| Plan {
        address: world
            .envoy
            .address("ingress")
            .unwrap_or_else(|_| world.upstream.address()),
        protocol,
        clients: 4,
        interval: Duration::from_millis(5),
        path: "/delay/20".to_owned(),
    });
    let load = Load::start(&plans);
    load.wait_for_requests(50).await?;
    let held = tokio::spawn(async move { http1::Connection::open(address).await?.get("/hold").await });
    world.upstream.wait_held(1).await?;

    trap_vm(&world).await?;
    load.wait_for_requests(50).await?;
    world.upstream.release_all();
    assert_eq!(
        held.await??.body,
        "released\n",
        "a request in flight at the trap completes"
    );
    let tally = load.stop().await;
    println!("{tally:?}");
    assert_eq!(tally.failed(), 0, "{tally:?}");
    Ok(())
}

#[tokio::test]
async fn trapped_vm_is_unknown_and_no_drain_ends_drained() -> Result<()> {
    let world = world().await?;
    let mut client = world.client().await?;
    let address = world.ingress()?;
    let held = tokio::spawn(async move { http1::Connection::open(address).await?.get("/hold").await });
    world.upstream.wait_held(1).await?;
    trap_vm(&world).await?;
    let node = wait_unknown(&world).await?;
    let reporter = node
        .reporters
        .iter()
        .find(|reporter| reporter.state() == ReporterState::Unknown);
    assert!(
        reporter.is_some_and(|reporter| !reporter.reason.is_empty()),
        "{node:?}"
    );

    let policy = Policy {
        timeout: Some(proto(Duration::from_secs(3))),
        ..Policy::default()
    };
    let drain = client
        .start(StartDrainRequest {
            policy: Some(policy),
            ..drain_of(&["ingress"])
        })
        .await?;
    let ended = client
        .wait_for_phase(&drain.id, Phase::TimedOut, wait::PATIENCE)
        .await?;
    assert_eq!(ended.unknown_reporters.len(), 1, "{ended:?}");
    assert!(!ended.unknown_reporters[0].reason.is_empty(), "{ended:?}");
    world.upstream.release_all();
    assert_eq!(held.await??.status, 200);
    Ok(())
}

#[tokio::test]
async fn vm_that_traps_while_a_drain_waits_keeps_it_from_ending_drained() -> Result<()> {
    let world = world().await?;
    let mut client = world.client().await?;
    let address = world.ingress()?;
    let held = tokio::spawn(async move { http1::Connection::open(address).await?.get("/hold").await });
    world.upstream.wait_held(1).await?;
    let policy = Policy {
        timeout: Some(proto(Duration::from_secs(6))),
        ..Policy::default()
    };
    let drain = client
        .start(StartDrainRequest {
            policy: Some(policy),
            ..drain_of(&["ingress"])
        })
        .await?;
    trap_vm(&world).await?;
    let ended = wait::eventually("the drain ends", wait::PATIENCE, || {
        let (mut client, id) = (client.clone(), drain.id.clone());
        async move {
            let drain = client.drain(&id).await?;
            let running = matches!(drain.phase(), Phase::Announced | Phase::Draining | Phase::Quiet);
            Ok((!running).then_some(drain))
        }
    })
    .await?;
    assert_eq!(ended.phase(), Phase::TimedOut, "{ended:?}");
    assert_eq!(ended.unknown_reporters.len(), 1, "{ended:?}");
    world.upstream.release_all();
    assert_eq!(held.await??.status, 200);
    Ok(())
}

/// Envoy's successor of `fail_open`, in its place.
fn by_failure_policy(bootstrap: &mut Bootstrap) -> Result<()> {
    for listener in ["ingress", "internal"] {
        let filters = bootstrap.http_filters_mut(listener)?;
        let plugins = filters
            .iter_mut()
            .filter_map(|filter| filter.pointer_mut("/typed_config/config"));
        for plugin in plugins.filter_map(serde_json::Value::as_object_mut) {
            if plugin.remove("fail_open").is_some() {
                plugin.insert("failure_policy".to_owned(), "FAIL_OPEN".into());
            }
        }
    }
    Ok(())
}

fn is_served(answer: &Result<Response, Failure>) -> bool {
    matches!(answer, Ok(response) if response.status == 200)
}

/// What the choice between the two costs: `ebb envoy-config` prints `fail_open`, for which nothing is cut, unless it is told
/// otherwise.
#[tokio::test]
async fn what_is_in_flight_in_a_vm_that_dies_goes_on_with_fail_open_and_is_cut_by_the_failure_policy()
-> Result<()> {
    let by_field: fn(&mut Bootstrap) -> Result<()> = |_| Ok(());
    for (edit, survives) in [(by_field, true), (by_failure_policy, false)] {
        let wasm = Some(bins::wasm_trap()?);
        let world = World::start(EnvoyOptions {
            wasm,
            edit,
            ..EnvoyOptions::default()
        })
        .await?;
        let address = world.ingress()?;
        // Of one the response has begun.
        let held = ["/hold", "/hold", "/hold/after"]
            .map(|path| tokio::spawn(async move { http1::Connection::open(address).await?.get(path).await }));
        world.upstream.wait_held(held.len()).await?;
        let mut connection = http1::Connection::open(address).await?;
        let trapping = connection.get_with("/", "x-ebb-test-trap: 1\r\n").await;
        assert_eq!(is_served(&trapping), survives, "{trapping:?}");
        let trapped = world.envoy.log().contains("proxy_on_request_headers failed");
        ensure!(trapped, "the VM should have trapped");
        // What comes afterwards is served either way.
        let mut connection = http1::Connection::open(address).await?;
        assert_eq!(connection.get("/").await?.status, 200);
        world.upstream.release_all();
        for held in held {
            let answer = held.await?;
            println!("{answer:?}");
            assert_eq!(is_served(&answer), survives, "{answer:?}");
        }
    }
    Ok(())
}
