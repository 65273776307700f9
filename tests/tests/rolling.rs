//! Rolling restarts of two gateways behind a TCP load balancer, at full load.

use std::time::Duration;

use anyhow::{Result, ensure};
use ebb_e2e::{
    gateway::{Gateway, GatewayOptions},
    haproxy::{HaProxy, Server},
    load::{Load, Plan, Protocol, Tally},
    upstream::Upstream,
    world::folder,
};
use rustix::process::{Pid, Signal, kill_process};

const LINK: &str = env!("CARGO_BIN_EXE_ebb-link");

/// Long enough for the load balancer to ask `/ready` a few times.
const ANNOUNCE: Duration = Duration::from_millis(400);
const QUIET: Duration = Duration::from_millis(200);
/// Executor and upstream together, with room for a busy machine.
const LONGEST_REQUEST: Duration = Duration::from_millis(200);
/// What an ordered stop may take besides what it waits for.
const OVERHEAD: Duration = Duration::from_millis(300);

const RESTARTS: usize = 10;

struct Replicas {
    gateways: Vec<Gateway>,
    balancer: HaProxy,
    load: Load,
    _upstream: Upstream,
    _folders: Vec<tempfile::TempDir>,
}

async fn replicas() -> Result<Replicas> {
    let upstream = Upstream::start().await?;
    let (mut gateways, mut folders) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let folder = folder()?;
        let mut options = GatewayOptions::new(folder.path(), LINK);
        options.executor_takes = 20;
        options.policy = format!(
            "[drain]\nannounce = \"{}ms\"\nquiet_period = \"{}ms\"\ntimeout = \"15s\"\n",
            ANNOUNCE.as_millis(),
            QUIET.as_millis()
        );
        let mut gateway = Gateway::new(folder.path(), upstream.address(), options)?;
        gateway.start().await?;
        gateways.push(gateway);
        folders.push(folder);
    }
    let lb = folder()?;
    let servers: Vec<Server> = gateways
        .iter()
        .map(|gateway| Server {
            address: gateway.address(),
            health: gateway.health(),
        })
        .collect();
    let mut balancer = HaProxy::start(lb.path(), &servers)?;
    folders.push(lb);
    balancer.wait_up(2).await?;
    let load = Load::start(&[Plan {
        address: balancer.address(),
        protocol: Protocol::Http1,
        clients: 20,
        interval: Duration::from_millis(40),
        path: "/delay/10".to_owned(),
    }]);
    load.wait_for_requests(100).await?;
    Ok(Replicas {
        gateways,
        balancer,
        load,
        _upstream: upstream,
        _folders: folders,
    })
}

#[tokio::test]
async fn ten_rolling_restarts_fail_no_request_and_take_no_longer_than_they_must() -> Result<()> {
    let mut replicas = replicas().await?;
    let mut stops = Vec::new();
    for restart in 0..RESTARTS {
        let gateway = &mut replicas.gateways[restart % 2];
        stops.push(gateway.stop().await?);
        gateway.start().await?;
        replicas.balancer.wait_up(2).await?;
        replicas.load.wait_for_requests(40).await?;
        let tally = replicas.load.tally();
        ensure!(tally.failed() == 0, "after {} restarts: {tally:?}", restart + 1);
    }
    let tally: Tally = replicas.load.stop().await;
    eprintln!(
        "{RESTARTS} restarts, {} requests, {} failed, stops {stops:?}",
        tally.requests,
        tally.failed()
    );
    ensure!(tally.failed() == 0, "{tally:?}");
    stops.sort_unstable();
    let bound = ANNOUNCE + LONGEST_REQUEST + QUIET + OVERHEAD;
    ensure!(
        stops[stops.len() / 2] <= bound,
        "the median of {stops:?} is over {bound:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_plain_sigterm_to_envoy_fails_requests() -> Result<()> {
    let mut replicas = replicas().await?;
    for round in 0..RESTARTS {
        let gateway = &mut replicas.gateways[round % 2];
        let envoy = i32::try_from(gateway.pid_of("router").await?)?;
        kill_process(
            Pid::from_raw(envoy).ok_or_else(|| anyhow::anyhow!("no pid"))?,
            Signal::TERM,
        )?;
        // It is gone within milliseconds; what it leaves is not of interest here.
        gateway.kill_all().await?;
        gateway.start().await?;
        replicas.balancer.wait_up(2).await?;
        if replicas.load.tally().failed() > 0 {
            break;
        }
    }
    let tally = replicas.load.stop().await;
    ensure!(tally.failed() > 0, "the other test could not fail: {tally:?}");
    Ok(())
}
