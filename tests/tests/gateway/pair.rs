//! Two Envoys under one Ebb, the edge before the gateway's router, with the same names for their listeners.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    bins::{self, EnvoyVersion},
    bootstrap::Bootstrap,
    client::http1,
    gateway::setup::Setup,
    ports::Port,
    world::wait_attached,
};
use ebb_proto::v1::ProcessState;
use rustix::process::Signal;
use toml::{Table, Value};

use crate::world::World;

/// Puts an Envoy before the router, which drains each of its listeners as the router does.
fn add_edge(setup: &mut Setup, listeners: [&Port; 2], admin: bool) -> Result<()> {
    let mut envoy = Bootstrap::shipped()?;
    envoy.set_node_id("edge");
    envoy.set_wasm(&bins::wasm()?);
    envoy.set_control_plane(&setup.socket())?;
    envoy.set_upstream(setup.ingress())?;
    let socket = setup.folder().join("edge.sock");
    envoy.set_admin(&socket);
    for (name, port) in ["ingress", "internal"].into_iter().zip(listeners) {
        envoy.bind(name, port.address())?;
    }
    let bootstrap = setup.folder().join("edge.json");
    envoy.write(&bootstrap)?;
    let text = |path: &Path| path.display().to_string();
    let command = setup.command("router")?;
    let own = command.iter().position(|word| word == "-c").context("no -c")? + 1;
    let command = command.into_iter().enumerate();
    let command = command.map(|(at, word)| if at == own { text(&bootstrap) } else { word });
    let mut edge = setup.process_mut("router")?.clone();
    edge.insert("name".to_owned(), "edge".into());
    edge.insert(
        "command".to_owned(),
        Value::Array(command.map(Value::from).collect()),
    );
    edge.insert("depends_on".to_owned(), vec!["router"].into());
    let mut ready = Table::new();
    ready.insert("http".to_owned(), format!("unix:{}:/ready", text(&socket)).into());
    ready.insert("timeout".to_owned(), "60s".into());
    edge.insert("ready".to_owned(), ready.into());
    let mut drain = Table::new();
    if admin {
        drain.insert("admin".to_owned(), format!("unix:{}", text(&socket)).into());
    } else {
        drain.insert("node".to_owned(), "edge".into());
        let mut inner = Table::new();
        inner.insert("node".to_owned(), "router".into());
        setup.set_process("router", "drain", inner)?;
    }
    edge.insert("drain".to_owned(), drain.into());
    edge.insert("env".to_owned(), Table::new().into());
    if admin {
        let drain = setup.process_mut("router")?.get_mut("drain");
        let drain = drain.and_then(Value::as_table_mut).context("no drain")?;
        drain.remove("listeners");
    }
    let processes = setup.ebb.get_mut("process").and_then(Value::as_array_mut);
    processes.context("no processes")?.push(edge.into());
    // Two drains have to fit.
    setup.set(&["drain", "timeout"], "10s")?;
    setup.set(&["shutdown", "grace_period"], "60s")
}

/// SIGTERM with a request in flight through both: each is drained for itself.
async fn each_drains_for_itself(admin: bool) -> Result<()> {
    let ports = [Port::reserve()?, Port::reserve()?];
    let [ingress, internal] = &ports;
    let mut world = World::start_with(EnvoyVersion::V1_40, |setup| {
        add_edge(setup, [ingress, internal], admin)
    })
    .await?;
    wait_attached(&mut world.gateway.client().await?, "edge", 2).await?;
    let mut connection = http1::Connection::open(ingress.address()).await?;
    let held = tokio::spawn(async move { connection.get("/hold").await });
    world.upstream.wait_held(1).await?;
    world.gateway.signal(Signal::TERM)?;
    world.gateway.in_state("edge", ProcessState::Draining).await?;
    let nodes = world.gateway.client().await?.nodes().await?;
    let router = nodes
        .iter()
        .find(|node| node.id == "router")
        .context("no router")?;
    for listener in &router.listeners {
        ensure!(
            listener.phase() == ebb_proto::v1::Phase::Unspecified,
            "the edge's drain has told the router to close: {router:?}"
        );
    }
    world.upstream.release_all();
    ensure!(held.await??.status == 200);
    ensure!(world.gateway.ended().await?.success());
    let log = world.gateway.log();
    for name in ["edge", "router"] {
        let drained = log
            .lines()
            .any(|line| line.contains("drained process=") && line.contains(&format!("\"{name}\"")));
        ensure!(drained, "{name}: {log}");
    }
    ensure!(
        !log.contains("timed out") && !log.contains("not in time"),
        "{log}"
    );
    Ok(())
}

#[tokio::test]
async fn two_envoys_are_drained_each_for_itself_by_what_their_admin_endpoints_say() -> Result<()> {
    each_drains_for_itself(true).await
}

#[tokio::test]
async fn two_envoys_without_admin_endpoints_are_drained_each_for_itself_by_name() -> Result<()> {
    each_drains_for_itself(false).await
}
