//! Steady load over HTTP/1.1 and HTTP/2 that counts every way to fail.
//!
//! Each client is one connection with one request at a time. It opens a new connection only when the server has said
//! that the old one ends: by `Connection: close`, by GOAWAY, or after a failure, which has then been counted. A request
//! that meets a connection closed without such a word has failed: nothing is tried twice.

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
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    client::{Failure, Response, http1, http2},
    wait,
};

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
    failures: Mutex<BTreeMap<Failure, u64>>,
    last_end: Mutex<Option<Instant>>,
    longest: Mutex<Duration>,
}

impl Load {
    /// Starts the clients of `plans`, with their requests spread over the interval.
    #[must_use]
    pub fn start(plans: &[Plan]) -> Self {
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for plan in plans {
            for number in 0..plan.clients {
                let part = u32::try_from(number).unwrap_or(0) + 1;
                let offset = plan.interval * part / u32::try_from(plan.clients).unwrap_or(1).max(1);
                clients.spawn(client(plan.clone(), offset, Arc::clone(&shared), stopped.clone()));
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
        }
    }

    /// Gives the connection back unless the server has said that it ends.
    fn keep(&self, connection: Option<Connection>, last: Option<&Response>) -> Option<Connection> {
        let told = connection
            .as_ref()
            .is_some_and(|connection| connection.told_to_leave(last));
        if told {
            self.told_to_leave.fetch_add(1, Ordering::SeqCst);
        }
        connection.filter(|_| !told)
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

enum Connection {
    Http1(http1::Connection),
    Http2(http2::Connection),
}

impl Connection {
    async fn open(plan: &Plan) -> Result<Self, Failure> {
        Ok(match plan.protocol {
            Protocol::Http1 => Self::Http1(http1::Connection::open(plan.address).await?),
            Protocol::Http2 => Self::Http2(http2::Connection::open(plan.address).await?),
        })
    }

    async fn get(&mut self, path: &str) -> Result<Response, Failure> {
        match self {
            Self::Http1(connection) => connection.get(path).await,
            Self::Http2(connection) => connection.get(path).await,
        }
    }

    /// Whether the server has said that this connection ends, with `last` as the last response on it.
    fn told_to_leave(&self, last: Option<&Response>) -> bool {
        match self {
            Self::Http1(_) => last.is_some_and(Response::says_close),
            Self::Http2(connection) => !connection.goaways().is_empty(),
        }
    }
}

async fn client(plan: Plan, offset: Duration, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval_at(
        Instant::now() + offset,
        plan.interval.max(Duration::from_millis(1)),
    );
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut current: Option<Connection> = None;
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => return,
            _ = ticks.tick() => {}
        }
        // A GOAWAY may have come since the last response.
        let kept = shared.keep(current.take(), None);
        let began = Instant::now();
        let (result, connection) = request(kept, &plan, &shared).await;
        shared.ended(began, &result);
        if let Ok(response) = &result {
            current = shared.keep(connection, Some(response));
        }
    }
}

async fn request(
    current: Option<Connection>,
    plan: &Plan,
    shared: &Shared,
) -> (Result<Response, Failure>, Option<Connection>) {
    let mut connection = match current {
        Some(connection) => connection,
        None => match Connection::open(plan).await {
            Ok(connection) => {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                connection
            }
            Err(failure) => return (Err(failure), None),
        },
    };
    let result = connection.get(&plan.path).await;
    (result, Some(connection))
}
