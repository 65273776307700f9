//! An upstream in this process that behaves as the path of each request says.
//!
//! | path | behaviour |
//! |---|---|
//! | `/delay/MS` | 200 after MS milliseconds |
//! | `/mix/A/B/C/N` | 200 after A to B milliseconds, drawn evenly; after B to C for one request of N |
//! | `/hold`, `/hold/after` | 200 when the test releases it; or its headers at once and its body then |
//! | `/upload` | 200 when the whole body of the request has come |
//! | `/status/CODE` | that status |
//! | `/close` | 200 with `Connection: close`, and closes |
//! | `/reset/before`, `/reset/after` | TCP reset before the response, or after its headers |
//! | `/slow/N/MS` | 200 with N chunks, MS milliseconds apart |
//! | `/large/BYTES` | 200 with a body of that length, at once |
//! | `/redirect?to=PATH` | 302 to that path on the same authority |
//! | `/retry/KEY/N` | 503 for the first N requests of that key, then 200 |
//! | `/ws` | WebSocket that echoes |
//! | anything else | 200 at once |

mod behaviour;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, Result};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use self::behaviour::respond;
use crate::{
    gateway::journal::{self, Moment},
    wait,
};

/// A running upstream; dropping it closes its listener and its connections.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    held: AtomicUsize,
    requests: AtomicU64,
    /// 0 = none yet.
    last_answer: AtomicU64,
    /// Requests ever received, by the first part of their path.
    seen: Mutex<HashMap<String, u64>>,
    released: watch::Sender<u64>,
    retries: Mutex<HashMap<String, u32>>,
}

impl Upstream {
    /// Starts on a free loopback port.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start() -> Result<Self> {
        Self::start_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    /// Starts on `address`.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub async fn start_on(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("the upstream cannot bind {address}"))?;
        let shared = Arc::new(Shared {
            held: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            last_answer: AtomicU64::new(0),
            seen: Mutex::default(),
            released: watch::Sender::new(0),
            retries: Mutex::default(),
        });
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self {
            address,
            shared,
            accepting,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests that are held now: by `/hold` until they are released, by `/upload` until their body ends.
    #[must_use]
    pub fn held(&self) -> usize {
        self.shared.held.load(Ordering::SeqCst)
    }

    /// Requests ever received.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Requests ever received whose path begins with `/behaviour`.
    #[must_use]
    pub fn requests_of(&self, behaviour: &str) -> u64 {
        let seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(behaviour).copied().unwrap_or(0)
    }

    /// When a response was last ready to be sent; none before the first. A request that its client gives up before that
    /// has none.
    #[must_use]
    pub fn last_answer(&self) -> Option<Moment> {
        Some(self.shared.last_answer.load(Ordering::SeqCst)).filter(|&at| at > 0)
    }

    /// Lets every request go that `/hold` holds now; later ones are held again.
    pub fn release_all(&self) {
        self.shared.released.send_modify(|round| *round += 1);
    }

    /// Waits until exactly `count` requests are held.
    ///
    /// # Errors
    /// When [`wait::PATIENCE`] has passed.
    pub async fn wait_held(&self, count: usize) -> Result<()> {
        let what = format!("the upstream holds {count} requests");
        wait::until(what, wait::PATIENCE, || async { Ok(self.held() == count) }).await
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // The connections are tasks of the accepting task's set and end with it.
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(serve(stream, Arc::clone(&shared)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let Ok((stream, handle)) = with_handle(stream) else {
        return;
    };
    let handle = Arc::new(handle);
    let service = service_fn(move |request| {
        let (shared, handle) = (Arc::clone(&shared), Arc::clone(&handle));
        async move {
            let response = respond(request, Arc::clone(&shared), handle).await;
            shared.last_answer.fetch_max(journal::now(), Ordering::SeqCst);
            response
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // A client that leaves, or a reset that a test asked for, is no event here.
    let _ = connection.await;
}

/// A second handle on the socket, to make its end a reset.
fn with_handle(stream: TcpStream) -> std::io::Result<(TcpStream, std::net::TcpStream)> {
    let stream = stream.into_std()?;
    let handle = stream.try_clone()?;
    Ok((TcpStream::from_std(stream)?, handle))
}
