//! Requests that keep arriving while nothing stays in flight: a load balancer's health probes, and clients that do not leave.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    api::{drain_of, proto},
    bins::EnvoyVersion,
    bootstrap::Bootstrap,
    client::http1,
    envoy::EnvoyOptions,
    on_both_envoys, wait,
    world::World,
};
use ebb_proto::v1::{Phase, StartDrainRequest};
use serde_json::json;
use tokio::task::JoinHandle;

const PROBE: &str = "/healthz";
/// The deadline of drains that nothing is to hold.
const DEADLINE: Duration = Duration::from_secs(60);

/// Envoy's own filter for health checks, after Ebb's two, and the mode in which it asks the upstream.
fn health_check(bootstrap: &mut Bootstrap, pass_through: bool) -> Result<()> {
    let filter = json!({
        "name": "health-check",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck",
            "pass_through_mode": pass_through,
            "headers": [{ "name": ":path", "string_match": { "exact": PROBE } }],
        }
    });
    for listener in ["ingress", "internal"] {
        bootstrap.http_filters_mut(listener)?.insert(2, filter.clone());
    }
    Ok(())
}

fn answered_by_envoy(bootstrap: &mut Bootstrap) -> Result<()> {
    health_check(bootstrap, false)
}

fn passed_on(bootstrap: &mut Bootstrap) -> Result<()> {
    health_check(bootstrap, true)
}

/// Ten requests a second, each on a connection of its own, until it is dropped.
struct Arriving(JoinHandle<()>);

impl Arriving {
    fn at(address: SocketAddr, path: &'static str) -> Self {
        Self(tokio::spawn(async move {
            let mut due = tokio::time::interval(Duration::from_millis(100));
            loop {
                due.tick().await;
                tokio::spawn(async move {
                    // A failing health check is an answer, too.
                    if let Ok(mut connection) = http1::Connection::open(address).await {
                        let _ = connection.get(path).await;
                    }
                });
            }
        }))
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn site(version: EnvoyVersion, edit: fn(&mut Bootstrap) -> Result<()>, admin: bool) -> Result<World> {
    let options = EnvoyOptions {
        version,
        edit,
        ..EnvoyOptions::default()
    };
    World::start_with(options, |options, folder| {
        if admin {
            options.admins = vec![format!("unix:{}", folder.join("admin.sock").display())];
        }
    })
    .await
}

fn within(listeners: &[&str], timeout: Duration) -> StartDrainRequest {
    let mut request = drain_of(listeners);
    if let Some(policy) = &mut request.policy {
        policy.timeout = Some(proto(timeout));
    }
    request
}

/// That a drain under probes waits for a request that is held, and for nothing else.
async fn probes_do_not_hold(world: &World, listeners: &[&str]) -> Result<()> {
    let address = world.ingress()?;
    let _probes = Arriving::at(address, PROBE);
    let mut connection = http1::Connection::open(address).await?;
    let held = tokio::spawn(async move { connection.get("/hold").await });
    world.upstream.wait_held(1).await?;
    let mut client = world.client().await?;
    let id = client.start(within(listeners, DEADLINE)).await?.id;
    wait::until("the held request is seen", wait::PATIENCE, || {
        let mut client = client.clone();
        let id = id.clone();
        async move { Ok(client.drain(&id).await?.in_flight >= 1) }
    })
    .await?;
    world.upstream.release_all();
    ensure!(held.await??.status == 200);
    let drain = client.wait_for_phase(&id, Phase::Drained, wait::PATIENCE).await?;
    ensure!(drain.phase() == Phase::Drained, "{drain:?}");
    Ok(())
}

on_both_envoys!(
    probes_that_envoy_answers_hold_no_drain_of_a_node,
    probes_that_envoy_answers_hold_no_drain_by_the_filters_alone,
    probes_that_envoy_passes_on_hold_no_drain
);

async fn probes_that_envoy_answers_hold_no_drain_of_a_node(version: EnvoyVersion) -> Result<()> {
    let world = site(version, answered_by_envoy, true).await?;
    probes_do_not_hold(&world, &[]).await
}

async fn probes_that_envoy_answers_hold_no_drain_by_the_filters_alone(version: EnvoyVersion) -> Result<()> {
    let world = site(version, answered_by_envoy, false).await?;
    probes_do_not_hold(&world, &["ingress"]).await
}

async fn probes_that_envoy_passes_on_hold_no_drain(version: EnvoyVersion) -> Result<()> {
    let world = site(version, passed_on, true).await?;
    probes_do_not_hold(&world, &["ingress"]).await
}

#[tokio::test]
async fn requests_that_keep_arriving_hold_a_drain_of_a_listener_which_says_so_and_what_to_change()
-> Result<()> {
    let world = site(EnvoyVersion::V1_40, answered_by_envoy, true).await?;
    let _clients = Arriving::at(world.ingress()?, "/delay/0");
    let mut client = world.client().await?;
    let mut request = within(&["ingress"], Duration::from_secs(4));
    if let Some(policy) = &mut request.policy {
        // However slow the machine is, one arrives within it.
        policy.quiet_period = Some(proto(Duration::from_secs(2)));
    }
    let id = client.start(request).await?.id;
    let drain = client
        .wait_for_phase(&id, Phase::TimedOut, wait::PATIENCE)
        .await?;
    let says = |warning: &&String| warning.contains("requests kept arriving");
    let warning = drain.warnings.iter().find(says);
    let warning = warning.with_context(|| format!("no word of why: {drain:?}"))?;
    ensure!(
        warning.contains("never quiet for 2s") && warning.contains("quiet_period"),
        "{warning}"
    );
    Ok(())
}
