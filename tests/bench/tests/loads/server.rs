//! A server that counts what it does to its clients.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use ebb_e2e::load::Protocol;
use http::{Response, StatusCode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n";
const PART: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\no";
const BAD: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
const LAST: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nok\n";

/// How a server treats its clients.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Manner {
    /// Every tenth request it cuts the connection, in three ways in turn, or answers 503.
    Cuts,
    /// Every tenth request it answers 503.
    Statuses,
    /// It says with every response that the connection ends, and ends it.
    Leaves,
}

/// What it does with a request.
#[derive(Clone, Copy, Debug)]
enum Act {
    Answer,
    CutBefore,
    CutWithin,
    Reset,
    Status,
    Leave,
}

impl Manner {
    fn act(self, number: u64) -> Act {
        match (self, number % 40) {
            (Self::Leaves, _) => Act::Leave,
            (Self::Cuts, 10) => Act::CutBefore,
            (Self::Cuts, 20) => Act::CutWithin,
            (Self::Cuts, 30) => Act::Reset,
            (Self::Cuts, 5) | (Self::Statuses, 0 | 10 | 20 | 30) => Act::Status,
            _ => Act::Answer,
        }
    }
}

/// What was done, how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cuts {
    /// Closed instead of a response.
    pub(crate) before: u64,
    /// Closed within the body.
    pub(crate) within: u64,
    /// Reset instead of a response.
    pub(crate) reset: u64,
    /// Answered with 503.
    pub(crate) status: u64,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    requests: AtomicU64,
    before: AtomicU64,
    within: AtomicU64,
    reset: AtomicU64,
    status: AtomicU64,
}

impl Counters {
    fn next(&self, manner: Manner) -> Act {
        let act = manner.act(self.requests.fetch_add(1, Ordering::SeqCst) + 1);
        let counter = match act {
            Act::CutBefore => &self.before,
            Act::CutWithin => &self.within,
            Act::Reset => &self.reset,
            Act::Status => &self.status,
            Act::Answer | Act::Leave => return act,
        };
        counter.fetch_add(1, Ordering::SeqCst);
        act
    }
}

/// A running server; dropping it ends it.
pub(crate) struct Server {
    address: SocketAddr,
    counters: Arc<Counters>,
    accepting: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(protocol: Protocol, manner: Manner) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let counters = Arc::new(Counters::default());
        let shared = Arc::clone(&counters);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                connections.spawn(serve(stream, protocol, manner, Arc::clone(&shared)));
            }
        });
        Ok(Self {
            address,
            counters,
            accepting,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn connections(&self) -> u64 {
        self.counters.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> u64 {
        self.counters.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn cuts(&self) -> Cuts {
        let read = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        Cuts {
            before: read(&self.counters.before),
            within: read(&self.counters.within),
            reset: read(&self.counters.reset),
            status: read(&self.counters.status),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One connection. What becomes of it is the client's to tell.
async fn serve(stream: TcpStream, protocol: Protocol, manner: Manner, counters: Arc<Counters>) {
    let _ = match protocol {
        Protocol::Http1 => http1(stream, manner, &counters).await,
        Protocol::Http2 => http2(stream, manner, &counters).await,
    };
}

fn reset(stream: &TcpStream) -> Result<()> {
    Ok(rustix::net::sockopt::set_socket_linger(
        stream,
        Some(Duration::ZERO),
    )?)
}

/// Requests without bodies, one after the other.
async fn http1(mut stream: TcpStream, manner: Manner, counters: &Counters) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    loop {
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        head.clear();
        match counters.next(manner) {
            Act::Answer => stream.write_all(OK).await?,
            Act::Status => stream.write_all(BAD).await?,
            Act::Leave => return Ok(stream.write_all(LAST).await?),
            Act::CutBefore => return Ok(()),
            Act::CutWithin => return Ok(stream.write_all(PART).await?),
            Act::Reset => return reset(&stream),
        }
    }
}

/// One request at a time.
async fn http2(stream: TcpStream, manner: Manner, counters: &Counters) -> Result<()> {
    stream.set_nodelay(true)?;
    let stream = stream.into_std()?;
    let handle = TcpStream::from_std(stream.try_clone()?)?;
    let mut connection = h2::server::handshake(TcpStream::from_std(stream)?).await?;
    while let Some(accepted) = connection.accept().await {
        let (_, mut respond) = accepted?;
        let act = counters.next(manner);
        let mut response = Response::new(());
        match act {
            Act::CutBefore => return Ok(()),
            Act::Reset => return reset(&handle),
            Act::Status => {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                respond.send_response(response, true)?;
            }
            Act::Answer | Act::CutWithin | Act::Leave => {
                let mut body = respond.send_response(response, false)?;
                let whole = !matches!(act, Act::CutWithin);
                body.send_data(Bytes::from_static(b"ok\n"), whole)?;
                if !whole {
                    // The connection sends only while it is polled; nothing else comes on it.
                    let _ = tokio::time::timeout(Duration::from_millis(20), connection.accept()).await;
                    return Ok(());
                }
            }
        }
        if matches!(act, Act::Leave) {
            connection.graceful_shutdown();
        }
    }
    // Until the client has read what it was told.
    std::future::poll_fn(|context| connection.poll_closed(context))
        .await
        .context("it was not closed well")
}
