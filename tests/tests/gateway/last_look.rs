//! Requests that are aimed at the end of a stop, on connections that were idle when it began: between the closing of the
//! listeners and the signal to Envoy.

use std::time::Duration;

use anyhow::{Result, ensure};
use ebb_e2e::{
    bins::EnvoyVersion,
    client::{Failure, http1},
    on_both_envoys, wait,
};
use rustix::process::Signal;

use crate::world::World;

/// Of which half is how long nothing may arrive once the listeners are closed.
const QUIET_PERIOD: Duration = Duration::from_secs(2);

/// Each of them arrives before the one before it is forgotten: together they take longer than the last look alone.
const PAUSE: Duration = Duration::from_millis(300);

const CLIENTS: u64 = 6;

/// Shorter than the pause between two looks, so that none is in flight when Envoy is looked at: only its arrival tells.
const POST: &str = "POST /delay/1 HTTP/1.1\r\nHost: ebb.test\r\nContent-Length: 0\r\n\r\n";

/// In flight for longer than the whole last look.
const LAST: &str = "POST /delay/1500 HTTP/1.1\r\nHost: ebb.test\r\nContent-Length: 0\r\n\r\n";

async fn posts_that_arrive_once_connections_are_refused_are_answered(version: EnvoyVersion) -> Result<()> {
    let mut world = World::start_with(version, |setup| {
        setup.set(&["drain", "quiet_period"], format!("{}s", QUIET_PERIOD.as_secs()))
    })
    .await?;
    let ingress = world.gateway.setup().ingress();
    let mut idle = Vec::new();
    for _ in 0..=CLIENTS {
        idle.push(http1::Connection::open(ingress).await?);
    }
    world.gateway.signal(Signal::TERM)?;
    wait::until("connections are refused", wait::PATIENCE, || async move {
        Ok(matches!(
            http1::Connection::open(ingress).await,
            Err(Failure::Connect)
        ))
    })
    .await?;
    let mut last = idle.pop();
    for connection in &mut idle {
        connection.send(POST).await?;
        let answer = connection.response().await?;
        ensure!(answer.status == 200, "{answer:?}");
        // What is shown is that arrivals at these moments count.
        tokio::time::sleep(PAUSE).await;
    }
    if let Some(connection) = &mut last {
        connection.send(LAST).await?;
        let answer = connection.response().await?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    ensure!(world.gateway.ended().await?.success());
    ensure!(world.upstream.requests_of("delay") == CLIENTS + 1);
    world.gateway.nothing_is_left()
}

on_both_envoys!(posts_that_arrive_once_connections_are_refused_are_answered);
