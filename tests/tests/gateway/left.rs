//! What is left when something is killed: by a router for the drains, by `ebb run` for the next one.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    api::{drain_of, proto},
    bins::EnvoyVersion,
    gateway::journal::What,
    wait,
};
use ebb_proto::v1::{Phase, Policy};
use rustix::process::{Pid, Signal, kill_process};

use crate::world::World;

pub(crate) async fn pid_of(world: &World, name: &str) -> Result<Pid> {
    let processes = world.gateway.processes().await?;
    let process = processes.iter().find(|process| process.name == name);
    let pid = process.and_then(|process| i32::try_from(process.pid).ok());
    pid.and_then(Pid::from_raw)
        .with_context(|| format!("{name} is not alive"))
}

#[tokio::test]
async fn a_router_that_was_killed_under_the_eyes_of_its_supervisor_is_waited_for_no_longer() -> Result<()> {
    let world = World::start().await?;
    let held = world.hold().await?;
    let mut client = world.gateway.client().await?;
    let mut request = drain_of(&["ingress"]);
    request.policy = Some(Policy {
        announce: Some(proto(Duration::ZERO)),
        timeout: Some(proto(Duration::from_secs(600))),
        ..Policy::default()
    });
    let id = client.start(request).await?.id;
    client.wait_for_in_flight(&id, 1).await?;
    kill_process(pid_of(&world, "router").await?, Signal::KILL)?;
    ensure!(held.await?.is_err(), "Envoy was killed");
    let drain = client.wait_for_phase(&id, Phase::Cut, wait::PATIENCE).await?;
    ensure!(drain.unknown_reporters.is_empty(), "{drain:?}");
    ensure!(drain.cut == 1, "{drain:?}");
    Ok(())
}

#[tokio::test]
async fn what_a_run_that_was_killed_left_serves_on_and_is_drained_by_the_next_one() -> Result<()> {
    let mut world = World::start_with(EnvoyVersion::V1_40, |setup| setup.outlive_ebb()).await?;
    let held = world.hold().await?;
    let old = pid_of(&world, "router").await?;
    world.gateway.signal(Signal::KILL)?;
    world.gateway.ended().await?;
    ensure!(world.get().await?.status == 200, "Envoy serves without Ebb");
    world.gateway.respawn()?;
    world
        .gateway
        .logged("left by the last run: waiting for its requests to end")
        .await?;
    ensure!(!world.gateway.log().contains("left by the last run: stopping it"));
    world.upstream.release_all();
    ensure!(held.await??.status == 200, "the request in flight completes");
    world.gateway.serves().await?;
    ensure!(pid_of(&world, "router").await? != old);
    let response = world.get().await?;
    ensure!(response.status == 200 && !response.says_close(), "{response:?}");
    // Dependants first, and nothing anew before all of it is gone.
    let journal = world.gateway.journal()?;
    let at = |who: &str, is: fn(&What) -> bool, nth: usize| {
        let found = journal.iter().enumerate();
        let mut found = found.filter(|(_, entry)| entry.who == who && is(&entry.what));
        found
            .nth(nth)
            .map(|(at, _)| at)
            .with_context(|| format!("{who} in {journal:?}"))
    };
    let start = |what: &What| matches!(what, What::Start);
    let term = |what: &What| matches!(what, What::Term { .. });
    let order = [
        at("policy-engine", term, 0)?,
        at("python-executor", term, 0)?,
        at("python-executor", start, 1)?,
        at("policy-engine", start, 1)?,
    ];
    ensure!(order.is_sorted(), "{order:?} in {journal:?}");
    world.gateway.stop().await?;
    Ok(())
}
