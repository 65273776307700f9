//! Act two: a gateway of three processes is told to stop while clients use it.

use std::{
    collections::HashMap,
    path::PathBuf,
    pin::pin,
    time::{Duration, Instant as Clock},
};

use anyhow::{Context as _, Result, ensure};
use ebb_proto::v1::{Process, ProcessState};
use rustix::process::Signal;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use super::{
    clients::{Clients, Load},
    report::number,
    screen::{Picture, Screen},
    timeline::StopReport,
};
use crate::{
    api::Client,
    bins::EnvoyVersion,
    gateway::{
        Gateway,
        setup::{Setup, Takes},
    },
    process::describe,
    upstream::Upstream,
    wait,
    world::folder,
};

const REDRAW: Duration = Duration::from_millis(200);

/// How long the act lasts, and how much load there is.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    load: Load,
    /// Time before the stop.
    before: Duration,
}

impl Scale {
    /// A show for people, or a quick one.
    pub(super) fn new(quick: bool) -> Self {
        if quick {
            let load = Load {
                http1: 6,
                http2: 2,
                streams: 3,
                short: 5..=60,
                long: 300..=600,
            };
            return Self {
                load,
                before: Duration::from_millis(500),
            };
        }
        let load = Load {
            http1: 20,
            http2: 4,
            streams: 5,
            short: 5..=100,
            long: 1500..=2500,
        };
        Self {
            load,
            before: Duration::from_secs(4),
        }
    }
}

/// Starts the gateway, plays the act, and stops it.
///
/// # Errors
/// When a part does not start or standard output is closed.
pub(super) async fn perform(scale: &Scale, screen: &mut Screen) -> Result<StopReport> {
    screen.say("")?;
    screen.say("Ebb stops a gateway while clients use it: an Envoy (the router) that asks a policy")?;
    screen.say("engine about every request, which asks a Python executor.")?;
    screen.say("")?;
    let start = Clock::now();
    let folder = folder()?;
    let upstream = Upstream::start().await?;
    let mut setup = Setup::new(
        folder.path(),
        EnvoyVersion::V1_40,
        upstream.address(),
        &policy_engine()?,
    )?;
    setup.show_log = false;
    setup.executor_takes(Takes {
        shortest: Duration::from_millis(1),
        short: Duration::from_millis(10),
        ..Takes::default()
    })?;
    let mut gateway = Gateway::start(setup).await?;
    let seconds = start.elapsed().as_secs_f64();
    screen.say(&format!(
        "`ebb run` with three processes, and an upstream: started in {seconds:.1} s"
    ))?;
    let mut act = Act::begin(&gateway, scale).await?;
    act.show(screen, tokio::time::sleep(scale.before)).await?;

    screen.say("")?;
    screen.say("$ kill -TERM $(pidof ebb)")?;
    let report = act.stop(&mut gateway, &scale.load, screen).await?;
    for line in report.lines() {
        screen.say(&line)?;
    }
    Ok(report)
}

/// The program that is built beside this one.
fn policy_engine() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("policy-engine");
    ensure!(path.is_file(), "{} is not there: run `make demo`", path.display());
    Ok(path)
}

/// What the control plane shows.
#[derive(Clone, Debug, Default)]
struct Shown {
    processes: Vec<Process>,
    in_flight: u64,
}

/// The load, and what the control plane shows meanwhile.
struct Act {
    start: Instant,
    clients: Clients,
    shown: watch::Receiver<Shown>,
    /// What each process waited for, one thing after the other, in words.
    waited_for: HashMap<String, Vec<String>>,
    /// Asks the control plane; ends with the act.
    _asking: JoinSet<()>,
}

