//! What a grace period is used for.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    bins::EnvoyVersion,
    client::{http1, websocket},
    gateway::setup::Setup,
};
use futures::{SinkExt as _, StreamExt as _};
use rustix::process::Signal;
use tokio_tungstenite::tungstenite::Message;

use crate::world::World;

const REQUESTS: usize = 5;

/// Nothing but a grace period is set: what drains and stops may take follows from it.
fn only_grace(setup: &mut Setup, grace: &str) -> Result<()> {
    let drain = setup.ebb.get_mut("drain").and_then(toml::Value::as_table_mut);
    let drain = drain.context("no [drain]")?;
    drain.remove("timeout").context("no drain.timeout")?;
    drain.remove("announce").context("no drain.announce")?;
    setup.process_mut("router")?.remove("stop").context("no stop")?;
    setup.set(&["shutdown", "grace_period"], grace)
}

async fn requests_of_three_seconds_survive(grace: &'static str) -> Result<()> {
    let mut world = World::start_with(EnvoyVersion::V1_40, |setup| only_grace(setup, grace)).await?;
    let mut clients = Vec::new();
    for _ in 0..REQUESTS {
        let mut connection = http1::Connection::open(world.gateway.setup().ingress()).await?;
        clients.push(tokio::spawn(async move { connection.get("/delay/3000").await }));
    }
    while world.upstream.requests_of("delay") < REQUESTS as u64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let stop = world.gateway.stop().await?;
    for client in clients {
        let answer = client.await?;
        ensure!(
            answer.as_ref().is_ok_and(|answer| answer.status == 200),
            "{answer:?}\n{:#?}",
            stop.events
        );
    }
    let warning = stop.events.iter().find(|event| event.warning);
    ensure!(warning.is_none(), "{:#?}", stop.events);
    let log = world.gateway.log();
    let said = log
        .lines()
        .find(|line| line.contains("a stop drains it for at least"));
    let said = said.context("the start does not say how long a drain may take")?;
    ensure!(
        said.contains("and at most") && said.contains(&format!("grace period of {grace}")),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn a_grace_period_of_5_s_is_enough_for_requests_of_3_s() -> Result<()> {
    requests_of_three_seconds_survive("5s").await
}

#[tokio::test]
async fn a_grace_period_of_10_s_is_enough_for_requests_of_3_s() -> Result<()> {
    requests_of_three_seconds_survive("10s").await
}

#[tokio::test]
async fn a_grace_period_of_30_s_is_enough_for_requests_of_3_s() -> Result<()> {
    requests_of_three_seconds_survive("30s").await
}

#[tokio::test]
async fn a_websocket_may_take_what_the_grace_period_leaves_and_not_30_s() -> Result<()> {
    let mut world = World::start_with(EnvoyVersion::V1_40, |setup| only_grace(setup, "60s")).await?;
    let mut socket = websocket::open(world.gateway.setup().ingress(), "/ws").await?;
    world.gateway.signal(Signal::TERM)?;
    let following = async {
        tokio::time::sleep(Duration::from_secs(32)).await;
        socket.send(Message::text("still there?")).await?;
        let echo = socket.next().await.context("it was cut")??;
        socket.close(None).await?;
        anyhow::Ok(echo)
    };
    let (events, echo) = tokio::join!(world.gateway.follow_shutdown(), following);
    let (events, echo) = (events?, echo?);
    ensure!(echo.is_text(), "{echo:?}");
    let last = events.last().context("nothing was told")?;
    ensure!(last.text == "nothing was cut", "{events:#?}");
    ensure!(world.gateway.ended().await?.success());
    Ok(())
}
