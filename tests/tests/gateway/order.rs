//! Nothing that a request still needs ends before the request does.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    bins::EnvoyVersion,
    client::{Failure, http1},
    gateway::journal::{self, Entry, What},
    load::{Load, Plan, Protocol},
    on_both_envoys, wait,
};
use ebb_proto::v1::{ProcessState, ShutdownEvent};
use rustix::process::Signal;

use crate::world::World;

/// Where `process` did something that begins with `text`.
fn place(events: &[ShutdownEvent], process: &str, text: &str) -> Result<usize> {
    let found = events
        .iter()
        .position(|event| event.process == process && event.text.starts_with(text));
    found.with_context(|| format!("{process} never: {text}\n{events:#?}"))
}

/// That these things happened one after the other.
fn in_order(events: &[ShutdownEvent], wanted: &[(&str, &str)]) -> Result<()> {
    let places: Vec<usize> = wanted
        .iter()
        .map(|(process, text)| place(events, process, text))
        .collect::<Result<_>>()?;
    ensure!(places.is_sorted(), "wanted {wanted:?}, but it was {events:#?}");
    Ok(())
}

/// That a process was told to stop with nothing in flight, and only these still alive.
fn told_to_stop_beside(entries: &[Entry], who: &str, beside: &[&str]) -> Result<()> {
    let entry = journal::term(entries, who)?;
    let What::Term { in_flight, alive } = &entry.what else {
        anyhow::bail!("{entry:?}");
    };
    ensure!(*in_flight == 0, "{who} took {in_flight} requests with it");
    ensure!(
        alive == beside,
        "{who} was told to stop while {alive:?} were alive"
    );
    Ok(())
}

/// The whole order, as everyone saw it who took part.
const ORDER: [(&str, &str); 8] = [
    ("router", "draining"),
    ("router", "drained"),
    ("router", "accepts no more connections"),
    ("router", "sent SIGTERM"),
    ("router", "exited with code 0"),
    ("policy-engine", "sent SIGTERM"),
    ("policy-engine", "exited with code 0"),
    ("python-executor", "sent SIGTERM"),
];

async fn what_envoy_needs_for_a_request_outlives_envoy(version: EnvoyVersion) -> Result<()> {
    let mut world = World::start_with(version, |_| Ok(())).await?;
    let held = world.hold().await?;

    world.gateway.signal(Signal::TERM)?;
    let processes = world.gateway.in_state("router", ProcessState::Draining).await?;
    for name in ["policy-engine", "python-executor"] {
        let process = processes.iter().find(|process| process.name == name);
        let state = process.map(|process| process.state());
        ensure!(
            state == Some(ProcessState::Holding),
            "{name} should be alive for the router: {processes:?}"
        );
    }
    let (ready, why) = world.gateway.ready().await?;
    ensure!(
        ready == 503 && why == "shutting down: received SIGTERM",
        "{ready} {why}"
    );
    // A request that comes now is asked about by Envoy, and so it needs all three.
    world.until_told_to_leave().await?;

    let (events, response) = tokio::join!(world.gateway.follow_shutdown(), async {
        world.upstream.release_all();
        (held.await, journal::now())
    });
    let (response, answered) = response;
    ensure!(response??.status == 200);
    in_order(&events?, &ORDER)?;
    ensure!(world.gateway.ended().await?.success());
    world.gateway.nothing_is_left()?;
    let entries = world.gateway.journal()?;
    told_to_stop_beside(&entries, "policy-engine", &["policy-engine", "python-executor"])?;
    told_to_stop_beside(&entries, "python-executor", &["python-executor"])?;
    let told = journal::term(&entries, "policy-engine")?.at;
    ensure!(
        answered < told,
        "the request was answered {} ns after the policy engine was told to stop",
        answered - told
    );
    Ok(())
}

