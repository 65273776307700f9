//! Clients that go on coming while a gateway is being stopped.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use ebb_e2e::{bins::EnvoyVersion, client::http1, gateway::Stop};
use ebb_proto::v1::ShutdownEvent;
use rustix::process::Signal;
use tokio::task::JoinHandle;

use crate::world::World;

/// Requests on connections of their own, one every so often, until the listener is closed.
struct Coming {
    task: JoinHandle<()>,
    /// Requests that were accepted and got no answer.
    cut: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
}

impl Coming {
    fn to(world: &World, every: Duration, path: &'static str) -> Self {
        let (cut, answered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (address, cuts, answers) = (world.gateway.setup().ingress(), cut.clone(), answered.clone());
        let task = tokio::spawn(async move {
            let mut due = tokio::time::interval(every);
            loop {
                due.tick().await;
                let (cuts, answers) = (cuts.clone(), answers.clone());
                tokio::spawn(async move {
                    // Who is turned away goes elsewhere.
                    let Ok(mut connection) = http1::Connection::open(address).await else {
                        return;
                    };
                    match connection.get(path).await {
                        Ok(response) if response.status == 200 => answers.fetch_add(1, Ordering::Relaxed),
                        _ => cuts.fetch_add(1, Ordering::Relaxed),
                    };
                });
            }
        });
        Self { task, cut, answered }
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// That the drain of a stop did not end by its deadline.
fn in_time(stop: &Stop) -> Result<()> {
    let late = stop.events.iter().find(|event| event.warning);
    ensure!(late.is_none(), "{late:?} in {:#?}", stop.events);
    let turns_away = "nothing stays in flight, but clients keep coming: turning them away";
    let ended = |event: &ShutdownEvent| ["drained", turns_away].contains(&event.text.as_str());
    ensure!(stop.events.iter().any(ended), "{:#?}", stop.events);
    Ok(())
}

async fn stops_in_time(admin: bool) -> Result<()> {
    let mut world = World::start_with(EnvoyVersion::V1_40, |setup| {
        if !admin {
            setup.without_admin()?;
        }
        Ok(())
    })
    .await?;
    let coming = Coming::to(&world, Duration::from_millis(100), "/delay/5");
    while coming.answered.load(Ordering::Relaxed) < 5 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let stop = world.gateway.stop().await?;
    in_time(&stop)?;
    let answered = coming.answered.load(Ordering::Relaxed);
    if admin {
        ensure!(
            coming.cut.load(Ordering::Relaxed) == 0,
            "of {answered}, some were cut"
        );
    }
    Ok(())
}

#[tokio::test]
async fn clients_that_keep_coming_do_not_hold_a_stop_and_are_turned_away() -> Result<()> {
    stops_in_time(true).await
}

#[tokio::test]
async fn without_an_admin_endpoint_they_do_not_hold_it_either() -> Result<()> {
    stops_in_time(false).await
}

#[tokio::test]
async fn so_many_that_some_are_always_in_flight_do_not_hold_it_either() -> Result<()> {
    let mut world = World::start().await?;
    // About ten at any time.
    let coming = Coming::to(&world, Duration::from_millis(10), "/delay/100");
    while coming.answered.load(Ordering::Relaxed) < 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let stop = world.gateway.stop().await?;
    in_time(&stop)?;
    let last = stop.events.last().map(|event| event.text.as_str());
    ensure!(last == Some("nothing was cut"), "{:#?}", stop.events);
    Ok(())
}

#[tokio::test]
async fn a_request_that_stays_is_waited_for_however_many_keep_coming() -> Result<()> {
    let mut world = World::start().await?;
    let held = world.hold().await?;
    let _coming = Coming::to(&world, Duration::from_millis(10), "/delay/100");
    world.gateway.signal(Signal::TERM)?;
    // Longer than arrivals count: after the announcement of 2 s, 1 s and a look.
    let following = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let closed = http1::Connection::open(world.gateway.setup().ingress())
            .await
            .is_err();
        world.upstream.release_all();
        closed
    };
    let (events, closed) = tokio::join!(world.gateway.follow_shutdown(), following);
    ensure!(!closed, "its listeners were closed while it was in flight");
    ensure!(held.await??.status == 200, "it was cut");
    let stop = Stop {
        took: Duration::ZERO,
        events: events?,
    };
    in_time(&stop)?;
    ensure!(world.gateway.ended().await?.success());
    Ok(())
}
