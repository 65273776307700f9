//! During a ramp the share of closing responses follows the line, on every worker by itself.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use ebb_e2e::{
    api::{drain_of, proto},
    bins::EnvoyVersion,
    bootstrap::Bootstrap,
    client::http1,
    envoy::{Envoy, EnvoyOptions},
    upstream::Upstream,
    vms::Vms,
    wait,
    world::{World, folder},
};
use ebb_proto::v1::{Directive, FilterReport, Policy};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

/// Long, so that a response that a busy machine holds up for a tenth of a second is off the line by little.
const RAMP: Duration = Duration::from_secs(20);
const TOLERANCE: f64 = 0.03;
const RESPONSES: usize = 10_000;
const CLIENTS: u32 = 16;
/// From one request of a client to its next: twice what is needed.
const INTERVAL: Duration = Duration::from_millis(16);
const WORKERS: u32 = 2;
const WINDOWS: usize = 10;

/// Where the line is after that time.
fn line(elapsed: Duration) -> f64 {
    elapsed.div_duration_f64(RAMP).min(1.0)
}

/// One response: when Envoy decided, as far as a client can tell, and whether it was told to leave.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Instant,
    closing: bool,
}

/// Steady load on keep-alive connections, until it is stopped.
struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<Result<Vec<Seen>>>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            clients.spawn(client(address, INTERVAL * number / CLIENTS, Arc::clone(&stop)));
        }
        Self { stop, clients }
    }

    async fn stop(mut self) -> Result<Vec<Seen>> {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Vec::new();
        while let Some(seen) =
            wait::within("every client ends", wait::PATIENCE, self.clients.join_next()).await?
        {
            all.extend(seen??);
        }
        Ok(all)
    }
}

async fn client(address: SocketAddr, offset: Duration, stop: Arc<AtomicBool>) -> Result<Vec<Seen>> {
    let mut ticks = tokio::time::interval_at(Instant::now() + offset, INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Vec::new();
    let mut kept = None;
    while !stop.load(Ordering::SeqCst) {
        ticks.tick().await;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => http1::Connection::open(address).await?,
        };
        let sent = Instant::now();
        let response = connection.get("/").await?;
        ensure!(response.status == 200, "{response:?}");
        let closing = response.says_close();
        seen.push(Seen {
            at: sent + sent.elapsed() / 2,
            closing,
        });
        kept = (!closing).then_some(connection);
    }
    Ok(seen)
}

#[tokio::test]
async fn the_share_of_closing_responses_follows_the_line() -> Result<()> {
    let world = World::start(EnvoyOptions {
        concurrency: WORKERS,
        ..EnvoyOptions::default()
    })
    .await?;
    let mut client = world.client().await?;
    let mut request = drain_of(&["ingress"]);
    request.policy = Some(Policy {
        ramp: Some(proto(RAMP)),
        timeout: Some(proto(3 * RAMP)),
        ..Policy::default()
    });
    let load = Load::start(world.ingress()?);
    let start = Instant::now();
    let drain = client.start(request).await?;
    // Its clock runs from somewhere within this call.
    let start = start + start.elapsed() / 2;
    tokio::time::sleep_until(start + RAMP + Duration::from_secs(1)).await;
    let seen = load.stop().await?;
    client.cancel(&drain.id).await?;

    let (during, after): (Vec<Seen>, Vec<Seen>) = seen
        .into_iter()
        .filter(|seen| seen.at >= start)
        .partition(|seen| seen.at < start + RAMP);
    ensure!(
        during.len() >= RESPONSES,
        "only {} responses: the machine is too slow for this test",
        during.len()
    );
    for window in 0..u32::try_from(WINDOWS)? {
        let (from, to) = (start + RAMP / 10 * window, start + RAMP / 10 * (window + 1));
        let inside: Vec<&Seen> = during
            .iter()
            .filter(|seen| (from..to).contains(&seen.at))
            .collect();
        let closing = inside.iter().filter(|seen| seen.closing).count();
        let expected: f64 = inside.iter().map(|seen| line(seen.at - start)).sum();
        let off = (closing as f64 - expected) / inside.len().max(1) as f64;
        ensure!(
            off.abs() <= TOLERANCE,
            "window {window}: {closing} of {} closed, not {expected:.0}",
            inside.len()
        );
    }
    let late: Vec<&Seen> = after
        .iter()
        .filter(|seen| seen.at > start + RAMP + Duration::from_millis(500))
        .collect();
    ensure!(
        !late.is_empty() && late.iter().all(|seen| seen.closing),
        "after the ramp every response closes"
    );
    Ok(())
}

/// What one VM has counted on `ingress` at a moment.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    elapsed: Duration,
    started: u64,
    marked: u64,
}

impl Sample {
    fn of(report: &FilterReport, elapsed: Duration) -> Self {
        let counts = report.listeners.iter().find(|counts| counts.name == "ingress");
        Self {
            elapsed,
            started: counts.map_or(0, |counts| counts.started),
            marked: counts.map_or(0, |counts| counts.marked),
        }
    }
}

#[tokio::test]
async fn every_worker_follows_the_line_by_itself() -> Result<()> {
    let folder = folder()?;
    let socket = folder.path().join("ebb.sock");
    let mut vms = Vms::listen(&socket)?;
    let upstream = Upstream::start().await?;
    let options = EnvoyOptions {
        version: EnvoyVersion::V1_37,
        concurrency: WORKERS,
        edit: |bootstrap: &mut Bootstrap| bootstrap.configure_plugins("report_interval", &json!("1h")),
        ..EnvoyOptions::default()
    };
    let envoy = Envoy::start(&options, folder.path(), &socket, upstream.address()).await?;
    vms.attach(WORKERS).await?;
    let load = Load::start(envoy.address("ingress")?);
    let start = Instant::now();
    let directive = Directive {
        listener: "ingress".to_owned(),
        ramp: Some(proto(RAMP)),
        lease: Some(proto(3 * RAMP)),
        ..Directive::default()
    };
    vms.command(vec![directive]).await?;
    let start = start + start.elapsed() / 2;

    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); WORKERS as usize + 1];
    while start.elapsed() < RAMP {
        let asked = Instant::now();
        let reports = vms.ask(0).await?;
        let at = asked + asked.elapsed() / 2;
        for (vm, report) in samples.iter_mut().zip(&reports) {
            vm.push(Sample::of(report, at - start));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    load.stop().await?;

    let mut workers = 0;
    for (vm, samples) in samples.iter().enumerate() {
        let all = samples.last().copied().unwrap_or_default().started;
        if all == 0 {
            // The main thread has a VM too.
            continue;
        }
        workers += 1;
        for (number, window) in samples.chunks(samples.len() / WINDOWS).enumerate() {
            let [Some(first), Some(last)] = [window.first(), window.last()] else {
                continue;
            };
            let expected: f64 = window
                .windows(2)
                .filter_map(|pair| match pair {
                    [one, other] => {
                        Some((other.started - one.started) as f64 * line((one.elapsed + other.elapsed) / 2))
                    }
                    _ => None,
                })
                .sum();
            let (begun, closed) = (last.started - first.started, last.marked - first.marked);
            let off = (closed as f64 - expected) / (begun.max(1) as f64);
            ensure!(
                begun < 200 || off.abs() <= TOLERANCE,
                "VM {vm}, window {number}: {closed} of {begun} closed, not {expected:.0}"
            );
        }
    }
    ensure!(workers == WORKERS, "{workers} workers had traffic: {samples:?}");
    Ok(())
}
