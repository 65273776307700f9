//! Clients as a service has them: many requests that are short and a few that are long, over connections that they keep.
//!
//! A client that is told to leave does so and does not come back: its load balancer has taken the node out. One that
//! is not told goes on with its connection for as long as the demo lasts.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fastrand::Rng;
use tokio::{sync::watch, task::JoinSet, time::Instant};

use crate::client::{Failure, Response, http1, http2};

/// Of so many requests one is long.
const LONG_ONE_OF: u32 = 50;
/// The longest pause of a client between two requests.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// A client whose request has failed waits for this long before it comes back.
const AFTER_FAILURE: Duration = Duration::from_millis(200);

/// How much load there is on a listener.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// HTTP/1.1 connections, with one request at a time.
    pub(super) http1: usize,
    /// HTTP/2 connections.
    pub(super) http2: usize,
    /// Requests at a time on an HTTP/2 connection.
    pub(super) streams: usize,
    /// How long the upstream takes for a short request, in milliseconds.
    pub(super) short: RangeInclusive<u64>,
    /// How long it takes for a long one.
    pub(super) long: RangeInclusive<u64>,
}

impl Load {
    /// Connections over both protocols.
    pub(super) fn connections(&self) -> u64 {
        (self.http1 + self.http2) as u64
    }
}

/// What the clients of one listener saw over one protocol.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Requests that ended, well or badly.
    pub(super) requests: u64,
    /// Requests that failed, by kind.
    pub(super) failures: BTreeMap<Failure, u64>,
    /// Connections ever opened.
    pub(super) connections: u64,
    /// Connections that are open and in use.
    pub(super) open: u64,
    /// Connections that the server announced to close: by `Connection: close` or GOAWAY.
    pub(super) told_to_close: u64,
}

/// From when to when a request lasted, as its client saw it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Before its first byte was sent.
    pub(super) begin: Instant,
    /// When its response was read to the end, or it had failed.
    pub(super) end: Instant,
}

impl Tally {
    /// Requests that failed.
    pub(super) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

/// What clients write and others read.
#[derive(Clone, Debug, Default)]
struct Book {
    tally: Arc<Mutex<Tally>>,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Book {
    fn entry(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spans(&self) -> MutexGuard<'_, Vec<Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self) {
        let mut tally = self.entry();
        tally.connections += 1;
        tally.open += 1;
    }

    fn left(&self, told: bool) {
        let mut tally = self.entry();
        tally.open = tally.open.saturating_sub(1);
        tally.told_to_close += u64::from(told);
    }

    fn ended(&self, begin: Instant, result: &Result<Response, Failure>) {
        let end = Instant::now();
        self.spans().push(Span { begin, end });
        let mut tally = self.entry();
        tally.requests += 1;
        let failure = match result {
            Ok(response) if response.status.is_server_error() => Failure::ServerError,
            Ok(_) => return,
            Err(failure) => *failure,
        };
        *tally.failures.entry(failure).or_default() += 1;
    }
}

/// The clients of one listener; dropping them ends them.
#[derive(Debug)]
pub(super) struct Clients {
    http1: Book,
    http2: Book,
    stop: watch::Sender<bool>,
    running: JoinSet<()>,
}

impl Clients {
    /// Starts the clients of the listener at `address`.
    pub(super) fn start(address: SocketAddr, load: &Load) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut clients = Self {
            http1: Book::default(),
            http2: Book::default(),
            stop,
            running: JoinSet::new(),
        };
        for _ in 0..load.http1 {
            let requests = Requests::new(load, stopped.clone());
            let client = http1_client(address, requests, clients.http1.clone());
            clients.running.spawn(client);
        }
        for _ in 0..load.http2 {
            let requests = Requests::new(load, stopped.clone());
            let client = http2_client(address, load.streams, requests, clients.http2.clone());
            clients.running.spawn(client);
        }
        clients
    }

    /// What they have seen so far over HTTP/1.1.
    pub(super) fn http1(&self) -> Tally {
        self.http1.entry().clone()
    }

    /// What they have seen so far over HTTP/2.
    pub(super) fn http2(&self) -> Tally {
        self.http2.entry().clone()
    }

    /// When the requests so far began and ended.
    pub(super) fn spans(&self) -> Vec<Span> {
        let http1 = self.http1.spans();
        http1.iter().chain(self.http2.spans().iter()).copied().collect()
    }

    /// Requests that have ended, over both protocols.
    pub(super) fn requests(&self) -> u64 {
        self.http1.entry().requests + self.http2.entry().requests
    }

    /// Connections that are open, over both protocols.
    pub(super) fn open(&self) -> u64 {
        self.http1.entry().open + self.http2.entry().open
    }

