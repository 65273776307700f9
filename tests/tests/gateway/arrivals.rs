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
    fn to(world: &World, every: Duration) -> Self {
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
                    match connection.get("/delay/5").await {
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
    let drained =
        |event: &&ebb_proto::v1::ShutdownEvent| event.process == "router" && event.text == "drained";
    ensure!(
        stop.events.iter().any(|event| drained(&event)),
        "{:#?}",
        stop.events
    );
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
    let coming = Coming::to(&world, Duration::from_millis(100));
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
