//! A connection to the control plane: every call is bounded, every error is one line.

use std::{error::Error as StdError, future::Future, io, path::PathBuf, time::Duration};

use ebb_proto::v1::{
    Drain, ListDrainsRequest, ListNodesRequest, Node, drain_service_client::DrainServiceClient,
    fleet_service_client::FleetServiceClient, process_service_client::ProcessServiceClient,
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint, Uri},
};

use super::{exit::Failure, output::one_line};
use crate::address::Address;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a silent connection is tried, and how long the answer may take: a peer that has vanished is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// More pages than any list has: one that does not end is not followed.
const MOST_PAGES: usize = 100_000;
/// A large fleet with many drains is more than tonic's 4 MiB. In bytes.
const MESSAGE_MAX: usize = 64 << 20;

/// Why a call failed, in one line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The control plane could not be reached, or is in no state to answer: trying again can help.
    #[error("{0}")]
    Unavailable(String),
    /// The control plane has answered no.
    #[error("{0}")]
    Refused(String),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Error(error.to_string())
    }
}

/// A connection to the control plane.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    address: Address,
    channel: Channel,
}

impl Client {
    /// Connects within 3 s.
    ///
    /// # Errors
    /// [`CallError::Unavailable`], with what to look at.
    pub(crate) async fn connect(address: &Address) -> Result<Self, CallError> {
        let unreachable = |reason: &str| {
            CallError::Unavailable(format!(
                "cannot reach the control plane at {address}: {}",
                one_line(reason)
            ))
        };
        match timeout(CONNECT_TIMEOUT, connect(address)).await {
            Ok(Ok(channel)) => Ok(Self {
                address: address.clone(),
                channel,
            }),
            Ok(Err(error)) => Err(unreachable(&explain(&error))),
            Err(_) => Err(unreachable(&format!(
                "no connection within {}s",
                CONNECT_TIMEOUT.as_secs()
            ))),
        }
    }

    /// The drains' calls.
    pub(crate) fn drains(&self) -> DrainServiceClient<Channel> {
        DrainServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    /// All drains, oldest first.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub(crate) async fn all_drains(&self) -> Result<Vec<Drain>, CallError> {
        let (mut drains, mut request) = (Vec::new(), ListDrainsRequest::default());
        for _ in 0..MOST_PAGES {
            let page = self.call(self.drains().list_drains(request.clone())).await?;
            drains.extend(page.drains);
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        Ok(drains)
    }

    /// All nodes, sorted by id.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub(crate) async fn nodes(&self) -> Result<Vec<Node>, CallError> {
        let (mut nodes, mut request) = (Vec::new(), ListNodesRequest::default());
        for _ in 0..MOST_PAGES {
            let page = self.call(self.fleet().list_nodes(request.clone())).await?;
            nodes.extend(page.nodes);
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        Ok(nodes)
    }

    /// The fleet's calls.
    pub(crate) fn fleet(&self) -> FleetServiceClient<Channel> {
        FleetServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    /// The processes' calls.
    pub(crate) fn processes(&self) -> ProcessServiceClient<Channel> {
        ProcessServiceClient::new(self.channel.clone())
    }

    /// Waits at most 5 s for the answer to a call, or for a stream to open.
    ///
    /// # Errors
    /// What the control plane answered, or why it did not.
    pub(crate) async fn call<T>(
        &self,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CallError> {
        self.call_within(CALL_TIMEOUT, answer).await
    }

    /// As [`Client::call`], for an answer that may take longer than others.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub(crate) async fn call_within<T>(
        &self,
        bound: Duration,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CallError> {
        match timeout(bound, answer).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.error(&status)),
            Err(_) => Err(CallError::Unavailable(format!(
                "the control plane at {} did not answer within {}s",
                self.address,
                bound.as_secs()
            ))),
        }
    }

    /// What a status means to the caller.
    pub(crate) fn error(&self, status: &Status) -> CallError {
        // Only a status that was made on this side has a source: nothing came back from the control plane.
        if let Some(source) = status.source() {
            let reason = one_line(&root_cause(source).to_string());
            return CallError::Unavailable(format!(
                "lost the connection to the control plane at {}: {reason}",
                self.address
            ));
        }
        let message = match status.message() {
            "" => status.code().description(),
            message => message,
        };
        let message = one_line(message);
        match status.code() {
            Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::Aborted => {
                CallError::Unavailable(message)
            }
            Code::DeadlineExceeded | Code::ResourceExhausted => CallError::Unavailable(message),
            _ => CallError::Refused(message),
        }
    }
}

async fn connect(address: &Address) -> Result<Channel, tonic::transport::Error> {
    let endpoint = match address {
        // The name only fills the `:authority` header.
        Address::Unix(_) => Endpoint::from_static("http://localhost"),
        Address::Tcp { .. } => Endpoint::from_shared(format!("http://{address}"))?,
    };
    let endpoint = endpoint
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    match address {
        Address::Tcp { .. } => endpoint.connect().await,
        Address::Unix(path) => {
            endpoint
                .connect_with_connector(unix_connector(path.clone()))
                .await
        }
    }
}

fn unix_connector(
    path: PathBuf,
) -> impl tower::Service<
    Uri,
    Response = TokioIo<UnixStream>,
    Error = io::Error,
    Future = impl Future<Output = io::Result<TokioIo<UnixStream>>> + Send,
> + Send {
    tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    })
}

/// Why there is no connection, and what to look at.
fn explain(error: &tonic::transport::Error) -> String {
    const SET: &str = "(set --endpoint or EBB_ENDPOINT)";
    let cause = root_cause(error);
    match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::NotFound) => format!("no such file; is `ebb serve` running? {SET}"),
        Some(io::ErrorKind::ConnectionRefused) => {
            format!("connection refused; is `ebb serve` running? {SET}")
        }
        Some(io::ErrorKind::PermissionDenied) => {
            "permission denied; run this as the user of `ebb serve`, or as root".to_owned()
        }
        _ => format!("{cause} {SET}"),
    }
}

/// The innermost error: the outer ones only say "transport error".
fn root_cause<'a>(mut error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}
