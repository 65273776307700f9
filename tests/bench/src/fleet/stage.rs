//! One control plane with its filters.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    api::{Client, proto},
    ebb::{Ebb, EbbOptions},
    wait,
};
use ebb_proto::v1::{
    Node, Phase, Policy, ReporterState, StartDrainRequest, WatchDrainResponse, WatchNodesRequest,
};
use tonic::Streaming;

use super::{
    figures::{Attach, DrainRound, Idle, Load, Storm},
    swarm::{Layout, Swarm},
};
use crate::{
    proc,
    stats::{millis, percentile},
};

/// How long anything may take before it counts as not done at all.
const BOUND: Duration = Duration::from_secs(60);

/// How often the counters are looked at; they have the times themselves.
const LOOK_EVERY: Duration = Duration::from_millis(5);

pub(super) struct Stage {
    // Dropped in this order: filters that lose their control plane would only spin.
    swarm: Option<Swarm>,
    ebb: Option<Ebb>,
    client: Client,
    streams: u64,
    _folder: tempfile::TempDir,
}

impl Stage {
    /// A control plane with a durable store and nobody attached.
    pub(super) async fn start() -> Result<Self> {
        let folder = ebb_e2e::world::folder()?;
        let mut options = EbbOptions::in_folder(folder.path());
        options.state = Some(folder.path().join("state"));
        options.show_log = false;
        let ebb = Ebb::start(options).await?;
        let client = ebb.client().await?;
        Ok(Self {
            swarm: None,
            ebb: Some(ebb),
            client,
            streams: 0,
            _folder: folder,
        })
    }

    fn pid(&self) -> Result<u32> {
        let ebb = self.ebb.as_ref().context("there is no control plane")?;
        ebb.pid().context("the control plane has ended")
    }

    fn swarm(&self) -> Result<&Swarm> {
        self.swarm.as_ref().context("there are no filters")
    }

    /// Private memory of the control plane, in bytes.
    pub(super) fn memory(&self) -> Result<u64> {
        proc::private_memory(self.pid()?)
    }

    /// Starts all filters at once and waits until they are attached.
    pub(super) async fn attach(&mut self, layout: Layout) -> Result<Attach> {
        let ebb = self.ebb.as_ref().context("there is no control plane")?;
        let start = Instant::now();
        let swarm = self.swarm.insert(Swarm::start(ebb.socket(), layout)?);
        self.streams = layout.streams as u64;
        until_attached(swarm, self.streams).await?;
        let attached = swarm.board.attached_after(start);
        let mut views = self
            .client
            .fleet_service
            .watch_nodes(WatchNodesRequest {})
            .await?
            .into_inner();
        let all = self.streams;
        let live = async {
            while let Some(view) = views.message().await? {
                if live(&view.nodes) >= all {
                    return Ok(());
                }
            }
            anyhow::bail!("the views of the fleet have ended")
        };
        wait::within("every filter is shown as live", BOUND, live).await??;
        let shown = start.elapsed();
        drop(views);
        let (start, nodes) = (Instant::now(), self.client.nodes().await?);
        Ok(Attach {
            attached: millis(attached),
            shown: millis(shown),
            listing: millis(start.elapsed()),
            listed: self::live(&nodes),
            refused: swarm.board.counters().refused,
        })
    }

    /// What the control plane needs while nothing happens.
    pub(super) async fn idle(&self, time: Duration) -> Result<Idle> {
        idle(self.pid()?, self.swarm()?, time).await
    }

    /// A drain of everything with a request in flight on every filter, from its start to its release. With `load` the requests
    /// go on for so long once everybody has been told.
    pub(super) async fn drain(&mut self, load: Option<Duration>) -> Result<(DrainRound, Option<Load>)> {
        let pid = self.pid()?;
        let swarm = self.swarm.as_ref().context("there are no filters")?;
        let board = &swarm.board;
        swarm.hold(true);
        board.forget_told();
        let before = board.counters();
        let start = Instant::now();
        let id = self.client.start(drain_request()).await?.id;
        let answered = start.elapsed();
        let mut events = self.client.watch(&id).await?;
        let told = until_told(swarm, self.streams, start).await?;
        let load = match load {
            None => None,
            Some(time) => {
                // The views that a watcher gets are part of it.
                let mut watching = tokio::spawn(until_drained(events));
                let idle = idle(pid, swarm, time).await?;
                ensure!(!watching.is_finished(), "a drain ended with requests in flight");
                watching.abort();
                let _ = (&mut watching).await;
                events = self.client.watch(&id).await?;
                Some(Load {
                    millis: idle.millis,
                    reports: idle.reports,
                    cpu: idle.cpu,
                })
            }
        };
        let release = Instant::now();
        swarm.hold(false);
        until_drained(events).await?;
        let end = Instant::now();
        let last_answer = board.answered_after(release);
        let after = board.counters();
        self.client.cancel(&id).await?;
        until(BOUND, "every filter serves again", || {
            board.counters().draining == 0
        })
        .await?;
        let told: Vec<f64> = told.into_iter().map(millis).collect();
        let of_told = |percent| percentile(&told, percent).context("nobody was told");
        let round = DrainRound {
            told: told.len() as u64,
            told_p50: of_told(50.0)?,
            told_p99: of_told(99.0)?,
            told_max: of_told(100.0)?,
            answered: millis(answered),
            drained: millis(end - release),
            after_last_answer: millis((end - release).saturating_sub(last_answer)),
            commands: after.commands - before.commands,
            reports: after.reports - before.reports,
        };
        Ok((round, load))
    }

