//! From the call to the first closing response on every worker: Ebb by its filter, Ebb by Envoy's own lever, and that lever
//! alone.
//!
//! Connections are opened until every worker of Envoy has one; each sends one request after the other, and the time is that
//! of the last of them to be told to leave.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, bail, ensure};
use ebb_e2e::{
    admin,
    api::{Client, drain_of, proto},
    client::http1,
    envoy::{Envoy, EnvoyOptions},
    wait,
    world::World,
};
use ebb_proto::v1::{Policy, StartDrainRequest};
use futures::future::try_join_all;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};

use crate::{
    Mode,
    markdown::Table,
    progress::Progress,
    stats::{millis, percentile},
    timed::Timed,
};

const WORKERS: u32 = 2;
/// With so many connections every worker has one, or something is wrong.
const MOST_CONNECTIONS: usize = 64;
/// The bound of everything that takes milliseconds.
const BOUND: Duration = Duration::from_secs(20);

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Announcement {
    /// Number of Envoy's workers.
    pub workers: u32,
    /// From the call until every connection was told to leave, in milliseconds.
    pub ways: Vec<Timed>,
}

#[derive(Clone, Copy, Debug)]
enum Lever {
    /// A drain of one listener.
    Filter,
    /// A drain of the whole node.
    Node,
    /// No Ebb at all.
    Alone,
}

/// Measures.
///
/// # Errors
/// When a part does not start or does not do what it should.
pub async fn run(mode: Mode, progress: &Progress) -> Result<Announcement> {
    let rounds = mode.pick(300, 4);
    progress.say(format_args!("announcement: {rounds} rounds of three ways"));
    let options = EnvoyOptions {
        concurrency: WORKERS,
        show_log: false,
        ..EnvoyOptions::default()
    };
    let world = World::start_with(options, |ebb, folder| {
        ebb.state = Some(folder.join("state"));
        ebb.admins = vec![format!("unix:{}", folder.join("admin.sock").display())];
    })
    .await?;
    let mut client = world.client().await?;
    let ways = [
        (Lever::Filter, "Ebb, one listener: its filter"),
        (Lever::Node, "Ebb, the whole node: Envoy itself"),
        (Lever::Alone, "`POST /healthcheck/fail`, without Ebb"),
    ];
    let mut ways = ways.map(|(lever, name)| {
        let way = Timed {
            name: name.to_owned(),
            times: Vec::with_capacity(rounds),
        };
        (lever, way)
    });
    // In turns: what disturbs the machine disturbs all of them.
    for _ in 0..rounds {
        for (lever, way) in &mut ways {
            way.times.push(millis(round(&world, &mut client, *lever).await?));
        }
    }
    Ok(Announcement {
        workers: WORKERS,
        ways: ways.map(|(_, way)| way).into(),
    })
}

async fn round(world: &World, client: &mut Client, lever: Lever) -> Result<Duration> {
    let connections = on_every_worker(&world.envoy).await?;
    let (start, started) = watch::channel(());
    let told = connections
        .into_iter()
        .map(|connection| tokio::spawn(until_told(connection, started.clone())));
    let told: Vec<_> = told.collect();
    start.send_replace(());
    let began = Instant::now();
    let mut drain = None;
    match lever {
        Lever::Alone => health(&world.envoy, "/healthcheck/fail").await?,
        Lever::Filter => drain = Some(client.start(drain_for_ever(&["ingress"])).await?.id),
        Lever::Node => drain = Some(client.start(drain_for_ever(&[])).await?.id),
    }
    let told = try_join_all(told)
        .await?
        .into_iter()
        .collect::<Result<Vec<Instant>>>()?;
    let last = told.into_iter().max().unwrap_or(began);
    match drain {
        Some(id) => drop(client.cancel(&id).await?),
        None => health(&world.envoy, "/healthcheck/ok").await?,
    }
    serves(world.ingress()?).await?;
    Ok(last.saturating_duration_since(began))
}

/// A drain that goes on until it is cancelled: what it waits for is of no interest here.
fn drain_for_ever(listeners: &[&str]) -> StartDrainRequest {
    StartDrainRequest {
        policy: Some(Policy {
            timeout: Some(proto(BOUND)),
            ..Policy::default()
        }),
        ..drain_of(listeners)
    }
}

async fn health(envoy: &Envoy, path: &str) -> Result<()> {
    let (status, text) = admin::request(envoy.admin_socket(), Method::POST, path).await?;
    ensure!(
        status == StatusCode::OK,
        "{path} was answered with {status}: {text}"
    );
    Ok(())
}

/// Connections that have had an answer, at least one on each worker.
async fn on_every_worker(envoy: &Envoy) -> Result<Vec<http1::Connection>> {
    let address = envoy.address("ingress")?;
    let mut connections = Vec::new();
    while connections.len() < MOST_CONNECTIONS {
        let mut connection = http1::Connection::open(address).await?;
        let answer = connection.get("/").await?;
        ensure!(
            !answer.says_close(),
            "an Envoy that serves has closed a connection"
        );
        connections.push(connection);
        if connections.len() >= WORKERS as usize && busy_workers(envoy).await? == WORKERS as usize {
            return Ok(connections);
        }
    }
    bail!("a worker of Envoy has none of {MOST_CONNECTIONS} connections")
}

/// Workers with a connection to `ingress`.
async fn busy_workers(envoy: &Envoy) -> Result<usize> {
    let path = r"/stats?filter=^listener\.ingress\.worker_\d+\.downstream_cx_active$&type=Gauges";
    let (_, text) = admin::request(envoy.admin_socket(), Method::GET, path).await?;
    Ok(text.lines().filter(|line| !line.ends_with(": 0")).count())
}

/// When a connection was told to leave.
async fn until_told(mut connection: http1::Connection, mut start: watch::Receiver<()>) -> Result<Instant> {
    start.changed().await?;
    wait::within("the connection is told to leave", BOUND, async {
        loop {
            let response = connection.get("/").await?;
            if response.says_close() {
                return Ok(Instant::now());
            }
        }
    })
    .await?
}

/// Waits until new connections may stay, and old ones are gone.
async fn serves(address: SocketAddr) -> Result<()> {
    wait::until("the listener serves as before", BOUND, || async {
        let response = http1::Connection::open(address).await?.get("/").await?;
        Ok(!response.says_close())
    })
    .await
}

impl Announcement {
    /// As a section of Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut table = Table::new(&["way", "rounds", "p50, ms", "p99, ms", "max, ms"]);
        for way in &self.ways {
            table.row(&way.cells(2));
        }
        let verdict = |way: &Timed| percentile(&way.times, 99.0).is_some_and(|p99| p99 <= 5.0);
        let met = match self.ways.iter().take(2).filter(|way| verdict(way)).count() {
            2 => "met by both of Ebb's ways",
            1 => "met by one of Ebb's ways",
            _ => "missed",
        };
        format!(
            "## Announcement\n\nFrom the call until the first closing response has arrived on every one of {} workers, each \
             with at least one client that sends one request after the other. Goal: 5 ms at the 99th percentile; {met}. Ebb's \
             drains are stored before any filter hears of them.\n\n{}",
            self.workers,
            table.finish()
        )
    }
}