impl Act {
    async fn begin(gateway: &Gateway, scale: &Scale) -> Result<Self> {
        let (sender, shown) = watch::channel(Shown::default());
        let mut asking = JoinSet::new();
        asking.spawn(ask(gateway.client().await?, sender));
        let mut act = Self {
            start: Instant::now(),
            clients: Clients::start(gateway.setup().ingress(), &scale.load),
            shown,
            waited_for: HashMap::new(),
            _asking: asking,
        };
        let connections = scale.load.connections();
        wait::until("every client is connected", wait::PATIENCE, || async {
            Ok(act.clients.open() == connections)
        })
        .await?;
        let asked = wait::within("the control plane answers", wait::PATIENCE, act.shown.changed());
        asked.await?.context("nobody asks the control plane")?;
        Ok(act)
    }

    /// Shows what happens until `future` has its value.
    async fn show<T>(&mut self, screen: &mut Screen, future: impl Future<Output = T>) -> Result<T> {
        let mut future = pin!(future);
        let mut ticks = tokio::time::interval(REDRAW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                value = &mut future => return Ok(value),
                _ = ticks.tick() => screen.draw(&self.picture())?,
            }
        }
    }

    fn picture(&mut self) -> Picture {
        let shown = self.shown.borrow_and_update().clone();
        for process in shown
            .processes
            .iter()
            .filter(|process| !process.waits_for.is_empty())
        {
            // Its bound is no reason.
            let what = process.waits_for.split(", at most").next().unwrap_or_default();
            let waits = self.waited_for.entry(process.name.clone()).or_default();
            if waits.last().is_none_or(|last| last != what) {
                waits.push(what.to_owned());
            }
        }
        let (http1, http2) = (self.clients.http1(), self.clients.http2());
        let load = format!(
            "{} in flight, {} requests, {} failed",
            shown.in_flight,
            number(http1.requests + http2.requests),
            http1.failed() + http2.failed()
        );
        let seconds = self.start.elapsed().as_secs_f64();
        let mut lines = vec![
            String::new(),
            format!("{seconds:5.1} s  {:17}{:12}{}", "PROCESS", "STATE", "WAITS FOR"),
        ];
        lines.extend(shown.processes.iter().map(|process| {
            let (name, state) = (&process.name, word(process.state()));
            let line = format!("         {name:17}{state:12}{}", process.waits_for);
            line.chars().take(79).collect()
        }));
        lines.push(format!("         {load}"));
        let states = shown.processes.iter();
        let states = states.map(|process| format!("{} {}", process.name, word(process.state())));
        let line = format!(
            "{seconds:5.1} s  {} | {load}",
            states.collect::<Vec<_>>().join(", ")
        );
        Picture { lines, line }
    }

    /// SIGTERM, and everything until the last process has ended and the last client has gone.
    async fn stop(mut self, gateway: &mut Gateway, load: &Load, screen: &mut Screen) -> Result<StopReport> {
        let start = Instant::now();
        gateway.signal(Signal::TERM)?;
        let stopping = async {
            let events = gateway.follow_shutdown().await;
            (events, gateway.ended().await, Instant::now())
        };
        let (events, status, end) = self.show(screen, stopping).await?;
        let status = status?;
        // They have left already unless something went wrong.
        self.clients.finish().await;
        Ok(StopReport {
            http1: self.clients.http1(),
            http2: self.clients.http2(),
            planned: load.connections(),
            events: events.map_err(|error| format!("{error:#}")),
            waited_for: self.waited_for,
            took: end - start,
            ended: describe(status),
            well: status.success(),
        })
    }
}

/// Asks again and again, until nobody listens or answers.
async fn ask(client: Client, shown: watch::Sender<Shown>) {
    let mut ticks = tokio::time::interval(REDRAW / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut client = client.clone();
        let Ok(processes) = client.processes().await else {
            return;
        };
        let nodes = client.nodes().await.unwrap_or_default();
        let listeners = nodes.iter().flat_map(|node| &node.listeners);
        let in_flight = listeners.map(|listener| listener.in_flight).sum();
        if shown.send(Shown { processes, in_flight }).is_err() {
            return;
        }
    }
}

/// `ready`, `draining`.
fn word(state: ProcessState) -> String {
    state
        .as_str_name()
        .trim_start_matches("PROCESS_STATE_")
        .to_lowercase()
        .replace('_', " ")
}