    /// Lets every client end its requests, each of which has a bound.
    pub(super) async fn finish(&mut self) {
        self.stop.send_replace(true);
        while self.running.join_next().await.is_some() {}
    }
}

/// What a client asks for, and when it stops.
#[derive(Clone, Debug)]
struct Requests {
    rng: Rng,
    short: RangeInclusive<u64>,
    long: RangeInclusive<u64>,
    stopped: watch::Receiver<bool>,
}

impl Requests {
    fn new(load: &Load, stopped: watch::Receiver<bool>) -> Self {
        Self {
            rng: Rng::new(),
            short: load.short.clone(),
            long: load.long.clone(),
            stopped,
        }
    }

    /// The path of the next request, after a short pause; none when it is time to stop.
    async fn next(&mut self) -> Option<String> {
        let pause = LONGEST_PAUSE.mul_f64(self.rng.f64());
        tokio::select! {
            _ = self.stopped.wait_for(|stop| *stop) => return None,
            () = tokio::time::sleep(pause) => {}
        }
        let range = match self.rng.u32(..LONG_ONE_OF) {
            0 => &self.long,
            _ => &self.short,
        };
        Some(format!("/delay/{}", self.rng.u64(range.clone())))
    }
}

/// Why a client has let a connection go.
enum Left {
    /// The server announced its end.
    Told,
    /// The demo is over.
    Stopped,
    /// A request failed.
    Failed,
}

async fn http1_client(address: SocketAddr, mut requests: Requests, book: Book) {
    loop {
        let begin = Instant::now();
        let left = match http1::Connection::open(address).await {
            Ok(connection) => {
                book.opened();
                let left = http1_requests(connection, &mut requests, &book).await;
                book.left(matches!(left, Left::Told));
                left
            }
            Err(failure) => fail(begin, failure, &book),
        };
        match left {
            Left::Told | Left::Stopped => return,
            Left::Failed => tokio::time::sleep(AFTER_FAILURE).await,
        }
    }
}

async fn http1_requests(mut connection: http1::Connection, requests: &mut Requests, book: &Book) -> Left {
    while let Some(path) = requests.next().await {
        let begin = Instant::now();
        let result = connection.get(&path).await;
        book.ended(begin, &result);
        match result {
            Ok(response) if response.says_close() => return Left::Told,
            Ok(_) => {}
            Err(_) => return Left::Failed,
        }
    }
    Left::Stopped
}

async fn http2_client(address: SocketAddr, streams: usize, requests: Requests, book: Book) {
    loop {
        let begin = Instant::now();
        let left = match http2::Connection::open(address).await {
            Ok(connection) => {
                book.opened();
                let left = http2_streams(connection, streams, &requests, &book).await;
                book.left(matches!(left, Left::Told));
                left
            }
            Err(failure) => fail(begin, failure, &book),
        };
        match left {
            Left::Told | Left::Stopped => return,
            Left::Failed => tokio::time::sleep(AFTER_FAILURE).await,
        }
    }
}

/// Keeps several streams going; after a GOAWAY no new one is begun, and those in flight run to their end.
async fn http2_streams(
    connection: http2::Connection,
    streams: usize,
    requests: &Requests,
    book: &Book,
) -> Left {
    let connection = Arc::new(connection);
    let mut lanes = JoinSet::new();
    for _ in 0..streams {
        let (connection, book) = (Arc::clone(&connection), book.clone());
        let mut requests = requests.clone();
        requests.rng = Rng::new();
        lanes.spawn(async move { http2_lane(&connection, &mut requests, &book).await });
    }
    let mut failed = false;
    while let Some(lane) = lanes.join_next().await {
        failed |= matches!(lane, Ok(Left::Failed) | Err(_));
    }
    match (connection.goaways().is_empty(), failed) {
        (false, _) => Left::Told,
        (true, true) => Left::Failed,
        (true, false) => Left::Stopped,
    }
}

async fn http2_lane(connection: &http2::Connection, requests: &mut Requests, book: &Book) -> Left {
    while let Some(path) = requests.next().await {
        if !connection.goaways().is_empty() {
            return Left::Told;
        }
        let begin = Instant::now();
        let pending = match connection.start(&path).await {
            Ok(pending) => pending,
            // Nothing was sent: a GOAWAY has just come.
            Err(_) if !connection.goaways().is_empty() => return Left::Told,
            Err(failure) => return fail(begin, failure, book),
        };
        let result = pending.response().await;
        book.ended(begin, &result);
        if result.is_err() {
            return Left::Failed;
        }
    }
    Left::Stopped
}

fn fail(begin: Instant, failure: Failure, book: &Book) -> Left {
    book.ended(begin, &Err(failure));
    Left::Failed
}
