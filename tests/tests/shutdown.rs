//! The ordered shutdown of a real gateway: nothing that a request still needs ends before the request does.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use ebb_e2e::{
    admin,
    bins::EnvoyVersion,
    cli,
    client::{Failure, http1},
    gateway::{Gateway, GatewayOptions, logged},
    load::{Load, Plan, Protocol},
    on_both_envoys,
    upstream::Upstream,
    wait,
    world::folder,
};
use hyper::Method;
use rustix::process::Signal;
use tokio::net::{TcpStream, UnixListener};

const LINK: &str = env!("CARGO_BIN_EXE_ebb-link");

/// The text of the log from the beginning of the shutdown on.
fn shutdown_log(gateway: &Gateway) -> String {
    let log = gateway.log();
    log.find("shutting down: ")
        .and_then(|at| log.get(at..))
        .unwrap_or_default()
        .to_owned()
}

/// That these texts are in the log, in this order.
fn in_order(log: &str, texts: &[&str]) -> Result<()> {
    let mut rest = log;
    for text in texts {
        let at = rest.find(text);
        let at = at.ok_or_else(|| anyhow::anyhow!("no {text:?} where it should be in\n{log}"))?;
        rest = rest.get(at + text.len()..).unwrap_or_default();
    }
    Ok(())
}

async fn a_request_in_flight_completes_and_new_connections_are_refused_before_anything_else_is_stopped(
    version: EnvoyVersion,
) -> Result<()> {
    let folder = folder()?;
    let upstream = Upstream::start().await?;
    let mut options = GatewayOptions::new(folder.path(), LINK);
    options.version = version;
    let mut gateway = Gateway::new(folder.path(), upstream.address(), options)?;
    gateway.start().await?;
    let mut connection = http1::Connection::open(gateway.address()).await?;
    let held = tokio::spawn(async move { connection.get("/hold").await });
    upstream.wait_held(1).await?;

    gateway.signal(Signal::TERM)?;
    wait::until("/ready fails", wait::PATIENCE, || async {
        Ok(gateway.ready().await?.is_some_and(|status| status == 503))
    })
    .await?;
    logged(&gateway, "draining").await?;
    wait::until("Envoy fails its own health checks", wait::PATIENCE, || async {
        let ready = admin::request(&folder.path().join("admin.sock"), Method::GET, "/ready").await?;
        Ok(ready.0 == 503)
    })
    .await?;
    // It still serves, and tells clients to leave.
    let response = http1::Connection::open(gateway.address()).await?.get("/").await?;
    ensure!(response.status == 200 && response.says_close(), "{response:?}");
    let waiting = shutdown_log(&gateway);
    ensure!(
        !waiting.contains("sent SIGTERM"),
        "a request is in flight: {waiting}"
    );

    upstream.release_all();
    let response = held.await??;
    ensure!(response.status == 200, "{response:?}");
    let status = gateway.exit().await?;
    ensure!(status.success(), "{status}");
    ensure!(TcpStream::connect(gateway.address()).await.is_err());
    in_order(
        &shutdown_log(&gateway),
        &[
            "draining process=\"router\"",
            "drained process=\"router\"",
            "accepts no more connections process=\"router\"",
            "sent SIGTERM process=\"router\"",
            "exited with code 0 process=\"router\"",
            "sent SIGTERM process=\"policy-engine\"",
            "exited with code 0 process=\"policy-engine\"",
            "sent SIGTERM process=\"executor\"",
            "all stopped, exit code 0",
        ],
    )?;
    let journal = gateway.journal()?;
    let told = [
        "policy-engine term in_flight=0 before_alive=false",
        "executor term in_flight=0 before_alive=false",
    ];
    ensure!(
        journal.ends_with(&told.map(str::to_owned)),
        "what Envoy needs outlives Envoy: {journal:?}"
    );
    Ok(())
}

