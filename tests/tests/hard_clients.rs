//! Clients that do not help: that never read, never leave, or never come.

use std::time::Duration;

use anyhow::Result;
use ebb_e2e::{
    api::{Client, drain_of, proto},
    bootstrap::Bootstrap,
    client::http1,
    envoy::EnvoyOptions,
    load::{Load, Plan, Protocol},
    wait,
    world::World,
};
use ebb_proto::v1::{Drain, Evidence, Phase, Policy, StartDrainRequest};
use serde_json::json;

/// More than Envoy and both sockets hold between upstream and client.
const LARGE: usize = 64 << 20;
/// Less than that: Envoy is done with it before the client has read a byte.
const SMALL: usize = 256 << 10;
const ROUNDS: usize = 10;
const MARGIN: Duration = Duration::from_millis(100);
/// How long a drain is looked at that must not end.
const LOOK: Duration = Duration::from_millis(800);

fn drain_within(timeout: Duration, quiet_period: Option<Duration>) -> StartDrainRequest {
    let policy = Policy {
        timeout: Some(proto(timeout)),
        quiet_period: quiet_period.map(proto),
        ..Policy::default()
    };
    StartDrainRequest {
        policy: Some(policy),
        ..drain_of(&["ingress"])
    }
}

/// A client that has asked for `length` bytes, once the upstream has the request.
async fn asks_and_does_not_read(world: &World, length: usize) -> Result<http1::Connection> {
    let mut connection = http1::Connection::open(world.ingress()?).await?;
    let before = world.upstream.requests_of("large");
    connection
        .send(&format!("GET /large/{length} HTTP/1.1\r\nHost: ebb.test\r\n\r\n"))
        .await?;
    wait::until("the upstream has the request", wait::PATIENCE, || async {
        Ok(world.upstream.requests_of("large") > before)
    })
    .await?;
    Ok(connection)
}

async fn others_are_served(world: &World) -> Result<()> {
    let load = Load::start(&[Protocol::Http1, Protocol::Http2].map(|protocol| Plan {
        address: world.ingress().unwrap_or_else(|_| world.upstream.address()),
        protocol,
        clients: 2,
        interval: Duration::from_millis(5),
        path: "/".to_owned(),
    }));
    load.wait_for_requests(50).await?;
    let tally = load.stop().await;
    assert_eq!(tally.failed(), 0, "{tally:?}");
    Ok(())
}

fn elapsed(drain: &Drain) -> Duration {
    let elapsed = drain.elapsed.unwrap_or_default();
    Duration::try_from(elapsed).unwrap_or_default()
}

