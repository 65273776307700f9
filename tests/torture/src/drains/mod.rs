//! Asking for drains, and following them to their end.

mod asking;

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use ebb_e2e::{
    api::Client,
    cli::{self, CliOutput},
};
use rustix::process::Signal;
use tonic::Code;

use self::asking::Asking;
use crate::{
    journal::{Drain, EnvoyEnd, Moment, Outcome, Start, Why},
    schedule::{DrainPlan, Stop, Via},
    world::World,
};

/// Between two attempts to reach a control plane that is away.
const PAUSE: Duration = Duration::from_millis(10);
/// Beyond its deadline, how long a drain is followed: more than anything keeps a control plane away.
const FOLLOWED: Duration = Duration::from_secs(15);

/// Asks for a drain, cancels it, follows it, and stops an Envoy, as its plan says.
pub async fn run(
    world: Arc<World>,
    plan: DrainPlan,
    number: usize,
    request_id: String,
    start: Moment,
) -> (Drain, Option<EnvoyEnd>) {
    world
        .clock
        .sleep_until(start + Duration::from_millis(plan.at))
        .await;
    if plan.waits {
        world.control.is_there().await;
    }
    let asked = world.clock.now();
    let mut drain = Drain {
        plan: plan.clone(),
        asked,
        start: Start::Nobody(String::new()),
        end: None,
        earliest_end: None,
        exit: None,
        cancelled: None,
        lost: None,
    };
    let follower = Follower {
        world: Arc::clone(&world),
        request_id,
        start,
    };
    match plan.via {
        Via::Grpc => follower.by_api(&mut drain).await,
        Via::CommandLine => follower.by_command(&mut drain).await,
    }
    let drained = matches!(drain.end, Some((_, Outcome::Drained)));
    let end = match plan.then {
        Some(stop) if drained => stopped(&world, stop, number).await,
        _ => None,
    };
    (drain, end)
}

/// Stops an Envoy because a drain has ended as drained.
async fn stopped(world: &World, stop: Stop, number: usize) -> Option<EnvoyEnd> {
    let at = world.clock.now();
    let signal = if stop.kill { Signal::KILL } else { Signal::TERM };
    let ran = world.envoy(stop.envoy).ok()?.end(signal).await.unwrap_or(true);
    ran.then_some(EnvoyEnd {
        envoy: stop.envoy,
        at,
        why: Why::After(number),
    })
}

struct Follower {
    world: Arc<World>,
    request_id: String,
    start: Moment,
}

impl Follower {
    async fn by_api(&self, drain: &mut Drain) {
        let asking = async {
            let mut client = self.world.control.client().await?;
            anyhow::Ok(client.start(self.asking().request(&drain.plan)).await)
        };
        match asking.await {
            Err(error) => drain.start = Start::Nobody(format!("{error:#}")),
            Ok(Ok(begun)) => {
                drain.start = Start::Accepted(self.world.clock.now());
                self.follow(drain, &begun.id).await;
            }
            Ok(Err(status)) => drain.start = self.not_begun(status.code(), status.message()),
        }
    }

