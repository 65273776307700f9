//! One link of a gateway's chain of processes: an HTTP/1.1 server that asks the next link before it answers. On SIGTERM
//! it ends at once and takes its requests with it, as many servers do; what it was asked and told goes into a journal.

use std::{
    convert::Infallible,
    fs::{File, OpenOptions},
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Parser;
use ebb_e2e::client::http1;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, UnixStream},
    signal::unix::{SignalKind, signal},
};

#[derive(Debug, Parser)]
struct Args {
    /// What the journal calls it.
    #[arg(long)]
    name: String,
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
    /// The link that it asks for every request.
    #[arg(long)]
    next: Option<SocketAddr>,
    /// Appended to.
    #[arg(long)]
    journal: PathBuf,
    /// How long it takes for a request, in milliseconds.
    #[arg(long, default_value_t = 0)]
    takes: u64,
    /// The Unix socket of a process that should be gone when this one is told to stop.
    #[arg(long)]
    before: Option<PathBuf>,
}

#[derive(Debug)]
struct Link {
    args: Args,
    in_flight: AtomicUsize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let mut stop = signal(SignalKind::terminate())?;
    let mut journal = OpenOptions::new().create(true).append(true).open(&args.journal)?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("{} cannot listen on {}", args.name, args.listen))?;
    let link = Arc::new(Link {
        args,
        in_flight: AtomicUsize::new(0),
    });
    note(&mut journal, &link, "start")?;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let link = Arc::clone(&link);
                tokio::spawn(async move {
                    let service = service_fn(|request| respond(Arc::clone(&link), request));
                    let connection = conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    // Who hangs up is gone.
                    let _ = connection.await;
                });
            }
            _ = stop.recv() => break,
        }
    }
    let before = match &link.args.before {
        Some(socket) => lives(socket).await,
        None => false,
    };
    let in_flight = link.in_flight.load(Ordering::SeqCst);
    note(
        &mut journal,
        &link,
        &format!("term in_flight={in_flight} before_alive={before}"),
    )
}

async fn respond(link: Arc<Link>, _request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    link.in_flight.fetch_add(1, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(link.args.takes)).await;
    let status = match link.args.next {
        Some(next) => ask(next).await,
        None => StatusCode::OK,
    };
    link.in_flight.fetch_sub(1, Ordering::SeqCst);
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    Ok(response)
}

async fn ask(next: SocketAddr) -> StatusCode {
    let asked = async { http1::Connection::open(next).await?.get("/").await };
    match asked.await {
        Ok(response) => response.status,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn lives(socket: &Path) -> bool {
    UnixStream::connect(socket).await.is_ok()
}

fn note(journal: &mut File, link: &Link, what: &str) -> Result<()> {
    // One write, so that lines of several processes stay whole.
    journal.write_all(format!("{} {what}\n", link.args.name).as_bytes())?;
    Ok(())
}
