//! A typed client of the control plane, and short ways to say what tests say often.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use ebb_proto::v1::{
    CancelDrainRequest, Drain, DrainReport, GetDrainRequest, GetReportRequest, ListBlockersRequest,
    ListDrainsRequest, ListNodesRequest, ListProcessesRequest, Node, NodeBlocker, Phase, Policy, Process,
    Scope, StartDrainRequest, WatchDrainRequest, WatchDrainResponse,
    drain_service_client::DrainServiceClient, fleet_service_client::FleetServiceClient,
    process_service_client::ProcessServiceClient,
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};

use crate::wait;

/// A request to drain `listeners` of every node, by the default policy.
#[must_use]
pub fn drain_of(listeners: &[&str]) -> StartDrainRequest {
    let listeners = listeners.iter().map(|&name| name.to_owned()).collect();
    let scope = Scope {
        listeners,
        ..Scope::default()
    };
    StartDrainRequest {
        scope: Some(scope),
        policy: Some(Policy::default()),
        ..StartDrainRequest::default()
    }
}

/// A duration as the wire has it.
#[must_use]
pub fn proto(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// A typed client of a control plane.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    /// Starts, watches and ends drains.
    pub drain_service: DrainServiceClient<Channel>,
    /// Shows what is attached.
    pub fleet_service: FleetServiceClient<Channel>,
}

impl Client {
    /// The connection, for further services.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Connects over a Unix socket.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let path = socket.to_path_buf();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The connector ignores the address, which only has to be well-formed.
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(connector)
            .await
            .with_context(|| format!("cannot connect to {}", socket.display()))?;
        let drain_service = DrainServiceClient::new(channel.clone());
        let fleet_service = FleetServiceClient::new(channel.clone());
        Ok(Self {
            channel,
            drain_service,
            fleet_service,
        })
    }

    /// Starts a drain.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn start(&mut self, request: StartDrainRequest) -> Result<Drain, Status> {
        let response = self.drain_service.start_drain(request).await?.into_inner();
        response
            .drain
            .ok_or_else(|| Status::internal("StartDrain answered without a drain"))
    }

    /// A drain as it stands.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn drain(&mut self, id: &str) -> Result<Drain, Status> {
        let response = self
            .drain_service
            .get_drain(GetDrainRequest { id: id.to_owned() })
            .await?
            .into_inner();
        response
            .drain
            .ok_or_else(|| Status::internal("GetDrain answered without a drain"))
    }

    /// All drains, oldest first.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn drains(&mut self) -> Result<Vec<Drain>, Status> {
        let (mut drains, mut request) = (Vec::new(), ListDrainsRequest::default());
        loop {
            let page = self
                .drain_service
                .list_drains(request.clone())
                .await?
                .into_inner();
            drains.extend(page.drains);
            if page.next_page_token.is_empty() {
                return Ok(drains);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Cancels or releases a drain.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn cancel(&mut self, id: &str) -> Result<Drain, Status> {
        let request = CancelDrainRequest { id: id.to_owned() };
        let response = self.drain_service.cancel_drain(request).await?.into_inner();
        response
            .drain
            .ok_or_else(|| Status::internal("CancelDrain answered without a drain"))
    }

    /// Follows a drain.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn watch(&mut self, id: &str) -> Result<Streaming<WatchDrainResponse>, Status> {
        let request = WatchDrainRequest { id: id.to_owned() };
        Ok(self.drain_service.watch_drain(request).await?.into_inner())
    }

    /// What a drain did.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn report(&mut self, id: &str) -> Result<DrainReport, Status> {
        let request = GetReportRequest { id: id.to_owned() };
        let response = self.drain_service.get_report(request).await?.into_inner();
        response
            .report
            .ok_or_else(|| Status::internal("GetReport answered without a report"))
    }

    /// The oldest requests in flight, of a drain or, without an id, of everything; `0` = as many as it is by default.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn blockers(&mut self, drain_id: &str, limit: u32) -> Result<Vec<NodeBlocker>, Status> {
        let request = ListBlockersRequest {
            drain_id: drain_id.to_owned(),
            limit,
        };
        Ok(self
            .drain_service
            .list_blockers(request)
            .await?
            .into_inner()
            .blockers)
    }

    /// Waits until a drain is in `phase`.
    ///
    /// # Errors
    /// When it is not within `bound`.
    pub async fn wait_for_phase(&mut self, id: &str, phase: Phase, bound: Duration) -> Result<Drain> {
        let what = format!("drain {id} is {}", phase.as_str_name());
        wait::eventually(what, bound, || {
            let mut client = self.clone();
            async move { Ok(Some(client.drain(id).await?).filter(|drain| drain.phase() == phase)) }
        })
        .await
    }

    /// Waits until a drain counts `in_flight` requests.
    ///
    /// # Errors
    /// When it does not within [`wait::PATIENCE`].
    pub async fn wait_for_in_flight(&mut self, id: &str, in_flight: u64) -> Result<Drain> {
        let what = format!("drain {id} counts {in_flight} requests in flight");
        wait::eventually(what, wait::PATIENCE, || {
            let mut client = self.clone();
            async move { Ok(Some(client.drain(id).await?).filter(|drain| drain.in_flight == in_flight)) }
        })
        .await
    }

    /// The processes that `ebb run` keeps.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn processes(&mut self) -> Result<Vec<Process>, Status> {
        let mut service = ProcessServiceClient::new(self.channel());
        let response = service.list_processes(ListProcessesRequest {}).await?;
        Ok(response.into_inner().processes)
    }

    /// What is attached.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn nodes(&mut self) -> Result<Vec<Node>, Status> {
        let (mut nodes, mut request) = (Vec::new(), ListNodesRequest::default());
        loop {
            let page = self.fleet_service.list_nodes(request.clone()).await?.into_inner();
            nodes.extend(page.nodes);
            if page.next_page_token.is_empty() {
                return Ok(nodes);
            }
            request.page_token = page.next_page_token;
        }
    }
}
