//! The middle of a gateway's processes: an HTTP/1.1 server that Envoy asks about every request, and that asks the
//! executor before it answers.
//!
//! On SIGTERM it ends at once and takes its requests with it, as many servers do. What it did is in the gateway's journal.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Parser;
use ebb_e2e::{
    client::http1,
    gateway::journal::{Journal, What, now},
    gateway::witness,
};
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
};

#[derive(Debug, Parser)]
struct Args {
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
    /// Whom it asks for every request.
    #[arg(long)]
    executor: SocketAddr,
    /// Appended to.
    #[arg(long)]
    journal: PathBuf,
}

#[derive(Debug)]
struct Engine {
    executor: SocketAddr,
    journal: Journal,
    in_flight: AtomicUsize,
    /// Connections to the executor that are not in use.
    idle: Mutex<Vec<http1::Connection>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let mut stop = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    let engine = Arc::new(Engine {
        executor: args.executor,
        journal: Journal::open(&args.journal, "policy-engine")?,
        in_flight: AtomicUsize::new(0),
        idle: Mutex::default(),
    });
    engine.journal.note(What::Start)?;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                tokio::spawn(serve(stream, Arc::clone(&engine)));
            }
            _ = stop.recv() => break,
        }
    }
    engine.journal.note(What::Term {
        in_flight: engine.in_flight.load(Ordering::SeqCst),
        alive: witness::alive_beside_us(),
    })
}

async fn serve(stream: TcpStream, engine: Arc<Engine>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| decide(Arc::clone(&engine), request));
    let connection = conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // Who hangs up is gone.
    let _ = connection.await;
}

async fn decide(
    engine: Arc<Engine>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let began = now();
    engine.in_flight.fetch_add(1, Ordering::SeqCst);
    let status = engine.ask(request.uri().path()).await;
    engine.in_flight.fetch_sub(1, Ordering::SeqCst);
    let status = match engine.journal.note(What::Served {
        began,
        status: status.as_u16(),
    }) {
        Ok(()) => status,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    Ok(response)
}

impl Engine {
    async fn ask(&self, path: &str) -> StatusCode {
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let asked = async {
            let mut connection = match kept {
                Some(connection) => connection,
                None => http1::Connection::open(self.executor).await?,
            };
            let response = connection.get(path).await?;
            self.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(connection);
            Ok::<_, ebb_e2e::client::Failure>(response.status)
        };
        asked.await.unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
    }
}
