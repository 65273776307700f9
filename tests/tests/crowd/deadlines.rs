//! Everything at once.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bytes::{Buf as _, BufMut as _};
use ebb_e2e::{
    api::Client,
    disk::Disk,
    ebb::{Ebb, EbbOptions},
    fake_filter::{FakeFilter, Identity},
    stalls::Stalls,
    wait,
    world::{folder, wait_attached},
};
use ebb_proto::v1::Phase;
use http::uri::PathAndQuery;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::UnixStream,
    runtime::{Builder, Handle},
};
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::{Hostile, drain_of_node, names};

/// In one report.
const NAMES: usize = 110_000;
/// The most that a report may have.
const ALLOWED: usize = 4096;
const WATCHERS: usize = 1000;
const WATCHERS_PER_CONNECTION: usize = 50;
const IDLE: usize = 5000;
/// As a filter reports while a drain is on.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// The deadlines that are looked at, and how long each is.
const DRAINS: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(2);
/// How late they may be.
const LATE: Duration = Duration::from_millis(250);
/// Longer than all of them take.
const HANGS: Duration = Duration::from_secs(40);

#[test]
fn deadlines_hold_with_110_000_names_a_hung_disk_1000_watchers_and_5000_idle_connections_at_once()
-> Result<()> {
    allow_files()?;
    // Who judges, and who behaves, must not be held up by the crowd of this very process.
    let crowd = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let judge = Builder::new_current_thread().enable_all().build()?;
    judge.block_on(holds(crowd.handle()))?;
    crowd.shutdown_background();
    Ok(())
}

async fn holds(crowd: &Handle) -> Result<()> {
    let folder = folder()?;
    let Some(disk) = Disk::ext4(folder.path().join("disk"), &folder.path().join("image"))? else {
        return Ok(());
    };
    let mut options = EbbOptions::in_folder(folder.path());
    options.state = Some(disk.path().join("state"));
    let ebb = Ebb::start(options).await?;
    let socket = ebb.socket().to_path_buf();
    let identity = Identity {
        node: "honest".to_owned(),
        process: 1,
        epoch: 1,
    };
    let honest = FakeFilter::start(&socket, identity, &["ingress"]);
    honest.set_in_flight(1);
    let mut client = ebb.client().await?;
    wait_attached(&mut client, "honest", 0).await?;
    let watched = client.start(drain_of_node(Some("honest"), HANGS * 2)).await?;

    let watching = Arc::new(AtomicUsize::new(0));
    let path = socket.clone();
    let told = Arc::clone(&watching);
    let watchers = crowd.spawn(async move { watch(&path, &watched.id, &told).await });
    let path = socket.clone();
    let idle = crowd.spawn(async move {
        let mut idle = Vec::new();
        for _ in 0..IDLE {
            idle.push(UnixStream::connect(&path).await.context("an idle connection")?);
        }
        anyhow::Ok(idle)
    });
    let _idle = idle.await??;
    watchers.await??;
    crowd.spawn(say_too_much(socket.clone()));
    crowd.spawn(say_as_much_as_may_be(socket.clone()));
    crowd.spawn(ask(socket.clone()));
    wait::until("everybody watches", wait::PATIENCE, || async {
        Ok(watching.load(Ordering::Relaxed) >= WATCHERS)
    })
    .await?;
    let mut hangs = disk.hang_for(HANGS)?;
    wait::until("the disk hangs", wait::PATIENCE, || {
        let mut client = client.clone();
        let told = ebb.log().contains("the disk does not answer");
        async move {
            if !told {
                client
                    .start(drain_of_node(Some("honest"), Duration::ZERO))
                    .await?;
            }
            Ok(told)
        }
    })
    .await?;

    let stalls = Stalls::measure();
    for _ in 0..DRAINS {
        let began = Instant::now();
        let drain = client.start(drain_of_node(Some("honest"), TIMEOUT)).await?;
        let mut views = client.watch(&drain.id).await?;
        let ended = loop {
            let view = views.message().await?.context("the drain has not ended")?;
            let drain = view.drain.context("no drain")?;
            if drain.phase() == Phase::TimedOut {
                break drain;
            }
        };
        let (took, stood) = (began.elapsed(), stalls.within(began, Instant::now()));
        let late = took.saturating_sub(TIMEOUT);
        println!("late by {late:?}; the machine stood still for {stood:?}");
        ensure!(
            late <= LATE + stood,
            "late by {late:?}; the machine stood still for {stood:?}"
        );
        ensure!(
            ended.unknown_reporters.is_empty(),
            "who speaks was not heard: {ended:?}"
        );
    }
    ensure!(
        hangs.try_wait()?.is_none(),
        "the disk was back before the last deadline"
    );
    let status = ebb.cli(&["status"]).await?;
    ensure!(status.code == Some(0), "{status:?}");
    hangs.wait().await?;
    Ok(())
}

