//! Steady load over HTTP/1.1 and HTTP/2 that counts every way to fail.
//!
//! Each client is one connection with one request at a time, or over HTTP/2 with several. It opens a new connection only
//! when the server has said that the old one ends: by `Connection: close`, by GOAWAY, or after a failure, which has then
//! been counted. A request that meets a connection closed without such a word has failed: nothing is sent twice, but what
//! a GOAWAY has left unprocessed in the server's own word, and that is counted.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    client::{Failure, Response, http1, http2},
    wait,
};

/// A client whose request has failed waits for this long before it comes back: a dead server is not hammered, and a
/// failure is not counted a thousand times.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// So often a request is sent that one GOAWAY after the other leaves unprocessed.
const MOST_TIMES: usize = 3;

/// The protocol of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 with keep-alive.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// What to send.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to.
    pub address: SocketAddr,
    /// How.
    pub protocol: Protocol,
    /// Number of clients.
    pub clients: usize,
    /// Time from one request of a client to its next; a late client does not catch up.
    pub interval: Duration,
    /// The path of every request.
    pub path: String,
}

/// Numbers of a load, at its end or so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests that ended, well or badly.
    pub requests: u64,
    /// Requests that failed, by kind.
    pub failures: BTreeMap<Failure, u64>,
    /// Connections opened.
    pub connections: u64,
    /// Connections that the server announced to end, by `Connection: close` or GOAWAY.
    pub told_to_leave: u64,
    /// Requests that a GOAWAY left unprocessed, in the server's own word, and that were sent anew.
    pub sent_anew: u64,
}

impl Tally {
    /// Requests that failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

/// Load that runs; dropping it stops it.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Shared {
    requests: AtomicU64,
    connections: AtomicU64,
    told_to_leave: AtomicU64,
    sent_anew: AtomicU64,
    failures: Mutex<BTreeMap<Failure, u64>>,
    last_end: Mutex<Option<Instant>>,
    longest: Mutex<Duration>,
}

impl Load {
    /// Starts the clients of `plans`, with their requests spread over the interval.
    #[must_use]
    pub fn start(plans: &[Plan]) -> Self {
        Self::start_streams(plans, 1)
    }

    /// As [`Load::start`], with so many requests at a time on each HTTP/2 connection.
    #[must_use]
    pub fn start_streams(plans: &[Plan], streams: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for plan in plans {
            for number in 0..plan.clients {
                let part = u32::try_from(number).unwrap_or(0) + 1;
                let offset = plan.interval * part / u32::try_from(plan.clients).unwrap_or(1).max(1);
                for kept in Kept::nothing(plan.protocol, streams) {
                    clients.spawn(client(
                        plan.clone(),
                        offset,
                        kept,
                        Arc::clone(&shared),
                        stopped.clone(),
                    ));
                }
            }
        }
        Self {
            shared,
            stop,
            clients,
        }
    }

