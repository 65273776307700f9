//! The load: clients that wait for their answer and then ask again, and one that is idle.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    client::http1,
    load::{Load, Plan, Protocol},
};

/// Requests at a time on an HTTP/2 connection.
pub(super) const STREAMS: usize = 4;

/// How many clients there are, and how long the app takes for their requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traffic {
    /// HTTP/1.1 connections with one request at a time.
    pub(super) http1: usize,
    /// HTTP/2 connections with [`STREAMS`] requests at a time.
    pub(super) http2: usize,
    pub(super) takes: Takes,
}

/// The time that the app takes for a request, drawn evenly: from 1 ms to `short`, or for one request of `long_one_of`
/// from `short` to `long`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Takes {
    pub(super) short: Duration,
    pub(super) long: Duration,
    pub(super) long_one_of: u32,
}

impl Traffic {
    /// One of `parts` equal parts, of which none is without a client of either protocol.
    pub(super) fn part(&self, parts: usize) -> Self {
        let part = |clients: usize| clients.div_ceil(parts.max(1));
        Self {
            http1: part(self.http1),
            http2: part(self.http2),
            ..*self
        }
    }

    /// Requests that are under way at a time, in all.
    pub(super) fn requests_at_a_time(&self) -> u64 {
        (self.http1 + self.http2 * STREAMS) as u64
    }

    /// Starts it towards `address`.
    pub(super) fn start(&self, address: SocketAddr) -> Load {
        let Takes {
            short,
            long,
            long_one_of,
        } = self.takes;
        let path = format!("/mix/1/{}/{}/{long_one_of}", short.as_millis(), long.as_millis());
        let plan = |protocol, clients| Plan {
            address,
            protocol,
            clients,
            interval: Duration::ZERO,
            path: path.clone(),
        };
        let plans = [
            plan(Protocol::Http1, self.http1),
            plan(Protocol::Http2, self.http2),
        ];
        Load::start_streams(&plans, STREAMS)
    }
}

/// A client that has asked once and keeps its HTTP/1.1 connection without using it.
pub(super) struct Idle(http1::Connection);

impl Idle {
    /// Connects and asks.
    pub(super) async fn start(address: SocketAddr) -> Result<Self> {
        let mut connection = http1::Connection::open(address)
            .await
            .context("the idle client")?;
        let response = connection.get("/").await.context("the idle client")?;
        ensure!(
            !response.says_close(),
            "the idle client was told to leave before anything ended"
        );
        Ok(Self(connection))
    }

    /// Whether its connection is still there.
    pub(super) async fn is_connected(&mut self) -> bool {
        !self.0.closed_within(Duration::from_millis(2)).await
    }
}
