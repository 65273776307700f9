//! The upstreams and the ext_authz service, over HTTP/1.1.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt as _, Empty, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, task::JoinSet};

use super::book::{Book, Held, Holder};

/// Of a body, in bytes.
const CHUNK: usize = 16 << 10;
static FILLING: [u8; CHUNK] = [b'x'; CHUNK];

/// Which service.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    Upstream,
    Authz,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

pub(super) async fn accept(listener: TcpListener, role: Role, book: Book) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                let book = book.clone();
                let service = service_fn(move |request| respond(request, role, book.clone()));
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service);
                connections.spawn(async move {
                    // A client that leaves is noted where the request was held.
                    let _ = connection.await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// What a path says.
struct Told {
    id: u64,
    authz: Duration,
    hold: Duration,
    bytes: usize,
}

impl Told {
    fn read(path: &str) -> Option<Self> {
        let mut parts = path.split('/').skip(2);
        let mut number = || parts.next()?.parse::<u64>().ok();
        Some(Self {
            id: number()?,
            authz: Duration::from_millis(number()?),
            hold: Duration::from_millis(number()?),
            bytes: usize::try_from(number()?).ok()?,
        })
    }
}

async fn respond(request: Request<Incoming>, role: Role, book: Book) -> Result<Response<Body>, Infallible> {
    let Some(told) = Told::read(request.uri().path()) else {
        let mut response = Response::new(Empty::new().boxed_unsync());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    };
    Ok(match role {
        Role::Authz => {
            let held = book.hold(told.id, Holder::Authz);
            tokio::time::sleep(told.authz).await;
            held.answered();
            Response::new(Empty::new().boxed_unsync())
        }
        Role::Upstream => {
            let held = book.hold(told.id, Holder::Upstream);
            tokio::time::sleep(told.hold).await;
            Response::new(body(told.bytes, held))
        }
    })
}

/// That many bytes. The request is answered when the last of them has been taken.
fn body(bytes: usize, held: Held) -> Body {
    let frames = stream::unfold((bytes, Some(held)), |(left, held)| async move {
        let held = held?;
        let chunk = left.min(CHUNK);
        let left = left - chunk;
        let data = Bytes::from_static(FILLING.get(..chunk).unwrap_or_default());
        let held = if left == 0 {
            held.answered();
            None
        } else {
            Some(held)
        };
        Some((Ok(Frame::data(data)), (left, held)))
    });
    StreamBody::new(frames).boxed_unsync()
}