/// Half of the watchers follow the nodes, half of them a drain. Counts those that have been told something.
async fn watch(socket: &Path, drain: &str, told: &Arc<AtomicUsize>) -> Result<()> {
    let drain_id: Vec<u8> = [0x0a, u8::try_from(drain.len())?]
        .into_iter()
        .chain(drain.bytes())
        .collect();
    for _ in 0..WATCHERS / WATCHERS_PER_CONNECTION {
        let channel = Client::connect(socket).await?.channel();
        for place in 0..WATCHERS_PER_CONNECTION {
            let (mut client, told) = (Grpc::new(channel.clone()), Arc::clone(told));
            let (path, request) = match place % 2 {
                0 => ("/ebb.v1.FleetService/WatchNodes", Vec::new()),
                _ => ("/ebb.v1.DrainService/WatchDrain", drain_id.clone()),
            };
            tokio::spawn(async move {
                client.ready().await?;
                let path = PathAndQuery::from_static(path);
                let views = client
                    .server_streaming(Request::new(request), path, Unread)
                    .await?;
                let mut views = views.into_inner();
                let mut first = true;
                while views.message().await?.is_some() {
                    told.fetch_add(usize::from(std::mem::take(&mut first)), Ordering::Relaxed);
                }
                anyhow::Ok(())
            });
        }
    }
    Ok(())
}

/// Messages as bytes, of which those that come are not looked at: a thousand watchers must not be what keeps the machine busy.
#[derive(Clone, Copy, Debug)]
struct Unread;

impl Codec for Unread {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Unread {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Unread {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        from.advance(from.remaining());
        Ok(Some(()))
    }
}

/// Comes back with the same report as often as it is refused.
async fn say_too_much(socket: PathBuf) {
    let report = names(0, NAMES);
    loop {
        if let Ok(mut stream) = Hostile::attach(&socket, 1, report.clone()).await {
            while let Ok(Some(_)) = stream.commands.message().await {}
        }
        tokio::time::sleep(REPORT_EVERY).await;
    }
}

/// Reports as many listeners as are allowed, again and again.
async fn say_as_much_as_may_be(socket: PathBuf) {
    loop {
        if let Ok(stream) = Hostile::attach(&socket, 2, names(1, ALLOWED)).await {
            while stream.reports.send(names(1, ALLOWED)).await.is_ok() {
                tokio::time::sleep(REPORT_EVERY).await;
            }
        }
        tokio::time::sleep(REPORT_EVERY).await;
    }
}

/// Lists the nodes again and again.
async fn ask(socket: PathBuf) -> Result<()> {
    let mut client = Client::connect(&socket).await?;
    loop {
        // Whatever becomes of it, it is asked again.
        let _ = client.nodes().await;
        tokio::time::sleep(REPORT_EVERY).await;
    }
}

/// As many open files as this process may have.
fn allow_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let needed = (IDLE + WATCHERS) as u64;
    ensure!(
        limit.maximum.is_none_or(|maximum| maximum >= needed),
        "the hard limit of open files (`ulimit -Hn`) has to be {needed} at least"
    );
    let all = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, all).context("cannot raise the limit of open files")
}
