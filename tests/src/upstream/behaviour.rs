//! What each path does.

use std::{
    convert::Infallible,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header,
};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

use super::Shared;

pub(super) type Body = UnsyncBoxBody<Bytes, Reset>;

/// The error that makes hyper drop a connection whose socket was set to reset.
#[derive(Debug)]
pub(super) struct Reset;

impl std::fmt::Display for Reset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the test asked for a reset")
    }
}

impl std::error::Error for Reset {}

pub(super) async fn respond(
    request: Request<Incoming>,
    shared: Arc<Shared>,
    socket: Arc<std::net::TcpStream>,
) -> Result<Response<Body>, Reset> {
    shared.requests.fetch_add(1, Ordering::SeqCst);
    let path = request.uri().path().to_owned();
    let mut parts = path.trim_start_matches('/').split('/');
    let behaviour = parts.next().unwrap_or_default();
    shared.saw(behaviour);
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
        "mix" => {
            let [shortest, short, long, one_of] = [number(), number(), number(), number()];
            let is_long = one_of > 0 && fastrand::u64(0..one_of) == 0;
            let (from, to) = if is_long { (short, long) } else { (shortest, short) };
            tokio::time::sleep(Duration::from_millis(fastrand::u64(from..=to.max(from)))).await;
            Ok(text(StatusCode::OK, "delayed\n"))
        }
        "hold" if path == "/hold/after" => Ok(Response::new(held_body(Held::new(&shared)))),
        "hold" => {
            Held::new(&shared).release().await;
            Ok(text(StatusCode::OK, "released\n"))
        }
        "upload" => {
            let _held = Held::new(&shared);
            let complete = request.into_body().collect().await;
            complete.map_err(|_| Reset)?;
            Ok(text(StatusCode::OK, "received\n"))
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
        "large" => {
            let length = usize::try_from(number()).unwrap_or(0);
            let body = Full::new(Bytes::from(vec![b'x'; length])).map_err(never);
            Ok(Response::new(body.boxed_unsync()))
        }
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

impl Shared {
    fn saw(&self, behaviour: &str) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen.entry(behaviour.to_owned()).or_default() += 1;
    }
}

/// A request that is held. Counts down also when the request is given up.
struct Held {
    shared: Arc<Shared>,
    released: watch::Receiver<u64>,
}

impl Held {
    fn new(shared: &Arc<Shared>) -> Self {
        let released = shared.released.subscribe();
        shared.held.fetch_add(1, Ordering::SeqCst);
        Self {
            shared: Arc::clone(shared),
            released,
        }
    }

    async fn release(mut self) {
        let _ = self.released.changed().await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.held.fetch_sub(1, Ordering::SeqCst);
    }
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

fn held_body(held: Held) -> Body {
    let first = Ok(Frame::data(Bytes::from_static(b"held\n")));
    let frames = futures::stream::iter([first]).chain(futures::stream::once(async {
        held.release().await;
        Ok(Frame::data(Bytes::from_static(b"released\n")))
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
