//! The cases over HTTP/1.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use ebb_e2e::{
    client::{
        Failure,
        http1::{Connection, REQUEST_BOUND},
        raw, websocket,
    },
    wait,
};
use futures::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use crate::mix::Kind;

/// The head and a part of the body of a request that never becomes whole.
const PART_OF_UPLOAD: &str = "POST /upload HTTP/1.1\r\nHost: ebb.test\r\nContent-Length: 1000\r\n\r\npart";

/// A client with one connection, which it keeps for as long as HTTP allows.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    accepts_http10: bool,
    connection: Option<Connection>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr, accepts_http10: bool) -> Self {
        Self {
            address,
            accepts_http10,
            connection: None,
        }
    }

    /// Carries out a case, and checks that it ended as it must. `pause` is how long to wait before giving up.
    pub(crate) async fn carry_out(&mut self, kind: Kind, key: u64, pause: Duration) -> Result<()> {
        match kind {
            Kind::Plain => self.expect("/ok", 200).await,
            Kind::Post => {
                let request = "POST /upload HTTP/1.1\r\nHost: ebb.test\r\nContent-Length: 5\r\n\r\nwhole";
                self.exchange(request, &[200]).await
            }
            Kind::Pipelined => {
                let request = "GET /delay/1 HTTP/1.1\r\nHost: ebb.test\r\n\r\n";
                self.exchange(&request.repeat(2), &[200, 200]).await
            }
            Kind::NoRoute => self.expect("/nowhere", 404).await,
            Kind::RouteTimeout => self.expect("/timeout", 504).await,
            Kind::UpstreamResetsBefore => self.expect("/reset/before", 503).await,
            Kind::UpstreamResetsAfter => self.expect_cut("/reset/after").await,
            Kind::Retried => self.expect(&format!("/retry/{key}/2"), 200).await,
            Kind::RetriesExhausted => self.expect(&format!("/retry/{key}/9"), 503).await,
            Kind::Redirected => self.expect("/redirect?to=/delay/2", 200).await,
            Kind::CloseInRequest => leave(self.send(PART_OF_UPLOAD).await?, pause, Leave::Close).await,
            Kind::ResetInRequest => leave(self.send(PART_OF_UPLOAD).await?, pause, Leave::Reset).await,
            Kind::CloseWaiting => leave(self.send(&get("/hold")).await?, pause, Leave::Close).await,
            Kind::ResetWaiting => leave(self.send(&get("/hold")).await?, pause, Leave::Reset).await,
            Kind::CloseInResponse => leave(self.in_response().await?, pause, Leave::Close).await,
            Kind::ResetInResponse => leave(self.in_response().await?, pause, Leave::Reset).await,
            Kind::WebSocket => {
                let mut socket = open_websocket(self.address).await?;
                socket.close(None).await?;
                let ending = async { while let Some(Ok(_)) = socket.next().await {} };
                wait::within("the WebSocket ends", REQUEST_BOUND, ending).await
            }
            Kind::WebSocketReset => {
                let socket = open_websocket(self.address).await?;
                socket.get_ref().set_zero_linger()?;
                Ok(())
            }
            Kind::NoHost => self.expect_raw("GET /ok HTTP/1.1\r\n\r\n", " 400 ").await,
            Kind::Http10 if self.accepts_http10 => self.expect_raw("GET /ok HTTP/1.0\r\n\r\n", " 200 ").await,
            Kind::Http10 => self.expect_raw("GET /ok HTTP/1.0\r\n\r\n", " 426 ").await,
            Kind::Garbage => self.expect_raw("\x16\x03\x01 garbage\r\n\r\n", " 400 ").await,
            Kind::LoseConnection => bail!("a case of HTTP/2 only"),
        }
    }

    async fn expect(&mut self, path: &str, status: u16) -> Result<()> {
        self.exchange(&get(path), &[status]).await
    }

    /// Sends `request` and reads a response per status. Keeps the connection unless the server said that it ends.
    async fn exchange(&mut self, request: &str, statuses: &[u16]) -> Result<()> {
        let mut connection = self.connection().await?;
        connection.send(request).await?;
        for &status in statuses {
            let response = connection.response().await?;
            ensure!(response.status == status, "{status} expected: {response:?}");
            ensure!(!response.says_close(), "nobody asked to close: {response:?}");
        }
        self.connection = Some(connection);
        Ok(())
    }

    async fn expect_cut(&mut self, path: &str) -> Result<()> {
        let answer = self.connection().await?.get(path).await;
        ensure!(
            matches!(answer, Err(Failure::Truncated)),
            "a response cut short expected: {answer:?}"
        );
        Ok(())
    }

    async fn expect_raw(&self, request: &str, status: &str) -> Result<()> {
        raw::until(self.address, request.as_bytes(), status, REQUEST_BOUND).await?;
        Ok(())
    }

    async fn connection(&mut self) -> Result<Connection, Failure> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => Connection::open(self.address).await,
        }
    }

    /// Sends `request`, with the response to be read by nobody.
    async fn send(&mut self, request: &str) -> Result<TcpStream> {
        let mut connection = self.connection().await?;
        connection.send(request).await?;
        Ok(connection.into_stream().0)
    }

    /// A connection that has received a part of a response.
    async fn in_response(&self) -> Result<TcpStream> {
        let request = get("/slow/1000/20");
        let (stream, _) = raw::until(self.address, request.as_bytes(), "chunk", REQUEST_BOUND).await?;
        Ok(stream)
    }
}

#[derive(Clone, Copy)]
enum Leave {
    Close,
    Reset,
}

async fn leave(stream: TcpStream, pause: Duration, how: Leave) -> Result<()> {
    tokio::time::sleep(pause).await;
    if let Leave::Reset = how {
        stream.set_zero_linger()?;
    }
    Ok(())
}

/// A WebSocket that has proved to work.
pub(crate) async fn open_websocket(address: SocketAddr) -> Result<WebSocketStream<TcpStream>> {
    let mut socket = websocket::open(address, "/ws").await?;
    socket.send(Message::text("hello")).await?;
    let echo = wait::within("the echo comes", REQUEST_BOUND, socket.next()).await?;
    let echo = echo.context("the WebSocket ended")??;
    ensure!(echo == Message::text("hello"), "the echo is {echo:?}");
    Ok(socket)
}

pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: ebb.test\r\n\r\n")
}