    fn asking(&self) -> Asking<'_> {
        Asking {
            witness: &self.world.witness,
            request_id: &self.request_id,
        }
    }

    async fn by_command(&self, drain: &mut Drain) {
        let arguments = self.asking().arguments(&drain.plan);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let command = match cli::start(&self.world.control.socket(), &arguments) {
            Ok(command) => command,
            Err(error) => {
                drain.start = Start::Nobody(format!("{error:#}"));
                return;
            }
        };
        let clock = self.world.clock;
        let mut ended = std::pin::pin!(async move {
            let output = command.output().await;
            (clock.now(), output)
        });
        let seen = tokio::select! {
            (at, output) = &mut ended => {
                // So fast that nobody has seen it, or not at all.
                drain.start = match &output {
                    Ok(output) if output.code == Some(1) => refused(at, &output.stderr),
                    _ => Start::Accepted(at),
                };
                if let Start::Accepted(_) = drain.start {
                    drain.exit = Some(exit(at, output));
                    if let Some(id) = self.once_known().await {
                        self.follow(drain, &id).await;
                    }
                }
                return;
            }
            id = self.seen() => id,
        };
        drain.start = Start::Accepted(clock.now());
        let (_, (at, output)) = tokio::join!(self.follow(drain, &seen), ended);
        // What the command line says is what its caller acts on: it is never earlier than the drain's own end.
        drain.exit = Some(exit(at, output));
    }

    /// Waits until the drain is known; its id.
    async fn seen(&self) -> String {
        loop {
            if let Some(id) = self.once_known().await {
                return id;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn once_known(&self) -> Option<String> {
        let drains = self.world.control.client().await.ok()?.drains().await.ok()?;
        let mut ours = drains
            .into_iter()
            .filter(|drain| drain.request_id == self.request_id);
        ours.next().map(|drain| drain.id)
    }

    /// Follows a drain to its end, and cancels it when that is due.
    async fn follow(&self, drain: &mut Drain, id: &str) {
        let began = self.world.clock.now();
        let bound = Duration::from_millis(drain.plan.policy.timeout) + FOLLOWED;
        let cancel_at = drain
            .plan
            .cancel_at
            .map(|at| self.start + Duration::from_millis(at));
        let mut cancelled = None;
        let mut watching = std::pin::pin!(tokio::time::timeout(bound, self.watch(id)));
        let watched = tokio::select! {
            watched = &mut watching => watched,
            at = self.cancel(id, cancel_at) => {
                cancelled = at;
                watching.await
            }
        };
        drain.cancelled = cancelled;
        match watched {
            Ok(Some(ended)) => {
                drain.end = Some((self.world.clock.now(), ended.outcome));
                drain.earliest_end = Some(drain.asked + ended.elapsed);
            }
            Ok(None) => drain.lost = Some(self.world.clock.now().max(began)),
            Err(_) => {}
        }
    }

    /// Cancels a drain; when that was confirmed, if it was.
    async fn cancel(&self, id: &str, at: Option<Moment>) -> Option<Moment> {
        let Some(at) = at else {
            return std::future::pending().await;
        };
        self.world.clock.sleep_until(at).await;
        let mut client = self.world.control.client().await.ok()?;
        client.cancel(id).await.ok()?;
        Some(self.world.clock.now())
    }

    /// Watches a drain to its end, through restarts of the control plane; none if that does not know it.
    async fn watch(&self, id: &str) -> Option<Ended> {
        loop {
            match self.watch_once(id).await {
                Ok(ended) => return Some(ended),
                Err(error) => {
                    let status = error.downcast_ref::<tonic::Status>();
                    if status.is_some_and(|status| status.code() == Code::NotFound) {
                        return None;
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn watch_once(&self, id: &str) -> Result<Ended> {
        let mut client: Client = self.world.control.client().await?;
        let mut updates = client.watch(id).await?;
        while let Some(update) = updates.message().await? {
            let Some(drain) = update.drain else { continue };
            if let Some(outcome) = outcome(drain.phase) {
                let elapsed = drain.elapsed.and_then(|wire| Duration::try_from(wire).ok());
                return Ok(Ended {
                    outcome,
                    elapsed: elapsed.unwrap_or_default(),
                });
            }
        }
        anyhow::bail!("the stream has ended, the drain has not")
    }

    fn not_begun(&self, code: Code, message: &str) -> Start {
        match code {
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal => {
                Start::Nobody(message.to_owned())
            }
            _ => Start::Refused(self.world.clock.now(), message.to_owned()),
        }
    }
}

/// How a drain ended, and what it says of the time it took.
struct Ended {
    outcome: Outcome,
    elapsed: Duration,
}

/// By its number on the wire, `PHASE_CUT` included; none while a drain runs.
fn outcome(phase: i32) -> Option<Outcome> {
    match phase {
        4 => Some(Outcome::Drained),
        5 => Some(Outcome::TimedOut),
        6 => Some(Outcome::Cancelled),
        7 => Some(Outcome::Cut),
        _ => None,
    }
}

/// What a command line that failed says of the asking.
fn refused(at: Moment, stderr: &str) -> Start {
    let away = [
        "cannot reach",
        "lost the connection",
        "did not answer",
        "shutting down",
    ];
    let said = stderr.trim().to_owned();
    if away.iter().any(|words| said.contains(words)) {
        Start::Nobody(said)
    } else {
        Start::Refused(at, said)
    }
}

fn exit(at: Moment, output: Result<CliOutput>) -> (Moment, Option<i32>, String) {
    match output {
        Ok(output) => {
            let json = output.json().unwrap_or_default();
            let outcome = json.get("outcome").and_then(|outcome| outcome.as_str());
            let said = outcome.map_or_else(|| output.stderr.trim().to_owned(), str::to_owned);
            (at, output.code, said)
        }
        Err(error) => (at, None, format!("{error:#}")),
    }
}
