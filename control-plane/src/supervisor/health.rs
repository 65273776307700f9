//! `/ready` and `/live` over HTTP, for load balancers and orchestrators.

use std::{collections::VecDeque, convert::Infallible, io, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Bytes, body::Incoming, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    task::AbortHandle,
    time::timeout,
};

use super::{drains::Drains, handle::Handle, probe::clear_stale_socket};
use crate::{
    address::Address,
    limits,
    socket::{self, Accept, Faults, SocketFile},
};

/// A connection on which nothing is asked for this long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// How long the engine may take to say whether something is being drained.
const ANSWER: Duration = Duration::from_millis(500);

/// A bound health endpoint.
#[derive(Debug)]
pub struct Health(Listener);

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// The connections of now, oldest first. A probe takes milliseconds, so one that needs the room of another ends the oldest,
/// which is idle.
#[derive(Debug, Default)]
struct Open(VecDeque<AbortHandle>);

#[derive(Clone, Debug)]
struct Answers {
    supervisor: Handle,
    drains: Drains,
}

impl Health {
    /// Binds it. A Unix socket gets mode 0600; one that a dead process left is replaced.
    ///
    /// # Errors
    /// It cannot be bound.
    pub async fn bind(address: &Address) -> io::Result<Self> {
        Ok(Self(match address {
            Address::Tcp { host, port } => Listener::Tcp(TcpListener::bind((host.as_str(), *port)).await?),
            Address::Unix(path) => {
                clear_stale_socket(path);
                let (listener, file) = socket::bind(path)?;
                Listener::Unix(listener, file)
            }
        }))
    }

    /// Answers until it is dropped.
    pub async fn serve(self, supervisor: Handle, drains: Drains) {
        let answers = Answers { supervisor, drains };
        match self.0 {
            Listener::Tcp(listener) => answers.accept(&listener).await,
            // Its file goes with it.
            Listener::Unix(listener, _file) => answers.accept(&listener).await,
        }
    }
}

impl Open {
    fn add(&mut self, connection: AbortHandle) {
        self.0.retain(|other| !other.is_finished());
        if self.0.len() >= limits::health_connections()
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
        self.0.push_back(connection);
    }
}

impl Answers {
    async fn accept<L>(&self, listener: &L)
    where
        L: Accept<Io: AsyncRead + AsyncWrite + Unpin + Send + 'static>,
    {
        let (mut faults, mut open) = (Faults::new("the health endpoint"), Open::default());
        loop {
            let stream = listener.next(&mut faults).await;
            open.add(self.spawn(stream));
        }
    }

    fn spawn<S>(&self, stream: S) -> AbortHandle
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let answers = self.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answers.answer(request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(IDLE)
                .serve_connection(TokioIo::new(stream), service);
            // Who speaks nonsense or hangs up is gone.
            let _ = connection.await;
        })
        .abort_handle()
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (status, text) = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/live") => (StatusCode::OK, "alive".to_owned()),
            (&Method::GET | &Method::HEAD, "/ready") => match self.unready().await {
                None => (StatusCode::OK, "ready".to_owned()),
                Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
            },
            (_, "/live" | "/ready") => (StatusCode::METHOD_NOT_ALLOWED, "use GET".to_owned()),
            _ => (StatusCode::NOT_FOUND, "there is /ready and /live".to_owned()),
        };
        let mut response = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
        *response.status_mut() = status;
        Ok(response)
    }

    /// Why load balancers should go elsewhere.
    async fn unready(&self) -> Option<String> {
        if let Some(why) = self.supervisor.status().borrow().unready.clone() {
            return Some(why);
        }
        match timeout(ANSWER, self.drains.closing()).await {
            Ok(closing) => closing,
            Err(_) => Some("the control plane does not answer".to_owned()),
        }
    }
}
