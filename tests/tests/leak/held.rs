//! Requests that are held open while everything else comes and goes.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use ebb_e2e::client::{Failure, http1, http2};
use fastrand::Rng;
use futures::StreamExt as _;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;

use crate::{
    http1::{get, open_websocket},
    http2::upload,
    mix::LISTENERS,
};

/// Most requests of one sort that are held on a listener.
const MOST: usize = 2;

/// Requests that are open, and whose clients can end them.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Per listener.
    counts: [u64; LISTENERS.len()],
    /// Without their last part, if they still have to send one.
    http1: Vec<(http1::Connection, Option<&'static str>)>,
    streams: Vec<http2::Pending>,
    uploads: Vec<http2::Pending>,
    connections: Vec<http2::Connection>,
    websockets: Vec<WebSocketStream<TcpStream>>,
}

impl Held {
    /// Opens requests of random sorts on both listeners; `addresses` as [`LISTENERS`].
    pub(crate) async fn open(addresses: [SocketAddr; LISTENERS.len()], rng: &mut Rng) -> Result<Self> {
        let mut held = Self::default();
        for (listener, address) in addresses.into_iter().enumerate() {
            let before = held.all();
            held.open_http1(address, rng).await?;
            held.open_http2(address, rng).await?;
            for _ in 0..rng.usize(..=MOST) {
                held.websockets.push(open_websocket(address).await?);
            }
            held.counts[listener] = held.all() - before;
        }
        Ok(held)
    }

    /// Requests in flight per listener, as [`LISTENERS`].
    pub(crate) fn counts(&self) -> [u64; LISTENERS.len()] {
        self.counts
    }

    /// Requests that the upstream holds; it does not count WebSockets as held.
    pub(crate) fn at_upstream(&self) -> usize {
        self.http1.len() + self.streams.len() + self.uploads.len()
    }

    /// Reads the responses once the upstream has released them.
    pub(crate) async fn finish(self) -> Result<()> {
        for (mut connection, rest) in self.http1 {
            if let Some(rest) = rest {
                connection.send(rest).await?;
            }
            complete(connection.response().await)?;
        }
        for pending in self.streams {
            complete(pending.response().await)?;
        }
        for mut pending in self.uploads {
            pending.send("rest", true)?;
            complete(pending.response().await)?;
        }
        for mut socket in self.websockets {
            socket.close(None).await?;
            while let Some(Ok(_)) = socket.next().await {}
        }
        Ok(())
    }

    async fn open_http1(&mut self, address: SocketAddr, rng: &mut Rng) -> Result<()> {
        let part = "POST /upload HTTP/1.1\r\nHost: ebb.test\r\nContent-Length: 8\r\n\r\npart".to_owned();
        let sorts = [
            (get("/hold"), None),
            (get("/hold/after"), None),
            (get("/redirect?to=/hold"), None),
            (part, Some("rest")),
        ];
        for (request, rest) in &sorts {
            for _ in 0..rng.usize(..=MOST) {
                let mut connection = http1::Connection::open(address).await?;
                connection.send(request).await?;
                self.http1.push((connection, *rest));
            }
        }
        Ok(())
    }

    async fn open_http2(&mut self, address: SocketAddr, rng: &mut Rng) -> Result<()> {
        let connection = http2::Connection::open(address).await?;
        for path in ["/hold", "/hold/after", "/redirect?to=/hold"] {
            for _ in 0..rng.usize(..=MOST) {
                self.streams.push(connection.start(path).await?);
            }
        }
        for _ in 0..rng.usize(..=MOST) {
            let mut pending = upload(&connection).await?;
            pending.send("part", false)?;
            self.uploads.push(pending);
        }
        self.connections.push(connection);
        Ok(())
    }

    fn all(&self) -> u64 {
        (self.at_upstream() + self.websockets.len()) as u64
    }
}

fn complete(answer: Result<ebb_e2e::client::Response, Failure>) -> Result<()> {
    let response = answer?;
    ensure!(response.status == 200, "a held request ended with {response:?}");
    Ok(())
}
