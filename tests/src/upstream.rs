//! An upstream in this process that behaves as the path of each request says.
//!
//! | path | behaviour |
//! |---|---|
//! | `/delay/MS` | 200 after MS milliseconds |
//! | `/hold` | 200 when the test releases it |
//! | `/status/CODE` | that status |
//! | `/close` | 200 with `Connection: close`, and closes |
//! | `/reset/before`, `/reset/after` | TCP reset before the response, or after its headers |
//! | `/slow/N/MS` | 200 with N chunks, MS milliseconds apart |
//! | `/redirect?to=PATH` | 302 to that path on the same authority |
//! | `/retry/KEY/N` | 503 for the first N requests of that key, then 200 |
//! | `/ws` | WebSocket that echoes |
//! | anything else | 200 at once |

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

use crate::wait;

type Body = UnsyncBoxBody<Bytes, Reset>;

/// The error that makes hyper drop a connection whose socket was set to reset.
#[derive(Debug)]
struct Reset;

impl std::fmt::Display for Reset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the test asked for a reset")
    }
}

impl std::error::Error for Reset {}

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

    /// Requests that `/hold` holds now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.shared.held.load(Ordering::SeqCst)
    }

    /// Requests ever received.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Lets every request go that is held now; later ones are held again.
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
    let service = service_fn(move |request| respond(request, Arc::clone(&shared), Arc::clone(&handle)));
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

async fn respond(
    request: Request<Incoming>,
    shared: Arc<Shared>,
    socket: Arc<std::net::TcpStream>,
) -> Result<Response<Body>, Reset> {
    shared.requests.fetch_add(1, Ordering::SeqCst);
    let path = request.uri().path().to_owned();
    let mut parts = path.trim_start_matches('/').split('/');
    let behaviour = parts.next().unwrap_or_default();
    let mut number = || {
        parts
            .next()
            .and_then(|part| part.parse::<u64>().ok())
            .unwrap_or(0)
    };
    match behaviour {
        "delay" => {
            tokio::time::sleep(Duration::from_millis(number())).await;
            Ok(text(StatusCode::OK, "delayed\n"))
        }
        "hold" => {
            hold(&shared).await;
            Ok(text(StatusCode::OK, "released\n"))
        }
        "status" => {
            let code = u16::try_from(number()).unwrap_or(500);
            Ok(text(
                StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                "status\n",
            ))
        }
        "close" => Ok(with_header(
            text(StatusCode::OK, "closing\n"),
            header::CONNECTION,
            "close",
        )),
        "reset" => {
            let _ = socket2::SockRef::from(&*socket).set_linger(Some(Duration::ZERO));
            if path == "/reset/after" {
                Ok(Response::new(broken_body()))
            } else {
                Err(Reset)
            }
        }
        "slow" => Ok(Response::new(slow_body(
            number(),
            Duration::from_millis(number()),
        ))),
        "redirect" => {
            let target = request
                .uri()
                .query()
                .and_then(|query| query.strip_prefix("to="))
                .unwrap_or("/");
            let authority = request
                .headers()
                .get(header::HOST)
                .and_then(|host| host.to_str().ok());
            let location = format!("http://{}{target}", authority.unwrap_or("localhost"));
            Ok(with_header(
                text(StatusCode::FOUND, ""),
                header::LOCATION,
                &location,
            ))
        }
        "retry" => {
            let key = parts.next().unwrap_or_default().to_owned();
            let failures = parts.next().and_then(|part| part.parse().ok()).unwrap_or(1);
            Ok(retry(&shared, key, failures))
        }
        "ws" => Ok(websocket(request)),
        _ => Ok(text(StatusCode::OK, "ok\n")),
    }
}

async fn hold(shared: &Shared) {
    /// Counts down also when the request is given up.
    struct Held<'a>(&'a AtomicUsize);
    impl Drop for Held<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let mut released = shared.released.subscribe();
    shared.held.fetch_add(1, Ordering::SeqCst);
    let _held = Held(&shared.held);
    let _ = released.changed().await;
}

fn retry(shared: &Shared, key: String, failures: u32) -> Response<Body> {
    let mut retries = shared.retries.lock().unwrap_or_else(PoisonError::into_inner);
    let seen = retries.entry(key).or_default();
    *seen += 1;
    if *seen <= failures {
        text(StatusCode::SERVICE_UNAVAILABLE, "again\n")
    } else {
        text(StatusCode::OK, "at last\n")
    }
}

fn websocket(mut request: Request<Incoming>) -> Response<Body> {
    let Some(key) = request
        .headers()
        .get(header::SEC_WEBSOCKET_KEY)
        .map(|key| derive_accept_key(key.as_bytes()))
    else {
        return text(StatusCode::BAD_REQUEST, "not a WebSocket\n");
    };
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(&mut request).await else {
            return;
        };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            let echoed = message.is_text() || message.is_binary();
            if echoed && socket.send(message).await.is_err() {
                break;
            }
        }
    });
    let response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let response = with_header(response, header::CONNECTION, "Upgrade");
    let response = with_header(response, header::UPGRADE, "websocket");
    with_header(response, header::SEC_WEBSOCKET_ACCEPT, &key)
}

fn text(status: StatusCode, body: &'static str) -> Response<Body> {
    let body = Full::new(Bytes::from_static(body.as_bytes()))
        .map_err(never)
        .boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

fn with_header(mut response: Response<Body>, name: header::HeaderName, value: &str) -> Response<Body> {
    if let Ok(value) = header::HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}

fn never(infallible: Infallible) -> Reset {
    match infallible {}
}

fn broken_body() -> Body {
    let first = Ok(Frame::data(Bytes::from_static(b"partial")));
    let frames = futures::stream::iter([first]).chain(futures::stream::once(async {
        // Time for the first chunk to leave the socket.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err(Reset)
    }));
    StreamBody::new(frames).boxed_unsync()
}

fn slow_body(chunks: u64, pause: Duration) -> Body {
    let frames = futures::stream::iter(0..chunks).then(move |_| async move {
        tokio::time::sleep(pause).await;
        Ok(Frame::data(Bytes::from_static(b"chunk\n")))
    });
    StreamBody::new(frames).boxed_unsync()
}
