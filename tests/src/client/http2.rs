//! HTTP/2 over one connection that the caller owns.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
};

use super::{
    Failure, Response,
    frames::{Goaway, Seen, Tap},
    http1::REQUEST_BOUND,
};
use crate::wait;

/// The window of a stream unless its client asks for a larger one, in bytes.
pub const DEFAULT_WINDOW: u32 = 65_535;

/// A connection; dropping it closes it.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    seen: Seen,
    driver: JoinHandle<()>,
}

/// A request that was sent and not yet answered; dropping it resets the stream.
#[derive(Debug)]
pub struct Pending {
    response: ResponseFuture,
    body: SendStream<Bytes>,
}

/// A response whose headers have come; dropping it resets the stream.
#[derive(Debug)]
pub struct Started {
    head: http::response::Parts,
    body: RecvStream,
}

impl Connection {
    /// Connects with prior knowledge of HTTP/2.
    ///
    /// # Errors
    /// [`Failure::Connect`].
    pub async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let opening = async {
            let stream = TcpStream::connect(address).await.map_err(|_| Failure::Connect)?;
            stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
            Self::over(stream, DEFAULT_WINDOW).await
        };
        tokio::time::timeout(REQUEST_BOUND, opening)
            .await
            .map_err(|_| Failure::Connect)?
    }

    /// Speaks HTTP/2 over a stream that is connected already, with a window of that many bytes for each response.
    ///
    /// # Errors
    /// [`Failure::Connect`].
    pub async fn over<S>(stream: S, window: u32) -> Result<Self, Failure>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (tap, seen) = Tap::new(stream);
        let mut builder = h2::client::Builder::new();
        if window > DEFAULT_WINDOW {
            builder
                .initial_window_size(window)
                .initial_connection_window_size(window);
        }
        let handshake = builder.handshake::<_, Bytes>(tap).await;
        let (sender, connection) = handshake.map_err(|_| Failure::Connect)?;
        let driver = tokio::spawn(async move {
            // Each request learns of the end by itself.
            let _ = connection.await;
        });
        Ok(Self { sender, seen, driver })
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
        let request = Request::get(format!("http://ebb.test{path}")).body(());
        self.send(request.map_err(|_| Failure::Malformed)?, true).await
    }

    /// Sends the head of a request; its body follows unless `end`.
    ///
    /// # Errors
    /// As [`Connection::start`].
    pub async fn send(&self, head: Request<()>, end: bool) -> Result<Pending, Failure> {
        let ready = tokio::time::timeout(REQUEST_BOUND, self.sender.clone().ready()).await;
        let mut sender = ready
            .map_err(|_| Failure::TimedOut)?
            .map_err(|_| Failure::NoResponse)?;
        let (response, body) = sender.send_request(head, end).map_err(|_| Failure::NoResponse)?;
        Ok(Pending { response, body })
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
    /// Sends a part of the request's body; the last one if `end`.
    ///
    /// # Errors
    /// [`Failure::NoResponse`] when the stream has ended.
    pub fn send(&mut self, part: &'static str, end: bool) -> Result<(), Failure> {
        self.body
            .send_data(Bytes::from_static(part.as_bytes()), end)
            .map_err(|_| Failure::NoResponse)
    }

    /// Reads the headers of the response, at most for [`REQUEST_BOUND`].
    ///
    /// # Errors
    /// As [`Connection::get`].
    pub async fn started(self) -> Result<Started, Failure> {
        let response = tokio::time::timeout(REQUEST_BOUND, self.response).await;
        let response = response
            .map_err(|_| Failure::TimedOut)?
            .map_err(|error| unanswered(&error))?;
        let (head, body) = response.into_parts();
        Ok(Started { head, body })
    }

    /// Reads the response, at most for twice [`REQUEST_BOUND`].
    ///
    /// # Errors
    /// As [`Connection::get`].
    pub async fn response(self) -> Result<Response, Failure> {
        self.started().await?.rest().await
    }
}

/// Streams up to the last that a GOAWAY names go on, and fail otherwise if they do: only those beyond fail by it.
fn unanswered(error: &h2::Error) -> Failure {
    if error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR) {
        Failure::Unprocessed
    } else {
        Failure::NoResponse
    }
}

impl Started {
    /// Reads one part of the body, at most for [`REQUEST_BOUND`]; none at its end.
    ///
    /// # Errors
    /// As [`Connection::get`].
    pub async fn part(&mut self) -> Result<Option<Bytes>, Failure> {
        let part = tokio::time::timeout(REQUEST_BOUND, self.body.data()).await;
        let Some(data) = part.map_err(|_| Failure::TimedOut)? else {
            return Ok(None);
        };
        let data = data.map_err(|_| Failure::Truncated)?;
        let _ = self.body.flow_control().release_capacity(data.len());
        Ok(Some(data))
    }

    /// Reads the rest of the body, at most for [`REQUEST_BOUND`].
    ///
    /// # Errors
    /// As [`Connection::get`].
    pub async fn rest(mut self) -> Result<Response, Failure> {
        let reading = async {
            let mut body = BytesMut::new();
            while let Some(data) = self.part().await? {
                body.extend_from_slice(&data);
            }
            Ok(body.freeze())
        };
        let body = tokio::time::timeout(REQUEST_BOUND, reading).await;
        let body = body.map_err(|_| Failure::TimedOut)??;
        Ok(Response {
            status: self.head.status,
            headers: self.head.headers,
            body,
        })
    }
}
