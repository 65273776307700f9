//! One connection of a client, whatever it speaks.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Result;
use ebb_e2e::client::{Failure, Response, http1, http2, http3::Identity, http3::NAME};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpSocket,
};
use tokio_rustls::TlsConnector;

use super::slow::Slow;
use crate::schedule::{ClientPlan, Listener, Pace, Protocol};

/// In which a connection has to be made: an Envoy that stands still for two seconds makes it when it goes on.
const CONNECT_BOUND: Duration = Duration::from_secs(10);
/// Of the kernel's buffer of a client that reads slowly, in bytes; the kernel doubles it.
const SMALL: u32 = 4_096;

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Io for S {}

/// Who makes connections to a listener.
#[derive(Clone, Debug)]
pub struct Dialer {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its certificate, for those that have one.
    pub identity: Arc<Identity>,
}

/// A connection.
pub struct Connection(Kind);

enum Kind {
    Http1(http1::Connection<Box<dyn Io>>),
    Http2(http2::Connection),
    Raw(Box<dyn Io>),
}

impl Dialer {
    /// Connects as a client's plan says.
    ///
    /// # Errors
    /// When no connection can be made within 10 s.
    pub async fn open(&self, plan: &ClientPlan) -> Result<Connection> {
        tokio::time::timeout(CONNECT_BOUND, self.connect(plan)).await?
    }

    async fn connect(&self, plan: &ClientPlan) -> Result<Connection> {
        let socket = TcpSocket::new_v4()?;
        if plan.pace != Pace::Fast {
            socket.set_recv_buffer_size(SMALL)?;
        }
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        let mut stream: Box<dyn Io> = match plan.pace {
            Pace::Fast => Box::new(stream),
            Pace::Slow(bytes, pause) => Box::new(Slow::new(stream, bytes, Duration::from_millis(pause))),
        };
        if plan.listener == Listener::Secure {
            let protocol: &[u8] = match plan.protocol {
                Protocol::Http1 => b"http/1.1",
                Protocol::Http2(_) => b"h2",
            };
            let connector = TlsConnector::from(Arc::new(self.identity.tls(protocol)?));
            stream = Box::new(connector.connect(ServerName::try_from(NAME)?, stream).await?);
        }
        Ok(Connection(match (plan.listener, plan.protocol) {
            (Listener::Raw, _) => Kind::Raw(stream),
            (_, Protocol::Http1) => Kind::Http1(http1::Connection::over(stream)),
            (_, Protocol::Http2(window)) => Kind::Http2(http2::Connection::over(stream, window).await?),
        }))
    }
}

impl Connection {
    /// Sends `GET path`: the response, and whether it came with the word that this connection closes.
    ///
    /// # Errors
    /// [`Failure::Unprocessed`] also when the request was not sent, because the connection had said that it closes.
    pub async fn get(&mut self, path: &str) -> Result<(Response, bool), Failure> {
        match &mut self.0 {
            Kind::Http1(connection) => {
                let response = connection.get(path).await?;
                let closing = response.says_close();
                Ok((response, closing))
            }
            Kind::Http2(connection) => {
                let pending = connection.start(path).await.map_err(|failure| {
                    let told = !connection.goaways().is_empty();
                    if told { Failure::Unprocessed } else { failure }
                })?;
                let response = pending.response().await?;
                Ok((response, !connection.goaways().is_empty()))
            }
            Kind::Raw(_) => Err(Failure::Malformed),
        }
    }

    /// Sends `line`, and reads until the other side closes: how many bytes.
    ///
    /// # Errors
    /// When the connection is reset.
    pub async fn session(&mut self, line: &str) -> Result<usize, Failure> {
        let Kind::Raw(stream) = &mut self.0 else {
            return Err(Failure::Malformed);
        };
        let sending = stream.write_all(line.as_bytes()).await;
        sending.map_err(|_| Failure::NoResponse)?;
        let mut read = Vec::new();
        let reading = stream.read_to_end(&mut read).await;
        reading.map_err(|_| Failure::Truncated)?;
        Ok(read.len())
    }
}
