//! `ebb drain --wait`: its exit codes, what it prints, and how soon after the last request it ends.
#![allow(clippy::indexing_slicing)] // JSON values

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use ebb_e2e::{
    api::Client,
    client::{Failure, Response, http1},
    envoy::EnvoyOptions,
    wait,
    world::World,
};
use ebb_proto::v1::{Drain, Phase};
use tokio::{task::JoinHandle, time::Instant};

type Held = JoinHandle<(Result<Response, Failure>, Instant)>;

/// Starts a request that the upstream holds; its result comes with the instant at which its response was complete.
async fn hold(world: &World, address: SocketAddr) -> Result<Held> {
    let count = world.upstream.held() + 1;
    let held = tokio::spawn(async move {
        let response = match http1::Connection::open(address).await {
            Ok(mut connection) => connection.get("/hold").await,
            Err(failure) => Err(failure),
        };
        (response, Instant::now())
    });
    world.upstream.wait_held(count).await?;
    Ok(held)
}

/// Waits until the one drain that runs has seen `in_flight` requests.
async fn running_drain(client: &mut Client, in_flight: u64) -> Result<Drain> {
    wait::eventually(
        format!("a drain runs with {in_flight} in flight"),
        wait::PATIENCE,
        || {
            let mut client = client.clone();
            async move {
                let drains = client.drains().await?;
                Ok(drains
                    .into_iter()
                    .find(|drain| drain.phase() == Phase::Draining && drain.in_flight == in_flight))
            }
        },
    )
    .await
}

#[tokio::test]
async fn exit_code_0_and_json_when_drained() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let held = hold(&world, world.ingress()?).await?;
    let command = world
        .ebb
        .cli_start(&["drain", "--listener", "ingress", "--wait", "-o", "json"])?;
    let drain = running_drain(&mut world.client().await?, 1).await?;
    world.upstream.release_all();
    assert_eq!(held.await?.0?.status, 200);

    let output = command.output().await?;
    assert_eq!(output.code, Some(0), "{output:?}");
    let json = output.json()?;
    assert_eq!(json["drain_id"], drain.id, "{json}");
    assert_eq!(json["outcome"], "drained", "{json}");
    assert_eq!(json["in_flight_at_end"], 0, "{json}");
    assert_eq!(json["unknown_reporters"], 0, "{json}");
    assert!(
        json["duration_ms"]
            .as_u64()
            .is_some_and(|duration| duration >= 200),
        "{json}"
    );
    let listeners = json["listeners"].as_array().context("a list of listeners")?;
    assert_eq!(listeners.len(), 1, "{json}");
    assert_eq!(listeners[0]["node"], "edge-1", "{json}");
    assert_eq!(listeners[0]["name"], "ingress", "{json}");
    assert_eq!(listeners[0]["in_flight"], 0, "{json}");
    assert_eq!(listeners[0]["requests_during_drain"], 1, "{json}");
    Ok(())
}

#[tokio::test]
async fn exit_code_3_at_the_deadline_with_the_numbers_left() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let held = [
        hold(&world, world.ingress()?).await?,
        hold(&world, world.ingress()?).await?,
    ];
    let args = [
        "drain",
        "--listener",
        "ingress",
        "--timeout",
        "1s",
        "--wait",
        "-o",
        "json",
    ];
    let output = world.ebb.cli(&args).await?;
    assert_eq!(output.code, Some(3), "{output:?}");
    let json = output.json()?;
    assert_eq!(json["outcome"], "timed_out", "{json}");
    assert_eq!(json["in_flight_at_end"], 2, "{json}");
    assert_eq!(json["listeners"][0]["in_flight"], 2, "{json}");
    assert!(
        json["duration_ms"]
            .as_u64()
            .is_some_and(|duration| duration >= 1000),
        "not early: {json}"
    );

    // For a person the same in words.
    let output = world
        .ebb
        .cli(&["drain", "--listener", "ingress", "--timeout", "1s", "--wait"])
        .await?;
    assert_eq!(output.code, Some(3), "{output:?}");
    assert!(
        output.stdout.contains("timed out") || output.stdout.contains("timed_out"),
        "{output:?}"
    );
    assert!(
        output.stdout.contains("ingress") && output.stdout.contains('2'),
        "{output:?}"
    );
    world.upstream.release_all();
    for held in held {
        assert_eq!(held.await?.0?.status, 200);
    }
    Ok(())
}

#[tokio::test]
async fn exit_code_4_when_cancelled_from_elsewhere() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let held = hold(&world, world.ingress()?).await?;
    let command = world
        .ebb
        .cli_start(&["drain", "--listener", "ingress", "--wait", "-o", "json"])?;
    let drain = running_drain(&mut world.client().await?, 1).await?;
    let cancel = world.ebb.cli(&["cancel", &drain.id]).await?;
    assert_eq!(cancel.code, Some(0), "{cancel:?}");
    let output = command.output().await?;
    assert_eq!(output.code, Some(4), "{output:?}");
    let json = output.json()?;
    assert_eq!(json["outcome"], "cancelled", "{json}");
    assert_eq!(json["in_flight_at_end"], 1, "{json}");
    world.upstream.release_all();
    assert_eq!(held.await?.0?.status, 200);
    Ok(())
}

#[tokio::test]
async fn exit_code_1_names_the_known_listeners_and_2_is_for_usage() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let output = world
        .ebb
        .cli(&["drain", "--listener", "ingres", "--wait"])
        .await?;
    assert_eq!(output.code, Some(1), "{output:?}");
    for word in ["ingres", "ingress", "internal"] {
        assert!(output.stderr.contains(word), "{output:?}");
    }
    let output = world.ebb.cli(&["drain", "--timeout", "soon"]).await?;
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains("--timeout"), "{output:?}");
    Ok(())
}

#[tokio::test]
async fn exit_code_1_when_the_control_plane_is_not_there() -> Result<()> {
    let folder = ebb_e2e::world::folder()?;
    let socket = folder.path().join("ebb.sock");
    let output = ebb_e2e::cli::start(&socket, &["drain", "--listener", "ingress", "--wait"])?
        .output()
        .await?;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("ebb.sock"), "{output:?}");
    assert_eq!(output.stderr.trim().lines().count(), 1, "one line: {output:?}");
    Ok(())
}

#[tokio::test]
async fn progress_goes_to_standard_error_and_the_result_to_standard_output() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let held = hold(&world, world.ingress()?).await?;
    let command = world
        .ebb
        .cli_start(&["drain", "--listener", "ingress", "--wait"])?;
    running_drain(&mut world.client().await?, 1).await?;
    world.upstream.release_all();
    held.await?.0?;
    let output = command.output().await?;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stdout.contains("drained"), "{output:?}");
    assert!(!output.stderr.is_empty(), "{output:?}");
    assert!(
        !output.stderr.contains('\u{1b}'),
        "no terminal, no escape sequences: {output:?}"
    );
    Ok(())
}
