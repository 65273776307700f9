//! Act one: a listener of a running Envoy is drained while clients use it, and the other one beside it is left alone.

use std::{
    pin::pin,
    time::{Duration, Instant as Clock},
};

use anyhow::{Context as _, Result, bail};
use ebb_proto::v1::{Listener, Phase};
use hyper::Method;
use serde_json::Value;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use super::{
    clients::{Clients, Load},
    report::{Drained, Ended, ListenerReport, Report},
    screen::{Picture, Screen},
    view::{Row, picture},
};
use crate::{api::Client, envoy::EnvoyOptions, wait, world::World};

const WORKERS: u32 = 2;
const REDRAW: Duration = Duration::from_millis(200);

/// How long the act lasts, and how much load there is.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    load: Load,
    /// Time before the drain and after it.
    before: Duration,
    after: Duration,
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
                before: Duration::from_millis(800),
                after: Duration::from_millis(300),
            };
        }
        let load = Load {
            http1: 30,
            http2: 5,
            streams: 6,
            short: 5..=300,
            long: 2000..=3000,
        };
        Self {
            load,
            before: Duration::from_secs(5),
            after: Duration::from_secs(4),
        }
    }
}

/// Starts the parts, plays the act, and stops them.
///
/// # Errors
/// When a part does not start or standard output is closed.
pub(super) async fn perform(scale: &Scale, screen: &mut Screen) -> Result<Report> {
    screen.say("Ebb takes one listener out of a running Envoy while clients use it.")?;
    screen.say("")?;
    let start = Clock::now();
    let options = EnvoyOptions {
        concurrency: WORKERS,
        show_log: false,
        ..EnvoyOptions::default()
    };
    let world = World::start(options).await?;
    let version = envoy_version(&world).await?;
    let seconds = start.elapsed().as_secs_f64();
    screen.say(&format!(
        "Envoy {version} with {WORKERS} workers, `ebb serve` and an upstream: started in {seconds:.1} s"
    ))?;
    for line in announce(&scale.load) {
        screen.say(&line)?;
    }
    let mut act = Act::begin(&world, scale).await?;
    act.show(screen, tokio::time::sleep(scale.before)).await?;

    screen.say("")?;
    screen.say("$ ebb drain --listener ingress --wait")?;
    screen.say(
        "Each response on `ingress` now ends its connection: by `Connection: close`, or GOAWAY in HTTP/2.",
    )?;
    let ended = act.drain(&world, screen).await?;
    screen.say(match ended.code {
        Some(0) => "Drained: what serves `ingress` could be stopped now. `internal` goes on.",
        _ => "The drain has failed. `internal` goes on.",
    })?;
    act.show(screen, tokio::time::sleep(scale.after)).await?;
    let report = act.finish(&scale.load, ended).await;
    for line in report.lines() {
        screen.say(&line)?;
    }
    Ok(report)
}

fn announce(load: &Load) -> [String; 2] {
    let connections = load.connections();
    [
        format!(
            "Clients with {connections} connections to `ingress`, and as many to `internal`, half of the requests over HTTP/2"
        ),
        format!(
            "The upstream takes {} to {} ms for most requests, and {} to {} ms for a few",
            load.short.start(),
            load.short.end(),
            load.long.start(),
            load.long.end()
        ),
    ]
}

/// The load, and what the control plane says meanwhile.
struct Act {
    start: Instant,
    ingress: Clients,
    internal: Clients,
    fleet: watch::Receiver<Vec<Listener>>,
    /// Asks the control plane; ends with the act.
    _asking: JoinSet<()>,
    /// The most that was in flight on a listener: the full length of a bar.
    most: u64,
}