async fn closed_listeners_let_the_last_request_end(version: EnvoyVersion) -> Result<()> {
    let folder = folder()?;
    let upstream = Upstream::start().await?;
    let mut options = GatewayOptions::new(folder.path(), LINK);
    options.version = version;
    // The drain ends as soon as nothing is in flight for an instant; what comes then is the last request's problem.
    options.policy = "[drain]\nquiet_period = \"1s\"\ntimeout = \"15s\"\n".to_owned();
    let mut gateway = Gateway::new(folder.path(), upstream.address(), options)?;
    gateway.start().await?;
    // Idle connections are never told (Envoy sends nothing without a response): one of them speaks up after all.
    let mut late = http1::Connection::open(gateway.address()).await?;
    ensure!(late.get("/").await?.status == 200);
    gateway.signal(Signal::TERM)?;
    logged(&gateway, "accepts no more connections").await?;
    let refused = http1::Connection::open(gateway.address()).await;
    ensure!(
        matches!(refused, Err(Failure::Connect)),
        "new connections are refused"
    );
    let log = shutdown_log(&gateway);
    ensure!(!log.contains("sent SIGTERM"), "nothing is stopped yet: {log}");
    let held = tokio::spawn(async move { late.get("/hold").await });
    upstream.wait_held(1).await?;
    // Longer than the quiet period: only its count keeps the gateway alive.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    upstream.release_all();
    let response = held.await??;
    ensure!(response.status == 200, "{response:?}");
    ensure!(gateway.exit().await?.success());
    Ok(())
}

on_both_envoys!(
    a_request_in_flight_completes_and_new_connections_are_refused_before_anything_else_is_stopped,
    closed_listeners_let_the_last_request_end,
);

#[tokio::test]
async fn a_gate_holds_what_the_order_does_not() -> Result<()> {
    let folder = folder()?;
    let upstream = Upstream::start().await?;
    let options = GatewayOptions {
        chained: false,
        executor_takes: 1500,
        ..GatewayOptions::new(folder.path(), LINK)
    };
    let mut gateway = Gateway::new(folder.path(), upstream.address(), options)?;
    gateway.start().await?;
    let mut connection = http1::Connection::open(gateway.address()).await?;
    let asked = tokio::spawn(async move { connection.get("/").await });
    let admin = folder.path().join("admin.sock");
    wait::until("Envoy asks the policy engine", wait::PATIENCE, || async {
        let path = "/stats?filter=cluster.policy.upstream_rq_active";
        Ok(admin::request(&admin, Method::GET, path).await?.1.contains(": 1"))
    })
    .await?;
    gateway.signal(Signal::TERM)?;
    let response = asked.await??;
    ensure!(response.status == 200, "{response:?}");
    ensure!(gateway.exit().await?.success());
    in_order(
        &shutdown_log(&gateway),
        &[
            "nothing in flight towards it process=\"policy-engine\"",
            "sent SIGTERM process=\"policy-engine\"",
            "sent SIGTERM process=\"executor\"",
        ],
    )?;
    ensure!(
        gateway
            .journal()?
            .iter()
            .any(|line| line.starts_with("policy-engine term in_flight=0"))
    );
    Ok(())
}

#[tokio::test]
async fn without_an_admin_endpoint_the_drain_works_through_the_filter() -> Result<()> {
    let folder = folder()?;
    let upstream = Upstream::start().await?;
    let options = GatewayOptions {
        admin: None,
        ..GatewayOptions::new(folder.path(), LINK)
    };
    let mut gateway = Gateway::new(folder.path(), upstream.address(), options)?;
    gateway.start().await?;
    let mut connection = http1::Connection::open(gateway.address()).await?;
    let held = tokio::spawn(async move { connection.get("/hold").await });
    upstream.wait_held(1).await?;
    gateway.signal(Signal::TERM)?;
    logged(&gateway, "draining").await?;
    upstream.release_all();
    ensure!(held.await??.status == 200);
    ensure!(gateway.exit().await?.success());
    let log = shutdown_log(&gateway);
    in_order(
        &log,
        &[
            "drained process=\"router\"",
            "sent SIGTERM process=\"router\"",
            "sent SIGTERM process=\"policy",
        ],
    )?;
    ensure!(!log.contains("WARN"), "{log}");
    Ok(())
}

