//! Rolling restarts of two gateways behind a TCP load balancer, at full load.
//!
//! Clients wait for an answer and then ask again, over HTTP/1.1 and HTTP/2. Neither they nor the load balancer try anything
//! twice. One replica's health is Ebb's `/ready`, the other's is Envoy's.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use ebb_e2e::{
    bins::EnvoyVersion,
    gateway::{
        Gateway,
        plain::Plain,
        setup::{Setup, Takes},
    },
    haproxy::{CHECK_EVERY, HaProxy, Server},
    load::{Load, Plan, Protocol, Tally},
    upstream::Upstream,
    world::folder,
};
use tempfile::TempDir;

use crate::world::setup;

const RESTARTS: usize = 10;
/// Long enough for the load balancer to ask a few times.
const ANNOUNCE: Duration = CHECK_EVERY.saturating_mul(5);
const QUIET_PERIOD: Duration = Duration::from_millis(200);
/// What a stop may take besides what it waits for.
const OVERHEAD: Duration = Duration::from_millis(300);
/// Stops that a busy machine may make late.
const LATE: usize = 1;
/// Requests between two restarts.
const BETWEEN: u64 = 200;

const TAKES: Takes = Takes {
    shortest: Duration::from_millis(1),
    short: Duration::from_millis(40),
    long: Duration::from_millis(300),
    long_one_of: 40,
};

/// The upstream, the folders of both replicas, and what they need besides.
struct Site {
    upstream: Upstream,
    folders: [TempDir; 3],
}

impl Site {
    async fn new() -> Result<Self> {
        Ok(Self {
            upstream: Upstream::start().await?,
            folders: [folder()?, folder()?, folder()?],
        })
    }

    fn setups(&self) -> Result<[Setup; 2]> {
        let replica = |folder: &TempDir| {
            let mut setup = setup(folder.path(), EnvoyVersion::V1_40, &self.upstream)?;
            setup.set(&["drain", "announce"], format!("{}ms", ANNOUNCE.as_millis()))?;
            setup.set(
                &["drain", "quiet_period"],
                format!("{}ms", QUIET_PERIOD.as_millis()),
            )?;
            setup.executor_takes(TAKES)?;
            anyhow::Ok(setup)
        };
        let [first, second, _] = &self.folders;
        Ok([replica(first)?, replica(second)?])
    }

    async fn load(&self, servers: [Server; 2]) -> Result<(HaProxy, Load)> {
        let mut balancer = HaProxy::start(self.folders[2].path(), &servers)?;
        balancer.wait_up(2).await?;
        let plan = |protocol, clients| Plan {
            address: balancer.address(),
            protocol,
            clients,
            // Whoever has its answer asks again.
            interval: Duration::ZERO,
            path: "/delay/2".to_owned(),
        };
        let load = Load::start(&[plan(Protocol::Http1, 24), plan(Protocol::Http2, 8)]);
        load.wait_for_requests(BETWEEN).await?;
        Ok((balancer, load))
    }
}

fn server(setup: &Setup, health: SocketAddr) -> Server {
    Server {
        address: setup.ingress(),
        health,
    }
}

/// What is asked of a stop is announce + longest request + quiet period + [`OVERHEAD`], all of it included. The test asks
/// for that of the median, and of the single stop a little less, for two reasons that are not Ebb's:
///
/// - The time that the processes took to end once they were told to is taken off each stop: it is theirs (an Envoy that
///   joins its workers, a Python interpreter that shuts down), and can be seconds on a machine whose cores are all taken.
/// - One stop of ten may be late even so. Two gateways, a load balancer and 32 clients are more than a small machine has
///   cores, and whoever is not scheduled for 300 ms has used up [`OVERHEAD`] without doing anything.
///
/// Neither hides a stop that waits for what it need not: that would be late every time, and so by the median too.
#[tokio::test]
async fn ten_rolling_restarts_fail_no_request_and_wait_no_longer_than_they_must() -> Result<()> {
    let site = Site::new().await?;
    let [by_ebb, mut by_envoy] = site.setups()?;
    let admin = by_envoy.admin_on_port()?;
    let servers = [server(&by_ebb, by_ebb.health()), server(&by_envoy, admin)];
    let mut replicas = [Gateway::start(by_ebb).await?, Gateway::start(by_envoy).await?];
    let (mut balancer, load) = site.load(servers).await?;
    println!("announce {ANNOUNCE:?}, quiet period {QUIET_PERIOD:?}");
    println!(
        "{:>4} {:>9} {:>26} {:>15} {:>9}",
        "stop", "took", "of that processes' ends", "longest request", "bound"
    );
    let (mut late, mut spare) = (Vec::new(), Vec::new());
    for restart in 1..=RESTARTS {
        let replica = &mut replicas[restart % 2];
        let _ = load.take_longest();
        let stop = replica.stop().await?;
        let longest = load.take_longest();
        let bound = ANNOUNCE + longest + QUIET_PERIOD + OVERHEAD;
        let [took, ends, long, most] = [stop.took, stop.ends(), longest, bound].map(|time| time.as_millis());
        println!("{restart:>4} {took:>6} ms {ends:>23} ms {long:>12} ms {most:>6} ms");
        if stop.took > bound + stop.ends() {
            late.push(format!("stop {restart}: {:#?}", stop.events));
        }
        spare.push(bound.as_secs_f64() - stop.took.as_secs_f64());
        replica.restart().await?;
        balancer.wait_up(2).await?;
        load.wait_for_requests(BETWEEN).await?;
        let tally = load.tally();
        ensure!(tally.failed() == 0, "after {restart} restarts: {tally:?}");
    }
    let tally = load.stop().await;
    println!("{}", in_words(&tally));
    ensure!(tally.failed() == 0, "{tally:?}");
    ensure!(tally.told_to_leave > 0, "nobody was told to leave: {tally:?}");
    ensure!(
        late.len() <= LATE,
        "waited for more than it had to: {}",
        late.join("\n")
    );
    spare.sort_by(f64::total_cmp);
    ensure!(
        spare[RESTARTS / 2] >= 0.0,
        "over the bound by the median: {spare:?}"
    );
    Ok(())
}

#[tokio::test]
async fn the_same_with_a_plain_sigterm_fails_requests() -> Result<()> {
    let site = Site::new().await?;
    let [first, second] = site.setups()?;
    let mut replicas = [Plain::start(first).await?, Plain::start(second).await?];
    let servers = [0, 1].map(|number: usize| server(replicas[number].setup(), replicas[number].health()));
    let (mut balancer, load) = site.load(servers).await?;
    for restart in 0..RESTARTS {
        let replica = &mut replicas[restart % 2];
        replica.terminate().await?;
        replica.restart().await?;
        balancer.wait_up(2).await?;
        load.wait_for_requests(BETWEEN).await?;
    }
    let tally = load.stop().await;
    println!("{}", in_words(&tally));
    ensure!(tally.failed() > 0, "the other test could not fail: {tally:?}");
    Ok(())
}

fn in_words(tally: &Tally) -> String {
    let kinds = tally
        .failures
        .iter()
        .map(|(failure, number)| format!("{number} {failure}"));
    format!(
        "{RESTARTS} restarts, {} requests over {} connections ({} told to leave), {} failed [{}]",
        tally.requests,
        tally.connections,
        tally.told_to_leave,
        tally.failed(),
        kinds.collect::<Vec<_>>().join(", ")
    )
}
