//! A proxy that could not be drained as it is configured: that is said once it is ready, and not only when it is stopped.

use anyhow::{Result, ensure};
use ebb_e2e::bins::EnvoyVersion;

use crate::world::World;

#[tokio::test]
async fn a_gateway_as_it_is_shipped_can_be_drained_and_says_so() -> Result<()> {
    let world = World::start().await?;
    world
        .gateway
        .logged("can be drained: its filters are attached")
        .await?;
    let log = world.gateway.log();
    ensure!(
        !["cannot be drained", "a proxy with neither", "of its gate"]
            .iter()
            .any(|text| log.contains(text)),
        "{log}"
    );
    Ok(())
}

#[tokio::test]
async fn filters_that_never_attach_are_told_of() -> Result<()> {
    let mut world = World::spawn_with(EnvoyVersion::V1_40, |setup| {
        let elsewhere = setup.folder().join("nobody.sock");
        setup.envoy.set_control_plane(&elsewhere)
    })
    .await?;
    world
        .gateway
        .logged("no filter of node \"router\" is attached")
        .await?;
    let log = world.gateway.log();
    let line = log.lines().find(|line| line.contains("is attached"));
    let line = line.unwrap_or_default();
    for text in [
        "WARN",
        "router",
        "the path of the socket",
        "http2_protocol_options",
        "Envoy's own count",
    ] {
        ensure!(line.contains(text), "{text}: {line}");
    }
    ensure!(log.matches("is attached").count() == 1, "once: {log}");
    world.gateway.stop().await?;
    Ok(())
}

#[tokio::test]
async fn names_that_nobody_has_are_told_of() -> Result<()> {
    let world = World::start_with(EnvoyVersion::V1_40, |setup| {
        setup.set_process("policy-engine", "gate", vec!["127.0.0.1:2"])?;
        setup.set_process_key("router", &["drain", "listeners"], vec!["ingres"])
    })
    .await?;
    let listener = "no listener \"ingres\" on the nodes in scope; known: ingress, internal";
    world.gateway.logged(listener).await?;
    world
        .gateway
        .logged("no Envoy knows these endpoints of its gate")
        .await?;
    let log = world.gateway.log();
    ensure!(log.contains("endpoints=\"127.0.0.1:2\""), "{log}");
    Ok(())
}

#[tokio::test]
async fn an_admin_endpoint_that_is_none_is_told_of_and_so_is_a_proxy_that_nobody_would_miss() -> Result<()> {
    let world = World::start_with(EnvoyVersion::V1_40, |setup| {
        let process = setup.process_mut("router")?;
        process.remove("restart");
        process.remove("critical");
        // Port 1 is nobody's.
        setup.set_process_key("router", &["drain", "admin"], "http://127.0.0.1:1")
    })
    .await?;
    world
        .gateway
        .logged("drain.admin = \"127.0.0.1:1\" does not answer")
        .await?;
    let log = world.gateway.log();
    ensure!(
        log.contains("a proxy with neither `restart` nor `critical`"),
        "{log}"
    );
    Ok(())
}
