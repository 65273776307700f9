//! One round: everything that its plan says, then what a round leaves is put right, and looked at.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use ebb_e2e::{client::Failure, wait};
use rustix::process::Signal;
use tokio::task::JoinSet;
use tonic::Code;

use crate::{
    clients, drains, faults,
    journal::{Answer, Drain, EnvoyEnd, FaultSeen, Journal, Probe, Request},
    schedule::{ClientPlan, Fault, Listener, Pace, Protocol, Round},
    world::World,
};

/// From the confirmation of a release until every filter has heard of it.
const HEARD_WITHIN: Duration = Duration::from_millis(500);
/// From the end of a request's client to its end at the witness, which notices the loss of a connection a moment later.
const SETTLED_WITHIN: Duration = Duration::from_millis(50);

/// Plays a round, puts right what it leaves, and tells what was seen.
///
/// # Errors
/// When the world cannot be put right, or a part of the torture itself fails.
pub async fn play(world: &Arc<World>, plan: &Round, number: usize) -> Result<Journal> {
    let start = world.clock.now();
    let (mut clients, mut faults, mut drains) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    for client in &plan.clients {
        clients.spawn(clients::run(Arc::clone(world), client.clone(), start));
    }
    for fault in &plan.faults {
        faults.spawn(faults::run(Arc::clone(world), fault.clone(), start));
    }
    for (place, drain) in plan.drains.iter().enumerate() {
        let id = format!("round-{number}-drain-{place}");
        let running = drains::run(Arc::clone(world), drain.clone(), place, id, start);
        drains.spawn(async move { (place, running.await) });
    }
    let mut drains: Vec<(usize, (Drain, Option<EnvoyEnd>))> = drains.join_all().await;
    drains.sort_by_key(|(place, _)| *place);
    let (faults, killed): (Vec<FaultSeen>, Vec<_>) = faults.join_all().await.into_iter().unzip();
    let requests: Vec<Request> = clients.join_all().await.into_iter().flatten().collect();
    tokio::time::sleep(SETTLED_WITHIN).await;
    let (mut drains, stopped): (Vec<Drain>, Vec<_>) = drains.into_iter().map(|(_, drain)| drain).unzip();
    let mut journal = Journal {
        world: world.plan.clone(),
        requests: requests
            .into_iter()
            .map(|request| witnessed(world, request))
            .collect(),
        drains: Vec::new(),
        ends: killed.into_iter().chain(stopped).flatten().collect(),
        faults,
        outages: Vec::new(),
        stalls: Vec::new(),
        probes: Vec::new(),
    };
    release(world, &mut drains, number).await?;
    journal.drains = drains;
    put_right(world, &journal, number).await?;
    journal.probes = probe(world).await;
    for probe in &journal.probes {
        if probe.answer == (Answer::Whole { closing: true }) {
            // So that the rounds that follow are judged by what they do.
            world.envoy(probe.envoy)?.heal().await?;
        }
    }
    journal.outages = world.control.outages_since(start);
    journal.stalls = world.stalls.since(start);
    Ok(journal)
}

fn witnessed(world: &World, mut request: Request) -> Request {
    (request.upstream, request.authz) = world.witness.book.take(request.id);
    request
}

/// Looks for every drain that has begun, and releases all that there are.
async fn release(world: &World, drains: &mut [Drain], number: usize) -> Result<()> {
    let mut client = world.control.client().await?;
    let known = client.drains().await?;
    for (place, drain) in drains.iter_mut().enumerate() {
        let id = format!("round-{number}-drain-{place}");
        let begun = matches!(drain.start, crate::journal::Start::Accepted(_));
        if begun && !known.iter().any(|known| known.request_id == id) {
            drain.lost.get_or_insert(world.clock.now());
        }
    }
    for drain in known {
        match client.cancel(&drain.id).await {
            Err(status) if status.code() != Code::NotFound => {
                return Err(status).context("no drain is released");
            }
            _ => {}
        }
    }
    let confirmed = world.clock.now();
    world.clock.sleep_until(confirmed + HEARD_WITHIN).await;
    Ok(())
}

/// Starts again what has ended, and a VM that has trapped; forgets those whom nothing can prove to be gone.
async fn put_right(world: &World, journal: &Journal, number: usize) -> Result<()> {
    let mut ghosts = !journal.ends.is_empty();
    for seen in &journal.faults {
        ghosts |= seen.fault.leaves_a_ghost();
        if let Fault::VmTrapped(envoy) = seen.fault
            && seen.skipped.is_none()
        {
            world.envoy(envoy)?.end(Signal::TERM).await?;
        }
    }
    for envoy in &world.envoys {
        envoy.start().await?;
    }
    if ghosts {
        world.control.renew(number).await?;
    }
    world.whole().await?;
    tokio::time::sleep(HEARD_WITHIN).await;
    Ok(())
}

/// Whether any listener closes connections.
async fn probe(world: &Arc<World>) -> Vec<Probe> {
    let listeners = Listener::ALL
        .into_iter()
        .filter(|listener| *listener != Listener::Raw);
    let envoys = 0..world.envoys.len();
    let plans = envoys.flat_map(|envoy| listeners.clone().map(move |listener| (envoy, listener)));
    let mut probes = Vec::new();
    for (envoy, listener) in plans {
        for protocol in [Protocol::Http1, Protocol::Http2(65_535)] {
            let at = world.clock.now();
            let plan = ClientPlan {
                envoy,
                listener,
                protocol,
                pace: Pace::Fast,
                requests: Vec::new(),
            };
            let answer = match wait::within("the probe", wait::PATIENCE, ask(world, &plan)).await {
                Ok(Ok(closing)) => Answer::Whole { closing },
                Ok(Err(failure)) => Answer::Failed(failure.to_string()),
                Err(error) => Answer::Failed(error.to_string()),
            };
            probes.push(Probe {
                envoy,
                listener,
                at,
                answer,
            });
        }
    }
    probes
}

async fn ask(world: &World, plan: &ClientPlan) -> Result<bool, Failure> {
    let dialer = world.dialer(plan.envoy, plan.listener).ok_or(Failure::Connect)?;
    let mut connection = dialer.open(plan).await.map_err(|_| Failure::Connect)?;
    let id = world.next_id();
    let (response, closing) = connection.get(&format!("/a/{id}/0/0/0")).await?;
    let _ = world.witness.book.take(id);
    if response.status == 200 {
        Ok(closing)
    } else {
        Err(Failure::ServerError)
    }
}
