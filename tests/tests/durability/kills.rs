//! Two hundred kills, with filters that need no Envoy.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    api::Client,
    ebb::{Ebb, EbbOptions},
    wait,
    world::folder,
};
use ebb_proto::v1::{Drain, Phase, StartDrainRequest};

use crate::{LATE, fleet, of_node, span};

/// How often the control plane is killed.
const KILLS: usize = 200;
/// Less than the control plane remembers, so that none may be missing.
const DRAINS: usize = 240;
/// What a wall clock may be off from a monotonic one over a restart.
const SKEW: Duration = Duration::from_millis(50);

fn running(drain: &Drain) -> bool {
    matches!(drain.phase(), Phase::Announced | Phase::Draining | Phase::Quiet)
}

/// What is known of a drain from answers of the control plane.
#[derive(Clone, Debug)]
struct Known {
    first: Drain,
    elapsed: Duration,
    ended: Option<Phase>,
    cancel_asked: bool,
    cancelled: bool,
}

/// All drains that were acknowledged.
#[derive(Clone, Debug, Default)]
struct Ledger(Arc<Mutex<HashMap<String, Known>>>);

impl Ledger {
    fn drains(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn started(&self, first: Drain) {
        let elapsed = span(first.elapsed);
        self.drains().entry(first.id.clone()).or_insert(Known {
            first,
            elapsed,
            ended: None,
            cancel_asked: false,
            cancelled: false,
        });
    }

    /// A drain to cancel, or none.
    fn any_to_cancel(&self) -> Option<String> {
        let drains = self.drains();
        let open: Vec<_> = drains.iter().filter(|(_, known)| !known.cancelled).collect();
        let (id, _) = open.get(fastrand::usize(..open.len().max(1)))?;
        Some((*id).clone())
    }

    fn asked_to_cancel(&self, id: &str) -> bool {
        self.drains().get(id).is_some_and(|known| known.cancel_asked)
    }

    fn set(&self, id: &str, change: impl FnOnce(&mut Known)) {
        if let Some(known) = self.drains().get_mut(id) {
            change(known);
        }
    }

    /// Compares all that is known with what a control plane shows now.
    async fn check(&self, client: &mut Client) -> Result<()> {
        let known = self.drains().clone();
        let shown = client.drains().await?;
        let mut by_request: BTreeMap<&str, &str> = BTreeMap::new();
        for drain in &shown {
            let other = by_request.insert(&drain.request_id, &drain.id);
            ensure!(
                other.is_none(),
                "two drains of one request: {other:?} and {drain:?}"
            );
        }
        for (id, known) in known {
            let drain = shown.iter().find(|drain| drain.id == id);
            let drain = drain.with_context(|| format!("lost: {known:?}"))?;
            let (first, elapsed) = (&known.first, span(drain.elapsed));
            ensure!(
                drain.started_at == first.started_at
                    && drain.request_id == first.request_id
                    && drain.scope == first.scope
                    && drain.policy == first.policy,
                "is another than it was: {first:?} and {drain:?}"
            );
            ensure!(
                elapsed + SKEW >= known.elapsed,
                "began anew: {known:?} and {drain:?}"
            );
            if running(drain) {
                let timeout = span(drain.policy.as_ref().and_then(|policy| policy.timeout));
                ensure!(elapsed <= timeout + LATE, "wedged: {drain:?}");
                ensure!(
                    known.ended.is_none() && !known.cancelled,
                    "runs again: {known:?} and {drain:?}"
                );
            }
            let busy = first.scope.as_ref().is_some_and(|scope| scope.nodes == ["busy"]);
            match drain.phase() {
                Phase::Drained => ensure!(!busy, "ended with requests in flight: {drain:?}"),
                // Perhaps since what was known was read.
                Phase::Cancelled => ensure!(self.asked_to_cancel(&id), "nobody cancelled: {drain:?}"),
                _ => {}
            }
            let ended = (!running(drain)).then(|| drain.phase());
            ensure!(
                known.ended.is_none_or(|phase| ended == Some(phase)),
                "ended otherwise: {known:?} and {drain:?}"
            );
            ensure!(
                !(known.cancelled && drain.holding),
                "holds after a cancel: {drain:?}"
            );
            self.set(&id, |known| {
                known.ended = ended;
                known.elapsed = elapsed;
            });
        }
        Ok(())
    }
}

/// Starts and cancels drains, whatever happens to the control plane. What was not acknowledged is asked again.
async fn drive(socket: PathBuf, ledger: Ledger) {
    let mut number = 0_usize;
    let mut pending: Option<StartDrainRequest> = None;
    loop {
        let Ok(mut client) = Client::connect(&socket).await else {
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        };
        loop {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..20))).await;
            if pending.is_none() && number < DRAINS && fastrand::u8(0..3) == 0 {
                number += 1;
                let timeout = Duration::from_millis(fastrand::u64(200..3000));
                let node = if fastrand::bool() { "busy" } else { "idle" };
                pending = Some(of_node(node, format!("request-{number}"), timeout));
            }
            let answer = if let Some(request) = pending.clone() {
                client.start(request).await.map(|drain| {
                    pending = None;
                    ledger.started(drain);
                })
            } else if let Some(id) = ledger.any_to_cancel().filter(|_| fastrand::u8(0..3) == 0) {
                ledger.set(&id, |known| known.cancel_asked = true);
                let cancelled = client.cancel(&id).await;
                cancelled.map(|_| ledger.set(&id, |known| known.cancelled = true))
            } else {
                Ok(())
            };
            if answer.is_err() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn killed_at_200_random_moments_no_drain_is_lost_begins_anew_or_is_wedged() -> Result<()> {
    let folder = folder()?;
    let mut options = EbbOptions::in_folder(folder.path());
    options.state = Some(folder.path().join("state"));
    options.show_log = false;
    let filters = fleet(&options.socket);
    let ledger = Ledger::default();
    let driver = tokio::spawn(drive(options.socket.clone(), ledger.clone()));
    for round in 0..KILLS {
        let mut ebb = Ebb::spawn(options)?;
        // Most of them while it serves, some while it starts.
        if round % 4 < 3 {
            ebb.wait_until_it_answers().await?;
            let checked = ledger.check(&mut ebb.client().await?).await;
            checked.with_context(|| format!("after {round} kills"))?;
        }
        tokio::time::sleep(Duration::from_micros(fastrand::u64(0..60_000))).await;
        options = ebb.kill().await?;
    }
    let ebb = Ebb::start(options).await?;
    let mut client = ebb.client().await?;
    wait::until("every drain has ended", wait::PATIENCE, || {
        let mut client = client.clone();
        async move { Ok(!client.drains().await?.iter().any(running)) }
    })
    .await?;
    driver.abort();
    ledger.check(&mut client).await?;
    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    for drain in client.drains().await? {
        *outcomes.entry(drain.phase().as_str_name()).or_default() += 1;
    }
    println!(
        "{KILLS} kills, {} drains acknowledged, of all: {outcomes:?}",
        ledger.drains().len()
    );
    ensure!(
        outcomes.len() == 3,
        "every way to end should have been met: {outcomes:?}"
    );

    // It is as good as new.
    let drain = client
        .start(of_node("idle", String::new(), wait::PATIENCE))
        .await?;
    client
        .wait_for_phase(&drain.id, Phase::Drained, wait::PATIENCE)
        .await?;
    drop(filters);
    Ok(())
}
