//! Signals that come at the wrong time, or too often.

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    bins::EnvoyVersion,
    cli,
    gateway::journal::{self, What},
    process::describe,
};
use ebb_proto::v1::ProcessState;
use rustix::process::Signal;
use serde_json::Value;

use crate::world::World;

#[tokio::test]
async fn sigterm_while_envoy_starts_stops_what_runs() -> Result<()> {
    let mut world = World::spawn_with(EnvoyVersion::V1_40, |setup| {
        // Envoy starts, and is never called ready.
        let nobody = setup.folder().join("nobody.sock").display().to_string();
        let ready = [("unix", nobody), ("timeout", "60s".to_owned())];
        let ready = ready.map(|(key, value)| (key.to_owned(), value.into()));
        setup.set_process("router", "ready", toml::Table::from_iter(ready))
    })
    .await?;
    world.gateway.in_state("router", ProcessState::Starting).await?;
    world.gateway.signal(Signal::TERM)?;
    let status = world.gateway.ended().await?;
    ensure!(status.success(), "{}", describe(status));
    world.gateway.nothing_is_left()?;
    let log = world.gateway.log();
    ensure!(!log.contains("draining"), "nothing came to it yet: {log}");
    let entries = world.gateway.journal()?;
    for (who, beside) in [
        ("policy-engine", vec!["policy-engine", "python-executor"]),
        ("python-executor", vec!["python-executor"]),
    ] {
        let term = journal::term(&entries, who)?;
        ensure!(
            matches!(&term.what, What::Term { alive, .. } if *alive == beside),
            "{term:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn sigterm_during_an_operators_drain_goes_on_with_it_and_the_next_run_leaves_it_to_the_operator()
-> Result<()> {
    let mut world = World::start().await?;
    let held = world.hold().await?;
    let socket = world.gateway.setup().socket();
    let drain = cli::start(
        &socket,
        &["drain", "--listener", "ingress", "--wait", "-o", "json"],
    )?;
    world.gateway.logged("phase=\"PHASE_DRAINING\"").await?;
    let (ready, why) = world.gateway.ready().await?;
    ensure!(
        ready == 503 && why.ends_with("of ingress"),
        "a drain is no time to send traffic: {ready} {why}"
    );
    world.gateway.signal(Signal::TERM)?;
    world.gateway.in_state("router", ProcessState::Draining).await?;
    world.upstream.release_all();
    ensure!(held.await??.status == 200);
    let drain = drain.output().await?;
    ensure!(drain.code == Some(0), "{drain:?}");
    let status = world.gateway.ended().await?;
    ensure!(status.success(), "{}", describe(status));
    world.gateway.nothing_is_left()?;
    // The operator's drain still holds what it drained, and that is gone: the Envoy that is started serves.
    world.gateway.respawn()?;
    world.gateway.attached().await?;
    let response = world.get().await?;
    ensure!(response.status == 200 && !response.says_close(), "{response:?}");
    let drain = drain.json()?;
    let id = drain.get("drain_id").and_then(Value::as_str).context("no id")?;
    cli::start(&socket, &["cancel", id])?.output().await?;
    world.gateway.serves().await?;
    world.gateway.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_second_sigterm_changes_nothing() -> Result<()> {
    let mut world = World::start().await?;
    let held = world.hold().await?;
    world.gateway.signal(Signal::TERM)?;
    world.gateway.in_state("router", ProcessState::Draining).await?;
    world.gateway.signal(Signal::TERM)?;
    world
        .gateway
        .logged("SIGTERM again: the shutdown goes on")
        .await?;
    let response = world.get().await?;
    ensure!(response.status == 200, "it still serves: {response:?}");
    world.upstream.release_all();
    ensure!(held.await??.status == 200);
    let status = world.gateway.ended().await?;
    ensure!(status.success(), "{}", describe(status));
    Ok(())
}

#[tokio::test]
async fn three_within_two_seconds_kill_everything() -> Result<()> {
    let mut world = World::start().await?;
    let held = world.hold().await?;
    world.gateway.signal(Signal::TERM)?;
    world.gateway.in_state("router", ProcessState::Draining).await?;
    world.gateway.signal(Signal::TERM)?;
    world.gateway.logged("SIGTERM again").await?;
    world.gateway.signal(Signal::TERM)?;
    // The upstream holds the request to the end: nothing waits for it any more.
    let status = world.gateway.ended().await?;
    ensure!(
        status.success(),
        "a stop that was asked for: {}",
        describe(status)
    );
    ensure!(held.await?.is_err(), "Envoy was killed");
    ensure!(world.upstream.held() == 0, "and so was its request");
    world.gateway.nothing_is_left()?;
    ensure!(
        world
            .gateway
            .log()
            .contains("SIGTERM repeated: killing everything")
    );
    Ok(())
}

#[tokio::test]
async fn signals_that_are_no_stop_leave_a_gateway_serving() -> Result<()> {
    let mut world = World::start_with(EnvoyVersion::V1_40, |setup| {
        // Envoy opens its access logs anew.
        let relay = toml::Value::Array(vec!["SIGUSR1".into()]);
        setup.set_process_key("router", &["relay"], relay)
    })
    .await?;
    let pids = |processes: Vec<ebb_proto::v1::Process>| {
        let pids = processes.into_iter().map(|process| (process.name, process.pid));
        pids.collect::<Vec<_>>()
    };
    let before = pids(world.gateway.processes().await?);
    for signal in [Signal::USR1, Signal::HUP, Signal::USR2, Signal::ALARM] {
        world.gateway.signal(signal)?;
        let response = world.get().await?;
        ensure!(response.status == 200, "{signal:?}: {response:?}");
    }
    world
        .gateway
        .logged("ignored: no process has it relayed signal=SIGALRM")
        .await?;
    world
        .gateway
        .logged("relayed signal=SIGUSR1 to=\"router\"")
        .await?;
    ensure!(pids(world.gateway.processes().await?) == before);
    ensure!(world.get().await?.status == 200);
    world.gateway.stop().await?;
    Ok(())
}