/// The drain is over as soon as `ingress` is quiet; what is in flight then on the other listener, and what comes on
/// connections that are open, is seen by Envoy's own count.
async fn connections_are_refused_before_anything_is_told_to_stop_and_a_request_in_flight_then_completes(
    version: EnvoyVersion,
) -> Result<()> {
    let mut world = World::start_with(version, |_| Ok(())).await?;
    let (ingress, internal) = (world.gateway.setup().ingress(), world.gateway.setup().internal());
    let mut other = http1::Connection::open(internal).await?;
    let held = tokio::spawn(async move { other.get("/hold").await });
    world.upstream.wait_held(1).await?;
    // Idle while the gateway drains, and so never told to leave.
    let mut idle = http1::Connection::open(ingress).await?;

    world.gateway.signal(Signal::TERM)?;
    for address in [ingress, internal] {
        wait::until(
            format!("{address} refuses connections"),
            wait::PATIENCE,
            || async move {
                Ok(matches!(
                    http1::Connection::open(address).await,
                    Err(Failure::Connect)
                ))
            },
        )
        .await?;
    }
    let processes = world.gateway.processes().await?;
    ensure!(
        processes.iter().all(|process| process.pid > 0),
        "a request is in flight: {processes:?}"
    );
    ensure!(
        !world.gateway.log().contains("sent SIGTERM"),
        "a request is in flight"
    );
    // It needs all three as well.
    let response = idle.get("/").await?;
    ensure!(response.status == 200, "{response:?}");

    let events = tokio::join!(world.gateway.follow_shutdown(), async {
        world.upstream.release_all();
    });
    ensure!(held.await??.status == 200);
    in_order(&events.0?, &ORDER)?;
    ensure!(world.gateway.ended().await?.success());
    world.gateway.nothing_is_left()
}

on_both_envoys!(
    what_envoy_needs_for_a_request_outlives_envoy,
    connections_are_refused_before_anything_is_told_to_stop_and_a_request_in_flight_then_completes,
);

#[tokio::test]
async fn a_gate_holds_what_the_order_does_not() -> Result<()> {
    let mut world = World::start_with(EnvoyVersion::V1_40, |setup| {
        setup.process_mut("router")?.remove("depends_on");
        let hold = setup.folder().join("hold");
        std::fs::write(&hold, "")?;
        setup.extend_command("python-executor", &["--hold", &hold.display().to_string()])
    })
    .await?;
    let mut connection = http1::Connection::open(world.gateway.setup().ingress()).await?;
    let asking = tokio::spawn(async move { connection.get("/").await });
    wait::until("the executor holds the request", wait::PATIENCE, || async {
        Ok(world
            .gateway
            .journal()?
            .iter()
            .any(|entry| entry.what == What::Held))
    })
    .await?;
    world.gateway.signal(Signal::TERM)?;
    let processes = world.gateway.in_state("router", ProcessState::Draining).await?;
    let engine = processes.iter().find(|process| process.name == "policy-engine");
    let engine = engine.context("no policy engine")?;
    ensure!(
        engine.pid > 0 && engine.waits_for.contains("traffic"),
        "{engine:?}"
    );
    std::fs::remove_file(world.gateway.setup().folder().join("hold"))?;
    let response = asking.await??;
    ensure!(response.status == 200, "{response:?}");
    ensure!(world.gateway.ended().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_run_that_was_killed_in_its_shutdown_does_not_keep_the_next_from_serving() -> Result<()> {
    let mut world = World::start().await?;
    let held = world.hold().await?;
    world.gateway.signal(Signal::TERM)?;
    world.gateway.logged("phase=\"PHASE_DRAINING\"").await?;
    world.gateway.kill().await?;
    ensure!(held.await?.is_err(), "Envoy was killed");
    world.gateway.restart().await?;
    let response = world.get().await?;
    ensure!(response.status == 200 && !response.says_close(), "{response:?}");
    world.gateway.stop().await?;
    Ok(())
}

#[tokio::test]
async fn without_a_load_balancer_no_request_fails_until_connections_are_refused() -> Result<()> {
    let mut world = World::start().await?;
    let plan = |protocol| Plan {
        address: world.gateway.setup().ingress(),
        protocol,
        clients: 5,
        interval: Duration::from_millis(20),
        path: "/delay/10".to_owned(),
    };
    let load = Load::start(&[plan(Protocol::Http1), plan(Protocol::Http2)]);
    load.wait_for_requests(200).await?;
    world.gateway.signal(Signal::TERM)?;
    world.gateway.in_state("router", ProcessState::Draining).await?;
    // Clients that are told to leave come back at once, and would for ever: they stop, as if they had gone elsewhere.
    load.wait_for_requests(50).await?;
    let tally = load.stop().await;
    ensure!(tally.failed() == 0 && tally.told_to_leave > 0, "{tally:?}");
    ensure!(world.gateway.ended().await?.success());
    Ok(())
}