/// Fails if a drain does anything but wait for a client to receive what Envoy is done with.
async fn still_owes(client: &mut Client, id: &str) -> Result<()> {
    let owes = wait::eventually("something is owed to one client", wait::PATIENCE, || {
        let mut client = client.clone();
        async move {
            let owed = client.drain(id).await?.outstanding.unwrap_or_default();
            Ok((owed.unsent_bytes() > 0).then_some(owed))
        }
    })
    .await?;
    assert_eq!(owes.unsent_clients(), 1, "{owes:?}");
    let until = tokio::time::Instant::now() + LOOK;
    while tokio::time::Instant::now() < until {
        let drain = client.drain(id).await?;
        assert_eq!(drain.phase(), Phase::Quiet, "{drain:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test]
async fn client_that_never_reads_keeps_a_drain_to_its_deadline_which_names_it() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let mut client = world.client().await?;
    let mut silent = asks_and_does_not_read(&world, LARGE).await?;
    let command = world.ebb.cli_start(&[
        "drain",
        "--listener",
        "ingress",
        "--timeout",
        "3s",
        "--wait",
        "-o",
        "json",
    ])?;
    others_are_served(&world).await?;
    let output = command.output().await?;
    assert_eq!(output.code, Some(3), "{output:?}");
    let json = output.json()?;
    assert_eq!(json.get("outcome"), Some(&json!("timed_out")), "{json}");
    assert_eq!(json.get("in_flight_at_end"), Some(&json!(1)), "{json}");
    assert_eq!(json.get("unknown_reporters"), Some(&json!(0)), "{json}");
    let named = json.pointer("/listeners/0");
    let of = |key| named.and_then(|listener| listener.get(key));
    assert_eq!(of("name"), Some(&json!("ingress")), "{json}");
    assert_eq!(of("in_flight"), Some(&json!(1)), "{json}");

    // Its response was not cut, and the next drain ends with it.
    let id = client
        .start(drain_within(Duration::from_secs(60), None))
        .await?
        .id;
    client.wait_for_in_flight(&id, 1).await?;
    let response = silent.response().await?;
    assert_eq!((response.status.as_u16(), response.body.len()), (200, LARGE));
    client.wait_for_phase(&id, Phase::Drained, wait::PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn client_that_never_reads_is_waited_for_until_its_kernel_has_what_envoy_sent() -> Result<()> {
    fn give_up_soon(bootstrap: &mut Bootstrap) -> Result<()> {
        if let Some(manager) = bootstrap.connection_manager_mut("ingress")?.as_object_mut() {
            manager.insert("stream_idle_timeout".to_owned(), json!("2s"));
        }
        Ok(())
    }
    let world = World::start(EnvoyOptions {
        edit: give_up_soon,
        ..EnvoyOptions::default()
    })
    .await?;
    let mut client = world.client().await?;
    let silent = asks_and_does_not_read(&world, LARGE).await?;
    let id = client
        .start(drain_within(Duration::from_secs(60), None))
        .await?
        .id;
    client.wait_for_in_flight(&id, 1).await?;
    // Envoy gives the request up; the system goes on offering what was sent before that.
    client.wait_for_phase(&id, Phase::Quiet, wait::PATIENCE).await?;
    still_owes(&mut client, &id).await?;
    drop(silent);
    let drain = client.wait_for_phase(&id, Phase::Drained, wait::PATIENCE).await?;
    assert_eq!(
        (drain.in_flight, drain.evidence()),
        (0, Evidence::Filter),
        "{drain:?}"
    );
    assert_eq!(drain.listeners[0].requests_during_drain, 1, "{drain:?}");
    assert_eq!(world.envoy.downstream_rq_active("ingress").await?, 0);
    Ok(())
}

#[tokio::test]
async fn response_that_envoy_is_done_with_is_waited_for_until_it_is_read() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let mut client = world.client().await?;
    let mut late = asks_and_does_not_read(&world, SMALL).await?;
    let id = client
        .start(drain_within(Duration::from_secs(60), None))
        .await?
        .id;
    client.wait_for_phase(&id, Phase::Quiet, wait::PATIENCE).await?;
    still_owes(&mut client, &id).await?;
    let response = late.response().await?;
    assert_eq!((response.status.as_u16(), response.body.len()), (200, SMALL));
    client.wait_for_phase(&id, Phase::Drained, wait::PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn idle_keep_alive_client_does_not_hold_a_drain_up_and_is_told_with_its_next_response() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let mut client = world.client().await?;
    let mut idle = http1::Connection::open(world.ingress()?).await?;
    assert!(!idle.get("/").await?.says_close());
    let drain = client.start(drain_within(Duration::from_secs(60), None)).await?;
    let drain = client
        .wait_for_phase(&drain.id, Phase::Drained, wait::PATIENCE)
        .await?;
    assert_eq!(
        (drain.in_flight, drain.evidence()),
        (0, Evidence::Filter),
        "{drain:?}"
    );
    let connected = world.envoy.stat("http.ingress.downstream_cx_active").await?;
    assert_eq!(connected, Some(1), "the client is still connected");
    let response = idle.get("/").await?;
    assert!(response.status == 200 && response.says_close(), "{response:?}");
    assert!(idle.closed_within(wait::PATIENCE).await);
    others_are_served(&world).await
}

#[tokio::test]
async fn drain_without_traffic_ends_with_its_quiet_period() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let mut client = world.client().await?;
    let mut medians = Vec::new();
    for quiet_period in [
        Duration::ZERO,
        Duration::from_millis(100),
        Duration::from_millis(300),
    ] {
        let mut over = Vec::new();
        for _ in 0..ROUNDS {
            let request = drain_within(Duration::from_secs(60), Some(quiet_period));
            let id = client.start(request).await?.id;
            let drain = client.wait_for_phase(&id, Phase::Drained, wait::PATIENCE).await?;
            let took = elapsed(&drain);
            assert!(took >= quiet_period, "{took:?} is early: {drain:?}");
            over.push(took.saturating_sub(quiet_period));
            client.cancel(&id).await?;
        }
        over.sort_unstable();
        println!("quiet period {quiet_period:?}: ended that much after it: {over:?}");
        // A drain that waited for the filter's next tick would be up to half a second late.
        let median = over[ROUNDS / 2];
        assert!(median < MARGIN, "median {median:?} of {over:?}");
        medians.push(quiet_period + median);
    }
    assert!(medians.is_sorted(), "{medians:?}");
    Ok(())
}
