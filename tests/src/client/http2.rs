//! HTTP/2 over one connection that the caller owns.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use bytes::BytesMut;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use tokio::{net::TcpStream, task::JoinHandle};

use super::{
    Failure, Response,
    frames::{Goaway, Seen, Tap},
    http1::REQUEST_BOUND,
};
use crate::wait;

/// A connection; dropping it closes it.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<bytes::Bytes>,
    seen: Seen,
    driver: JoinHandle<()>,
}

/// A request that was sent and not yet answered.
#[derive(Debug)]
pub struct Pending(ResponseFuture);

impl Connection {
    /// Connects with prior knowledge of HTTP/2.
    ///
    /// # Errors
    /// [`Failure::Connect`].
    pub async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let opening = async {
            let stream = TcpStream::connect(address).await.map_err(|_| Failure::Connect)?;
            stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
            let (tap, seen) = Tap::new(stream);
            let (sender, connection) = h2::client::handshake(tap).await.map_err(|_| Failure::Connect)?;
            let driver = tokio::spawn(async move {
                // Each request learns of the end by itself.
                let _ = connection.await;
            });
            Ok(Self { sender, seen, driver })
        };
        tokio::time::timeout(REQUEST_BOUND, opening)
            .await
            .map_err(|_| Failure::Connect)?
    }

    /// Sends `GET path` and reads the response.
    ///
    /// # Errors
    /// See [`Failure`]; a server error is a response here.
    pub async fn get(&self, path: &str) -> Result<Response, Failure> {
        self.start(path).await?.response().await
    }

    /// Sends `GET path`; the response is read later.
    ///
    /// # Errors
    /// [`Failure::NoResponse`] when the connection takes no further request.
    pub async fn start(&self, path: &str) -> Result<Pending, Failure> {
        let request = Request::get(format!("http://ebb.test{path}"))
            .body(())
            .map_err(|_| Failure::Malformed)?;
        let ready = tokio::time::timeout(REQUEST_BOUND, self.sender.clone().ready()).await;
        let mut sender = ready
            .map_err(|_| Failure::TimedOut)?
            .map_err(|_| Failure::NoResponse)?;
        let (response, _) = sender
            .send_request(request, true)
            .map_err(|_| Failure::NoResponse)?;
        Ok(Pending(response))
    }

    /// The GOAWAY frames received so far.
    #[must_use]
    pub fn goaways(&self) -> Vec<Goaway> {
        self.seen.goaways()
    }

    /// Waits for the first GOAWAY frame.
    ///
    /// # Errors
    /// When none came within `bound`.
    pub async fn goaway(&self, bound: Duration) -> Result<Goaway> {
        wait::eventually("the server sends GOAWAY", bound, || async {
            Ok(self.goaways().first().copied())
        })
        .await
    }

    /// Whether the connection is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.driver.is_finished()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Pending {
    /// Reads the response, at most for [`REQUEST_BOUND`].
    ///
    /// # Errors
    /// As [`Connection::get`].
    pub async fn response(self) -> Result<Response, Failure> {
        tokio::time::timeout(REQUEST_BOUND, self.read())
            .await
            .map_err(|_| Failure::TimedOut)?
    }

    async fn read(self) -> Result<Response, Failure> {
        let (head, mut incoming) = self.0.await.map_err(|_| Failure::NoResponse)?.into_parts();
        let mut body = BytesMut::new();
        while let Some(data) = incoming.data().await {
            let data = data.map_err(|_| Failure::Truncated)?;
            let _ = incoming.flow_control().release_capacity(data.len());
            body.extend_from_slice(&data);
        }
        Ok(Response {
            status: head.status,
            headers: head.headers,
            body: body.freeze(),
        })
    }
}