#[tokio::test]
async fn an_admin_endpoint_that_hangs_holds_nothing_up() -> Result<()> {
    let folder = folder()?;
    let upstream = Upstream::start().await?;
    let hangs: PathBuf = folder.path().join("hangs.sock");
    let _listener = UnixListener::bind(&hangs)?;
    let options = GatewayOptions {
        admin: Some(hangs),
        ..GatewayOptions::new(folder.path(), LINK)
    };
    let mut gateway = Gateway::new(folder.path(), upstream.address(), options)?;
    gateway.start().await?;
    gateway.stop().await?;
    let log = shutdown_log(&gateway);
    in_order(
        &log,
        &[
            "drained process=\"router\"",
            "still accepts connections: admin: unix:",
            "did not answer within 1s",
            "sent SIGTERM process=\"router\"",
        ],
    )?;
    ensure!(
        !log.contains("not in time"),
        "its calls have bounds of their own: {log}"
    );
    Ok(())
}

#[tokio::test]
async fn a_shutdown_in_the_middle_of_a_drain_goes_on_with_it_and_the_next_run_serves() -> Result<()> {
    let folder = folder()?;
    let upstream = Upstream::start().await?;
    let mut gateway = Gateway::new(
        folder.path(),
        upstream.address(),
        GatewayOptions::new(folder.path(), LINK),
    )?;
    gateway.start().await?;
    let drained = cli::start(&gateway.socket(), &["drain", "--listener", "ingress"])?
        .output()
        .await?;
    ensure!(drained.code == Some(0), "{drained:?}");
    ensure!(
        gateway.ready().await?.is_some_and(|status| status == 503),
        "a drain is no time to send traffic"
    );
    gateway.stop().await?;
    // What the shutdown held is released; what the operator started is the operator's.
    gateway.start_unready().await?;
    let drains = cli::start(&gateway.socket(), &["status", "-o", "json"])?
        .output()
        .await?;
    let status: serde_json::Value = serde_json::from_str(&drains.stdout)?;
    let held: Vec<&str> = status["drains"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|drain| drain["holding"] == true)
        .filter_map(|drain| drain["id"].as_str())
        .collect();
    ensure!(held.iter().all(|id| !id.starts_with("shutdown-")), "{status}");
    Ok(())
}

#[tokio::test]
async fn a_run_that_was_killed_in_its_shutdown_does_not_keep_the_next_from_serving() -> Result<()> {
    let folder = folder()?;
    let upstream = Upstream::start().await?;
    let mut gateway = Gateway::new(
        folder.path(),
        upstream.address(),
        GatewayOptions::new(folder.path(), LINK),
    )?;
    gateway.start().await?;
    let mut connection = http1::Connection::open(gateway.address()).await?;
    let held = tokio::spawn(async move { connection.get("/hold").await });
    upstream.wait_held(1).await?;
    gateway.signal(Signal::TERM)?;
    logged(&gateway, "phase=\"PHASE_DRAINING\"").await?;
    gateway.kill_all().await?;
    held.abort();
    gateway.start().await?;
    let response = http1::Connection::open(gateway.address()).await?.get("/").await?;
    ensure!(response.status == 200 && !response.says_close(), "{response:?}");
    gateway.stop().await?;
    Ok(())
}

#[tokio::test]
async fn under_load_no_request_fails_until_clients_are_refused() -> Result<()> {
    let folder = folder()?;
    let upstream = Upstream::start().await?;
    let mut options = GatewayOptions::new(folder.path(), LINK);
    options.executor_takes = 20;
    let mut gateway = Gateway::new(folder.path(), upstream.address(), options)?;
    gateway.start().await?;
    let plan = |protocol| Plan {
        address: gateway.address(),
        protocol,
        clients: 5,
        interval: Duration::from_millis(20),
        path: "/delay/10".to_owned(),
    };
    let load = Load::start(&[plan(Protocol::Http1), plan(Protocol::Http2)]);
    load.wait_for_requests(200).await?;
    gateway.signal(Signal::TERM)?;
    logged(&gateway, "draining").await?;
    // Without a load balancer clients come back at once, and would for ever: they stop, as if it had heard.
    load.wait_for_requests(50).await?;
    let tally = load.stop().await;
    ensure!(tally.failed() == 0, "{tally:?}");
    ensure!(tally.told_to_leave > 0, "{tally:?}");
    ensure!(gateway.exit().await?.success());
    Ok(())
}
