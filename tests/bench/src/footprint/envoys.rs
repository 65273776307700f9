//! Envoys with and without the filter: memory per worker, and the time to start.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    admin,
    bootstrap::Bootstrap,
    client::http1,
    ebb::{Ebb, EbbOptions},
    envoy::{EnvoyOptions, Starting},
    upstream::Upstream,
    wait, world,
};
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Mode, proc, progress::Progress, stats::millis};

/// Numbers of workers. The difference of two gives what each costs.
pub(super) const WORKERS: [u32; 2] = [1, 4];

const LISTENERS: [&str; 2] = ["ingress", "internal"];

/// Between two looks at an Envoy that starts: what its start time is exact to.
const TRY_EVERY: Duration = Duration::from_millis(1);

/// Connections to each listener, enough that every worker gets some.
const CONNECTIONS: usize = 24;

/// What stands first in both listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Nothing.
    None,
    /// The closer alone: Lua, entered for marked responses only.
    Lua,
    /// The filter and, in `ingress`, the closer, as shipped.
    Ebb,
}

impl Way {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 3] = [Self::None, Self::Lua, Self::Ebb];

    fn edit(self) -> fn(&mut Bootstrap) -> Result<()> {
        match self {
            Self::None => |bootstrap| keep(bootstrap, &[]),
            Self::Lua => |bootstrap| keep(bootstrap, &["ebb_closer"]),
            Self::Ebb => |_| Ok(()),
        }
    }
}

/// Keeps just these filters, and the router.
fn keep(bootstrap: &mut Bootstrap, names: &[&str]) -> Result<()> {
    for listener in LISTENERS {
        bootstrap.http_filters_mut(listener)?.retain(|filter| {
            let name = filter.get("name").and_then(Value::as_str).unwrap_or_default();
            name == "envoy.filters.http.router" || names.contains(&name)
        });
    }
    Ok(())
}

/// One Envoy, started, looked at and killed. Memory is in bytes and shared with nobody, time in milliseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct EnvoyRound {
    /// What stands first in both listeners.
    pub way: Way,
    /// Worker threads.
    pub workers: u32,
    /// From Envoy's start until it is ready.
    pub ready: f64,
    /// Once it is ready and every VM has attached.
    pub memory: u64,
    /// After some requests on every worker.
    pub memory_used: u64,
    /// Requests that were answered with 200.
    pub requests: u64,
}

pub(super) async fn run(mode: Mode, progress: &Progress) -> Result<Vec<EnvoyRound>> {
    let rounds = mode.pick(5, 1);
    let folder = world::folder()?;
    let mut options = EbbOptions::in_folder(folder.path());
    options.show_log = false;
    let ebb = Ebb::start(options).await?;
    let upstream = Upstream::start().await?;
    let mut figures = Vec::new();
    for round in 0..rounds {
        progress.say(format!("footprint: Envoys, round {} of {rounds}", round + 1));
        // In turns, so that what else the machine does hits all alike.
        for workers in WORKERS {
            for way in Way::ALL {
                let place = Place {
                    way,
                    workers,
                    settle: mode.pick(Duration::from_secs(1), Duration::from_millis(100)),
                    requests: mode.pick(100, 10),
                };
                let figure = place.measure(&ebb, upstream.address()).await;
                figures.push(figure.with_context(|| format!("{way:?} with {workers} workers"))?);
            }
        }
    }
    Ok(figures)
}

struct Place {
    way: Way,
    workers: u32,
    settle: Duration,
    requests: usize,
}

impl Place {
    async fn measure(&self, ebb: &Ebb, upstream: SocketAddr) -> Result<EnvoyRound> {
        let folder = world::folder()?;
        let node = format!("{:?}-{}-{}", self.way, self.workers, fastrand::u32(..)).to_lowercase();
        let options = EnvoyOptions {
            concurrency: self.workers,
            node_id: node.clone(),
            edit: self.way.edit(),
            show_log: false,
            ..EnvoyOptions::default()
        };
        let start = Instant::now();
        let starting = Starting::spawn(&options, folder.path(), ebb.socket(), upstream)?;
        ready(&folder.path().join("admin.sock")).await?;
        let ready = start.elapsed();
        let mut envoy = starting.ready().await?;
        if self.way == Way::Ebb {
            world::wait_attached(&mut ebb.client().await?, &node, self.workers).await?;
        }
        tokio::time::sleep(self.settle).await;
        let pid = envoy.process().pid().context("Envoy has ended")?;
        let memory = proc::private_memory(pid)?;
        let mut requests = 0;
        for listener in LISTENERS {
            let address = envoy.address(listener)?;
            let mut connections = Vec::new();
            for _ in 0..CONNECTIONS {
                connections.push(http1::Connection::open(address).await?);
            }
            for connection in &mut connections {
                for _ in 0..self.requests {
                    let response = connection.get("/").await?;
                    ensure!(
                        response.status == StatusCode::OK,
                        "a request was answered {}",
                        response.status
                    );
                    requests += 1;
                }
            }
        }
        tokio::time::sleep(self.settle).await;
        Ok(EnvoyRound {
            way: self.way,
            workers: self.workers,
            ready: millis(ready),
            memory,
            memory_used: proc::private_memory(pid)?,
            requests,
        })
    }
}

async fn ready(socket: &Path) -> Result<()> {
    let asking = async {
        while !matches!(
            admin::request(socket, Method::GET, "/ready").await,
            Ok((StatusCode::OK, _))
        ) {
            tokio::time::sleep(TRY_EVERY).await;
        }
    };
    wait::within("Envoy is ready", 3 * wait::PATIENCE, asking).await
}