impl Act {
    async fn begin(world: &World, scale: &Scale) -> Result<Self> {
        let (sender, fleet) = watch::channel(Vec::new());
        let mut asking = JoinSet::new();
        asking.spawn(ask(world.client().await?, sender));
        let mut act = Self {
            start: Instant::now(),
            ingress: Clients::start(world.ingress()?, &scale.load),
            internal: Clients::start(world.internal()?, &scale.load),
            fleet,
            _asking: asking,
            most: 1,
        };
        let connections = scale.load.connections();
        wait::until("every client is connected", wait::PATIENCE, || async {
            Ok(act.ingress.open() == connections && act.internal.open() == connections)
        })
        .await?;
        let counts = wait::within("the control plane answers", wait::PATIENCE, act.fleet.changed());
        counts.await?.context("nobody asks the control plane")?;
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
        let fleet = self.fleet.borrow_and_update().clone();
        let rows = [("ingress", &self.ingress), ("internal", &self.internal)].map(|(name, clients)| {
            let listener = fleet.iter().find(|listener| listener.name == name);
            Row::new(name, listener, &clients.http1(), &clients.http2())
        });
        let in_flight = rows.iter().map(|row| row.in_flight);
        self.most = in_flight.fold(self.most, u64::max);
        picture(self.start.elapsed(), &rows, self.most)
    }

    /// Runs `ebb drain --wait` to its end, and watches the drain beside it.
    async fn drain(&mut self, world: &World, screen: &mut Screen) -> Result<Ended> {
        let client = world.client().await?;
        let served_before = self.internal.requests();
        let start = Instant::now();
        let command = world
            .ebb
            .cli_start(&["drain", "--listener", "ingress", "--wait", "-o", "json"])?;
        let command = async { (command.output().await, Instant::now()) };
        let both = async { tokio::join!(command, drained(client)) };
        let ((output, returned), drained) = self.show(screen, both).await?;
        let output = output?;
        let result = output.json().unwrap_or_default();
        let outcome = result.get("outcome").and_then(Value::as_str);
        let requests = result.pointer("/listeners/0/requests_during_drain");
        Ok(Ended {
            code: output.code,
            stderr: output.stderr,
            outcome: outcome.unwrap_or("unknown").to_owned(),
            requests: requests.and_then(Value::as_u64).unwrap_or(0),
            took: returned - start,
            returned,
            drained: drained.map_err(|error| format!("{error:#}")),
            served_meanwhile: self.internal.requests().saturating_sub(served_before),
        })
    }

    async fn finish(mut self, load: &Load, ended: Ended) -> Report {
        // Those of `ingress` have left already unless something went wrong.
        tokio::join!(self.ingress.finish(), self.internal.finish());
        let report = |clients: &Clients| ListenerReport {
            http1: clients.http1(),
            http2: clients.http2(),
            planned: load.connections(),
            spans: clients.spans(),
        };
        Report {
            ingress: report(&self.ingress),
            internal: report(&self.internal),
            drain: ended,
        }
    }
}

/// Asks for the counts again and again: while nothing drains, filters report by themselves only every few seconds.
async fn ask(mut client: Client, fleet: watch::Sender<Vec<Listener>>) {
    let mut ticks = tokio::time::interval(REDRAW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let nodes = client.nodes().await.unwrap_or_default();
        let listeners = nodes.into_iter().flat_map(|node| node.listeners).collect();
        if fleet.send(listeners).is_err() {
            return;
        }
    }
}

/// Waits until WatchDrain says that the drain has drained.
async fn drained(mut client: Client) -> Result<Drained> {
    let id = wait::eventually("the drain is started", wait::PATIENCE, || {
        let mut client = client.clone();
        async move { Ok(client.drains().await?.pop().map(|drain| drain.id)) }
    })
    .await?;
    let mut watching = client.watch(&id).await?;
    while let Some(message) = watching.message().await? {
        let drain = message.drain.unwrap_or_default();
        if drain.phase() == Phase::Drained {
            let at = Instant::now();
            let quiet_period = drain.policy.unwrap_or_default().quiet_period;
            let quiet_period = quiet_period.and_then(|period| period.try_into().ok());
            return Ok(Drained {
                at,
                quiet_period: quiet_period.unwrap_or_default(),
            });
        }
    }
    bail!("WatchDrain ended before the drain was drained")
}

async fn envoy_version(world: &World) -> Result<String> {
    let info: Value = serde_json::from_str(&world.envoy.admin(Method::GET, "/server_info").await?)?;
    let version = info.get("version").and_then(Value::as_str);
    // `<commit>/<version>/<state>/<build>/<TLS library>`
    let version = version.and_then(|version| version.split('/').nth(1));
    version
        .map(str::to_owned)
        .context("Envoy does not say its version")
}
