//! Requests in flight, summed over the workers of an Envoy.
#![allow(clippy::indexing_slicing)] // JSON values

use anyhow::{Result, ensure};
use ebb_e2e::{
    bins::EnvoyVersion,
    client::{Failure, Response, http1},
    envoy::EnvoyOptions,
    on_both_envoys, wait,
    world::{World, in_flight, live_reporters},
};
use ebb_proto::v1::Node;
use tokio::task::JoinSet;

const WORKERS: u32 = 4;
const ON_INTERNAL: usize = 5;
/// The kernel spreads connections over the workers by hash: with this many, one of four stays without in 1 of 10^10.
const ENOUGH_CONNECTIONS: usize = 80;

on_both_envoys!(
    four_workers_with_traffic_sum_to_the_requests_held_open,
    reporters_are_the_workers_and_the_main_thread
);

type Held = JoinSet<Result<Response, Failure>>;

fn hold(held: &mut Held, address: std::net::SocketAddr) {
    held.spawn(async move { http1::Connection::open(address).await?.get("/hold").await });
}

/// Whether every worker of a listener has a connection, by Envoy's own count.
async fn every_worker_has_traffic(world: &World) -> Result<bool> {
    for worker in 0..WORKERS {
        let active = world
            .envoy
            .stat(&format!("listener.ingress.worker_{worker}.downstream_cx_active"))
            .await?;
        if active.unwrap_or(0) == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn edge_1(world: &World) -> Result<Node> {
    let nodes = world.client().await?.nodes().await?;
    ensure!(nodes.len() == 1, "one node should be attached: {nodes:?}");
    Ok(nodes.into_iter().next().unwrap_or_default())
}

async fn four_workers_with_traffic_sum_to_the_requests_held_open(version: EnvoyVersion) -> Result<()> {
    let world = World::start(EnvoyOptions {
        version,
        concurrency: WORKERS,
        ..EnvoyOptions::default()
    })
    .await?;
    let mut held = Held::new();
    for _ in 0..ON_INTERNAL {
        hold(&mut held, world.internal()?);
    }
    let mut on_ingress = 0;
    while on_ingress < 8 || !every_worker_has_traffic(&world).await? {
        ensure!(
            on_ingress < ENOUGH_CONNECTIONS,
            "a worker got none of {on_ingress} connections"
        );
        hold(&mut held, world.ingress()?);
        on_ingress += 1;
        world.upstream.wait_held(ON_INTERNAL + on_ingress).await?;
    }

    let node = edge_1(&world).await?;
    assert_eq!(in_flight(&node, "ingress"), Some(on_ingress as u64), "{node:?}");
    assert_eq!(in_flight(&node, "internal"), Some(ON_INTERNAL as u64), "{node:?}");
    assert_eq!(
        world.envoy.downstream_rq_active("ingress").await?,
        on_ingress as u64
    );
    assert_eq!(
        world.envoy.downstream_rq_active("internal").await?,
        ON_INTERNAL as u64
    );
    assert_eq!(
        (node.reporters.len(), live_reporters(&node)),
        (5, 5),
        "four workers and the main thread"
    );

    world.upstream.release_all();
    while let Some(response) = held.join_next().await {
        assert_eq!(response??.status, 200);
    }
    // A stream is destroyed a moment after its last byte was sent.
    wait::until("every count is back at zero", wait::PATIENCE, || async {
        let node = edge_1(&world).await?;
        Ok(in_flight(&node, "ingress") == Some(0) && in_flight(&node, "internal") == Some(0))
    })
    .await
}

async fn reporters_are_the_workers_and_the_main_thread(version: EnvoyVersion) -> Result<()> {
    let world = World::start(EnvoyOptions {
        version,
        concurrency: WORKERS,
        ..EnvoyOptions::default()
    })
    .await?;
    let status = world.ebb.cli(&["status", "-o", "json"]).await?;
    assert_eq!(status.code, Some(0), "{status:?}");
    let status = status.json()?;
    assert_eq!(status["nodes"][0]["id"], "edge-1", "{status}");
    assert_eq!(status["nodes"][0]["reporters"], 5, "{status}");
    let listeners: Vec<_> = status["nodes"][0]["listeners"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|found| &found["name"])
        .collect();
    assert_eq!(listeners, ["ingress", "internal"], "{status}");
    Ok(())
}
