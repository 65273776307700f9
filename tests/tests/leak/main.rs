//! Counting without a leak: requests end in every way there is, and at every moment at which nothing moves the counts
//! equal Envoy's own.
#![allow(clippy::indexing_slicing)] // JSON values, and arrays with an entry per listener

mod held;
mod http1;
mod http2;
mod mix;
mod proof;
mod routes;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    bins::EnvoyVersion,
    envoy::EnvoyOptions,
    load::Protocol,
    on_both_envoys, wait,
    world::{World, live_reporters},
};
use fastrand::Rng;
use tokio::task::JoinSet;

use crate::{
    held::Held,
    mix::{Case, LISTENERS},
};

/// Rounds of 1,000 cases, with a sample after each.
const ROUNDS: u64 = 20;
const WORKERS: usize = 12;
/// Workers that share an HTTP/2 connection.
const SHARING: usize = 4;
const CONCURRENCY: u32 = 2;
/// The longest time for which a client waits before it gives up: some give up before the upstream knows of the request.
const LONGEST_PAUSE: Duration = Duration::from_millis(12);
const SEED: u64 = 7;

type Counts = [u64; LISTENERS.len()];

on_both_envoys!(twenty_thousand_mixed_requests_leave_no_count_behind);

async fn twenty_thousand_mixed_requests_leave_no_count_behind(version: EnvoyVersion) -> Result<()> {
    let world = World::start(EnvoyOptions {
        version,
        concurrency: CONCURRENCY,
        edit: routes::install,
        ..EnvoyOptions::default()
    })
    .await?;
    let reporters = reporters(&world).await?;
    let addresses = [world.ingress()?, world.internal()?];
    let mut rng = Rng::with_seed(SEED);
    let mut cases = 0;
    let mut held_sums = Vec::new();
    for round in 0..ROUNDS {
        let held = Held::open(addresses, &mut rng).await?;
        let mix = mix::round(&mut rng);
        cases += mix.len();
        run(addresses, mix, round).await?;
        // The clients have ended; what is left is what is held.
        world.upstream.wait_held(held.at_upstream()).await?;
        compare(&world, held.counts())
            .await
            .with_context(|| format!("round {round}"))?;
        held_sums.push(held.counts());
        if round % 2 == 0 {
            world.upstream.release_all();
            held.finish().await?;
        } else {
            drop(held);
        }
        world.upstream.wait_held(0).await?;
    }
    compare(&world, [0, 0]).await.context("at the end")?;
    ensure!(cases == 20_000, "{cases} cases were sent");
    proof::check(&world, ROUNDS).await?;
    let after = self::reporters(&world).await?;
    ensure!(reporters == after, "a VM was replaced: its counts began anew");
    println!("held at the samples, per listener: {held_sums:?}");
    Ok(())
}

/// Carries out a round's cases, several at a time, and returns when every client has ended.
async fn run(addresses: [SocketAddr; LISTENERS.len()], mix: Vec<Case>, round: u64) -> Result<()> {
    let shared: Vec<_> = (0..WORKERS.div_ceil(SHARING))
        .map(|_| addresses.map(http2::Client::new))
        .collect();
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let cases: Vec<_> = mix
            .iter()
            .copied()
            .enumerate()
            .skip(worker)
            .step_by(WORKERS)
            .collect();
        let http2 = shared[worker / SHARING].clone();
        let mut http1 = [
            http1::Client::new(addresses[0], false),
            http1::Client::new(addresses[1], true),
        ];
        let mut rng = Rng::with_seed(round * 1000 + worker as u64);
        workers.spawn(async move {
            for (number, case) in cases {
                let key = round * 1_000_000 + number as u64;
                let pause = LONGEST_PAUSE.mul_f64(rng.f64());
                let ended = match case.protocol {
                    Protocol::Http1 => http1[case.listener].carry_out(case.kind, key, pause).await,
                    Protocol::Http2 => http2[case.listener].carry_out(case.kind, key, pause).await,
                };
                ended.with_context(|| format!("round {round}, case {number}: {case:?}"))?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    Ok(())
}

/// Checks that the counts of Envoy and of Ebb are what is held open, while nothing moves.
async fn compare(world: &World, expected: Counts) -> Result<()> {
    // Envoy has yet to notice the clients that left last; and an answer may be as old as the contract allows.
    wait::until(format!("Envoy counts {expected:?}"), wait::PATIENCE, || async {
        let truth = truth(world).await?;
        ensure!(truth == expected, "Envoy counts {truth:?}");
        Ok(true)
    })
    .await?;
    wait::until(format!("Ebb counts {expected:?}"), wait::PATIENCE, || async {
        let counts = counts(world).await?;
        ensure!(counts == expected, "Ebb counts {counts:?}");
        Ok(true)
    })
    .await?;
    let (counts, truth) = (counts(world).await?, truth(world).await?);
    ensure!(
        counts == expected && truth == expected,
        "held {expected:?}, Ebb counts {counts:?}, Envoy {truth:?}"
    );
    Ok(())
}

/// `downstream_rq_active` per listener.
async fn truth(world: &World) -> Result<Counts> {
    let mut counts = Counts::default();
    for (count, listener) in counts.iter_mut().zip(LISTENERS) {
        *count = world.envoy.downstream_rq_active(listener).await?;
    }
    Ok(counts)
}

/// What `ebb status` says per listener.
async fn counts(world: &World) -> Result<Counts> {
    let status = world.ebb.cli(&["status", "-o", "json"]).await?.json()?;
    let node = &status["nodes"][0];
    ensure!(node["unknown_reporters"] == 0, "a reporter is unknown: {status}");
    let mut counts = Counts::default();
    for (count, name) in counts.iter_mut().zip(LISTENERS) {
        let listeners = node["listeners"].as_array();
        let listener = listeners.and_then(|all| all.iter().find(|listener| listener["name"] == name));
        let in_flight = listener.and_then(|listener| listener["in_flight"].as_u64());
        *count = in_flight.with_context(|| format!("no count of {name}: {status}"))?;
    }
    Ok(counts)
}

/// The VMs, by their epochs.
async fn reporters(world: &World) -> Result<Vec<String>> {
    let nodes = world.client().await?.nodes().await?;
    let node = nodes.first().context("no node is attached")?;
    ensure!(live_reporters(node) == CONCURRENCY as usize + 1, "{node:?}");
    let mut ids: Vec<_> = node
        .reporters
        .iter()
        .map(|reporter| reporter.id.clone())
        .collect();
    ids.sort();
    Ok(ids)
}