    /// Kills the control plane while a drain waits, starts it again, and waits until everybody is back; then nothing may
    /// happen for `calm`, and the drain ends.
    pub(super) async fn storm(&mut self, calm: Duration) -> Result<Storm> {
        let swarm = self.swarm.as_ref().context("there are no filters")?;
        let board = &swarm.board;
        swarm.hold(true);
        board.forget_told();
        let start = Instant::now();
        let id = self.client.start(drain_request()).await?.id;
        until_told(swarm, self.streams, start).await?;
        let before = board.counters();
        let options = self
            .ebb
            .take()
            .context("there is no control plane")?
            .kill()
            .await?;
        until(BOUND, "every filter has lost its stream", || {
            board.counters().attached == 0
        })
        .await?;
        board.forget_told();
        let start = Instant::now();
        let ebb = self.ebb.insert(Ebb::start(options).await?);
        let up = start.elapsed();
        self.client = ebb.client().await?;
        until_attached(swarm, self.streams).await?;
        let told = until_told(swarm, self.streams, start).await?;
        let back = board
            .attached_after(start)
            .max(told.iter().copied().max().unwrap_or_default());
        let then = board.counters();
        tokio::time::sleep(calm).await;
        let unsettled = board.counters().lost - then.lost;
        let phase = self.client.drain(&id).await?.phase();
        ensure!(
            phase == Phase::Draining,
            "after the restart a drain of requests in flight is {}",
            phase.as_str_name()
        );
        let events = self.client.watch(&id).await?;
        let release = Instant::now();
        swarm.hold(false);
        until_drained(events).await?;
        Ok(Storm {
            up: millis(up),
            back: millis(back),
            told: told.len() as u64,
            refused: then.refused - before.refused,
            extra: (then.opened - before.opened).saturating_sub(self.streams),
            unsettled,
            drained: millis(release.elapsed()),
        })
    }
}

/// A drain of everything that ends at once when nothing is in flight, and never by itself before.
fn drain_request() -> StartDrainRequest {
    StartDrainRequest {
        policy: Some(Policy {
            quiet_period: Some(proto(Duration::ZERO)),
            timeout: Some(proto(2 * BOUND)),
            // The clients of simulated filters are nowhere to be seen.
            linger: Some(proto(Duration::ZERO)),
            ..Policy::default()
        }),
        ..StartDrainRequest::default()
    }
}

fn live(nodes: &[Node]) -> u64 {
    let reporters = nodes.iter().flat_map(|node| &node.reporters);
    reporters
        .filter(|reporter| reporter.state() == ReporterState::Live)
        .count() as u64
}

async fn until_drained(mut events: Streaming<WatchDrainResponse>) -> Result<()> {
    let drained = async {
        while let Some(event) = events.message().await? {
            let drain = event.drain.unwrap_or_default();
            match drain.phase() {
                Phase::Drained => return Ok(()),
                Phase::TimedOut | Phase::Cancelled => {
                    anyhow::bail!("a drain ended as {}", drain.phase().as_str_name())
                }
                _ => {}
            }
        }
        anyhow::bail!("the events of a drain ended before it did")
    };
    wait::within("the drain ends", BOUND, drained).await?
}

async fn until_told(swarm: &Swarm, all: u64, start: Instant) -> Result<Vec<Duration>> {
    let told = || swarm.board.told_after(start);
    until(BOUND, "every filter is told", || told().len() as u64 >= all).await?;
    Ok(told())
}

pub(super) async fn until_attached(swarm: &Swarm, all: u64) -> Result<()> {
    let attached = || swarm.board.counters().attached >= all;
    until(BOUND, "every filter is attached", attached).await
}

/// CPU and reports of a while.
pub(super) async fn idle(pid: u32, swarm: &Swarm, time: Duration) -> Result<Idle> {
    let (start, cpu, reports) = (Instant::now(), proc::cpu(pid)?, swarm.board.counters().reports);
    tokio::time::sleep(time).await;
    let (cpu, took) = (proc::cpu(pid)?.saturating_sub(cpu), start.elapsed());
    Ok(Idle {
        millis: millis(took),
        cpu: cpu.as_secs_f64() / took.as_secs_f64(),
        reports: swarm.board.counters().reports - reports,
    })
}

async fn until(bound: Duration, what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    wait::within(what, bound, waiting).await
}