    /// The numbers so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.shared.tally()
    }

    /// When the last request so far ended.
    #[must_use]
    pub fn last_end(&self) -> Option<Instant> {
        *self
            .shared
            .last_end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the longest request took that has ended since this was asked last, well or badly.
    #[must_use]
    pub fn take_longest(&self) -> Duration {
        std::mem::take(&mut *self.shared.longest.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until `count` further requests have ended.
    ///
    /// # Errors
    /// When they have not within [`wait::PATIENCE`].
    pub async fn wait_for_requests(&self, count: u64) -> Result<()> {
        let goal = self.tally().requests + count;
        let what = format!("the load ends {count} further requests");
        wait::until(what, wait::PATIENCE, || async {
            Ok(self.tally().requests >= goal)
        })
        .await
    }

    /// Lets every client end its request, and returns the numbers.
    pub async fn stop(mut self) -> Tally {
        self.stop.send_replace(true);
        // Each request has a bound, so the clients come to an end.
        while self.clients.join_next().await.is_some() {}
        self.shared.tally()
    }
}

impl Shared {
    fn tally(&self) -> Tally {
        Tally {
            requests: self.requests.load(Ordering::SeqCst),
            failures: self
                .failures
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            connections: self.connections.load(Ordering::SeqCst),
            told_to_leave: self.told_to_leave.load(Ordering::SeqCst),
            sent_anew: self.sent_anew.load(Ordering::SeqCst),
        }
    }

    fn ended(&self, began: Instant, result: &Result<Response, Failure>) {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let now = Instant::now();
        *self.last_end.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        let mut longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        *longest = longest.max(now - began);
        drop(longest);
        let failure = match result {
            Ok(response) if response.status.is_server_error() => Failure::ServerError,
            Ok(_) => return,
            Err(failure) => *failure,
        };
        *self
            .failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(failure)
            .or_default() += 1;
    }
}

/// What a client keeps between two requests: its connection, if it has one.
enum Kept {
    Http1(Option<http1::Connection>),
    /// Each request at a time has the same one.
    Http2(Arc<AsyncMutex<Option<Arc<http2::Connection>>>>),
}

impl Kept {
    /// Of one client that has not begun: one for each request at a time.
    fn nothing(protocol: Protocol, streams: usize) -> Vec<Self> {
        match protocol {
            Protocol::Http1 => vec![Self::Http1(None)],
            Protocol::Http2 => {
                let connection = Arc::default();
                let one = || Self::Http2(Arc::clone(&connection));
                std::iter::repeat_with(one).take(streams).collect()
            }
        }
    }

    async fn get(&mut self, plan: &Plan, shared: &Shared) -> Result<Response, Failure> {
        match self {
            Self::Http1(kept) => {
                let mut connection = match kept.take() {
                    Some(connection) => connection,
                    None => {
                        let opened = http1::Connection::open(plan.address).await?;
                        shared.connections.fetch_add(1, Ordering::SeqCst);
                        opened
                    }
                };
                let response = connection.get(&plan.path).await?;
                if response.says_close() {
                    shared.told_to_leave.fetch_add(1, Ordering::SeqCst);
                } else {
                    *kept = Some(connection);
                }
                Ok(response)
            }
            Self::Http2(kept) => {
                for _ in 0..MOST_TIMES {
                    let result = over_http2(kept, plan, shared).await;
                    if !matches!(result, Err(Failure::Unprocessed)) {
                        return result;
                    }
                    shared.sent_anew.fetch_add(1, Ordering::SeqCst);
                }
                Err(Failure::Unprocessed)
            }
        }
    }
}

/// One request over the connection that is kept, which is kept no longer once it has been told to end.
async fn over_http2(
    kept: &AsyncMutex<Option<Arc<http2::Connection>>>,
    plan: &Plan,
    shared: &Shared,
) -> Result<Response, Failure> {
    let (connection, pending) = start(kept, plan, shared).await?;
    let result = pending.response().await;
    let mut kept = kept.lock().await;
    if is_told(&kept) {
        shared.told_to_leave.fetch_add(1, Ordering::SeqCst);
        *kept = None;
    } else if result.is_err() && kept.as_ref().is_some_and(|one| Arc::ptr_eq(one, &connection)) {
        *kept = None;
    }
    result
}

/// Whether the server has said that this connection ends.
fn is_told(kept: &Option<Arc<http2::Connection>>) -> bool {
    kept.as_ref()
        .is_some_and(|connection| !connection.goaways().is_empty())
}

/// Sends a request over the connection that is kept, or over a new one, which is then kept.
///
/// The lock is held meanwhile, so that a client opens one connection for all of its requests.
async fn start(
    kept: &AsyncMutex<Option<Arc<http2::Connection>>>,
    plan: &Plan,
    shared: &Shared,
) -> Result<(Arc<http2::Connection>, http2::Pending), Failure> {
    let mut kept = kept.lock().await;
    let mut fresh = false;
    loop {
        // A GOAWAY may have come since the last response.
        if is_told(&kept) {
            shared.told_to_leave.fetch_add(1, Ordering::SeqCst);
            *kept = None;
        }
        let connection = match &*kept {
            Some(connection) => Arc::clone(connection),
            None => {
                let opened = Arc::new(http2::Connection::open(plan.address).await?);
                shared.connections.fetch_add(1, Ordering::SeqCst);
                fresh = true;
                Arc::clone(kept.insert(opened))
            }
        };
        match connection.start(&plan.path).await {
            Ok(pending) => return Ok((connection, pending)),
            // It came this very moment: nothing has been sent, and goes over a connection that does not end.
            Err(Failure::NoResponse) if !fresh && is_told(&kept) => {}
            Err(failure) => {
                *kept = None;
                return Err(failure);
            }
        }
    }
}

async fn client(
    plan: Plan,
    offset: Duration,
    mut kept: Kept,
    shared: Arc<Shared>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut ticks = tokio::time::interval_at(
        Instant::now() + offset,
        plan.interval.max(Duration::from_millis(1)),
    );
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => return,
            _ = ticks.tick() => {}
        }
        let began = Instant::now();
        let result = kept.get(&plan, &shared).await;
        shared.ended(began, &result);
        if result.is_err() {
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }
}
