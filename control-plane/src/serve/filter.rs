//! `FilterService`: one task per stream takes its reports in; its commands go out of a slot that holds the latest.

use std::pin::Pin;

use ebb_proto::v1::{FilterCommand, FilterHello, FilterReport, filter_service_server::FilterService};
use futures::{FutureExt as _, Stream, stream};
use tokio::sync::{oneshot, watch};
use tonic::{Request, Response, Status, Streaming, transport::server::UdsConnectInfo};

use super::gone;
use crate::{
    core::fleet::{
        Peer, StreamId,
        limits::{self, Excess, LONGEST_NAME},
    },
    engine::{Engine, Outgoing},
    local,
};

/// The largest report, in bytes: thousands of listeners.
pub(super) const MAX_REPORT: usize = 1024 * 1024;

/// How long a filter may take to say who it is.
const HELLO_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

/// Reports that may have come and not been read when a stream ends.
const BUFFERED: usize = 64;

/// The service.
#[derive(Debug)]
pub(super) struct Filters {
    engine: Engine,
}

impl Filters {
    pub(super) fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl FilterService for Filters {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<FilterCommand, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<FilterReport>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let peer = peer(&request);
        let mut reports = request.into_inner();
        let first = tokio::time::timeout(HELLO_WITHIN, reports.message())
            .await
            .map_err(|_| Status::deadline_exceeded(format!("no hello within {HELLO_WITHIN:?}")))??;
        let mut first = first.ok_or_else(|| Status::invalid_argument("the stream ended before its hello"))?;
        let hello = checked(first.hello.take())?;
        limits::check(&first).map_err(|excess| {
            let node = &hello.node_id;
            tracing::warn!(node, why = %excess, "a filter's stream is refused");
            Status::invalid_argument(excess.to_string())
        })?;
        let (stream, commands) = self.engine.attach(hello, first, peer).await.map_err(gone)?;
        // Its end may have come while this waited for the hello.
        if commands.has_changed().is_err() {
            return Err(gone(crate::engine::Gone));
        }
        let (ended, until) = oneshot::channel();
        tokio::spawn(take_in(self.engine.clone(), stream, reports, until));
        Ok(Response::new(Box::pin(send_out(commands, ended))))
    }
}

/// Where a stream comes from: the process at the other end of a Unix socket, or the host of a TCP connection.
fn peer<T>(request: &Request<T>) -> Option<Peer> {
    if let Some(unix) = request.extensions().get::<UdsConnectInfo>() {
        // 0 across namespaces of pids.
        let pid = unix.peer_cred?.pid().filter(|pid| *pid > 0)?;
        return local::find(pid).map(Peer::Local);
    }
    request.remote_addr().map(|address| Peer::Host(address.ip()))
}

fn checked(hello: Option<FilterHello>) -> Result<FilterHello, Status> {
    let hello = hello.ok_or_else(|| Status::invalid_argument("hello: missing in the first report"))?;
    for (field, value) in [
        ("node_id", &hello.node_id),
        ("node_cluster", &hello.node_cluster),
        ("version", &hello.version),
    ] {
        if value.len() > LONGEST_NAME {
            return Err(Status::invalid_argument(format!(
                "hello.{field}: longer than {LONGEST_NAME} bytes"
            )));
        }
    }
    if hello.node_id.is_empty() {
        return Err(Status::invalid_argument(
            "hello.node_id: empty; set `node.id` in the Envoy bootstrap",
        ));
    }
    if hello.epoch == 0 || hello.process == 0 {
        return Err(Status::invalid_argument("hello: epoch and process must not be 0"));
    }
    Ok(hello)
}

/// Takes reports in until the stream ends on either side.
async fn take_in(
    engine: Engine,
    stream: StreamId,
    mut reports: Streaming<FilterReport>,
    mut until: oneshot::Receiver<std::convert::Infallible>,
) {
    loop {
        let report = tokio::select! {
            report = reports.message() => report,
            _ = &mut until => break take_the_rest(&engine, stream, &mut reports).await,
        };
        let (report, then) = match report {
            Ok(Some(report)) => latest(report, &mut reports),
            Ok(None) | Err(_) => break,
        };
        if let Some(report) = report
            && engine.report(stream, report).await.is_err()
        {
            return;
        }
        match then {
            Then::GoesOn => {}
            Then::Ends => break,
            Then::IsRefused(excess) => {
                // An engine that is gone needs no word of it.
                let _ = engine.refuse(stream, excess.to_string()).await;
                break;
            }
        }
    }
    // The same.
    let _ = engine.detach(stream).await;
}

/// A VM that goes says goodbye and resets its stream: both are there at once, and the word must not be lost.
async fn take_the_rest(engine: &Engine, stream: StreamId, reports: &mut Streaming<FilterReport>) {
    for _ in 0..BUFFERED {
        match reports.message().now_or_never() {
            Some(Ok(Some(report))) if limits::check(&report).is_ok() => {
                // An engine that is gone needs no word of it.
                let _ = engine.report(stream, report).await;
            }
            _ => return,
        }
    }
}

/// What becomes of a stream.
enum Then {
    GoesOn,
    Ends,
    /// Its count is unknown from here on.
    IsRefused(Excess),
}

/// The last report that has come by now, if it can be remembered, and what becomes of the stream. Each is whole, so that one
/// which another follows tells nothing, but for the requests that it lists. Without this, thousands of filters that report
/// faster than they are heard would be heard of ever later.
fn latest(first: FilterReport, reports: &mut Streaming<FilterReport>) -> (Option<FilterReport>, Then) {
    let (mut last, mut next) = (None, first);
    loop {
        if let Err(excess) = limits::check(&next) {
            return (last, Then::IsRefused(excess));
        }
        let tells = !next.blockers.is_empty();
        last = Some(next);
        if tells {
            return (last, Then::GoesOn);
        }
        next = match reports.message().now_or_never() {
            None => return (last, Then::GoesOn),
            Some(Ok(Some(next))) => next,
            // Whatever this is, the stream ends with it.
            Some(_) => return (last, Then::Ends),
        };
    }
}

struct Commands {
    slot: watch::Receiver<Outgoing>,
    /// Dropped with the stream, which ends the task that takes its reports in.
    _ended: oneshot::Sender<std::convert::Infallible>,
}

fn send_out(
    slot: watch::Receiver<Outgoing>,
    ended: oneshot::Sender<std::convert::Infallible>,
) -> impl Stream<Item = Result<FilterCommand, Status>> {
    stream::unfold(Some(Commands { slot, _ended: ended }), |commands| async move {
        let mut commands = commands?;
        loop {
            let last = commands.slot.changed().await.is_err();
            let next = commands.slot.borrow_and_update().clone();
            return match next {
                Outgoing::Nothing if !last => continue,
                Outgoing::Command(command) if !last => Some((Ok(command), Some(commands))),
                Outgoing::Replaced => {
                    Some((Err(Status::aborted("another stream of this VM took over")), None))
                }
                Outgoing::Refused(why) => Some((Err(Status::permission_denied(why)), None)),
                // First the word that it is on purpose; the end of the slot then ends the stream.
                Outgoing::GoingAway(command) if !last => Some((Ok(command), Some(commands))),
                _ => Some((Err(gone(crate::engine::Gone)), None)),
            };
        }
    })
}
