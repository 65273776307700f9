//! What a drain may not overlook, with the upstream as the witness: it alone knows which requests it holds.
#![allow(clippy::indexing_slicing)] // JSON values

mod claims;
mod cut;
mod idle;
mod loggers;
mod processes;
mod restart;
mod unreached;

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use ebb_e2e::{
    api::Client,
    cli::{CliOutput, RunningCli},
    client::{Failure, Response, http1},
    upstream::Upstream,
    wait,
};
use ebb_proto::v1::Drain;
use tokio::task::JoinHandle;

/// How long a drain is looked at that must not end, once everybody whom it waits for has spoken.
const LOOK: Duration = Duration::from_millis(800);

type Held = JoinHandle<Result<Response, Failure>>;

/// Requests at an address that the upstream holds.
async fn hold(upstream: &Upstream, address: SocketAddr, count: usize) -> Result<Vec<Held>> {
    let held = upstream.held() + count;
    let requests = (0..count)
        .map(|_| tokio::spawn(async move { http1::Connection::open(address).await?.get("/hold").await }));
    let requests = requests.collect();
    upstream.wait_held(held).await?;
    Ok(requests)
}

async fn answered(requests: Vec<Held>) -> Result<()> {
    for request in requests {
        let response = wait::within("a held request is answered", wait::PATIENCE, request).await???;
        assert_eq!(response.status, 200);
    }
    Ok(())
}

/// A waiting `ebb drain`.
struct Waiting(JoinHandle<Result<CliOutput>>);

impl Waiting {
    fn on(command: RunningCli) -> Self {
        Self(tokio::spawn(command.output()))
    }

    /// Fails if it ends although the upstream holds something.
    async fn goes_on(&self, upstream: &Upstream, what: &str) {
        let until = tokio::time::Instant::now() + LOOK;
        while tokio::time::Instant::now() < until {
            let held = upstream.held();
            assert!(
                !self.0.is_finished() || held == 0,
                "{what}: ended with {held} held"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn ended(self) -> Result<CliOutput> {
        wait::within("the drain ends", wait::PATIENCE, self.0).await??
    }
}

/// Waits until a drain is known, and returns it.
async fn only_drain(client: &Client) -> Result<Drain> {
    wait::eventually("a drain is there", wait::PATIENCE, || {
        let mut client = client.clone();
        async move { Ok(client.drains().await?.pop()) }
    })
    .await
}
