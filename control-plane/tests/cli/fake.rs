//! A control plane that answers what a test tells it to.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ebb_proto::v1::{
    drain_service_server::{DrainService, DrainServiceServer},
    fleet_service_server::{FleetService, FleetServiceServer},
    process_service_server::{ProcessService, ProcessServiceServer},
    *,
};
use tokio::{net::UnixListener, runtime::Runtime, sync::watch};
use tokio_stream::{
    StreamExt as _,
    wrappers::{UnixListenerStream, WatchStream},
};
use tonic::{Request, Response, Status, transport::Server};

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

/// What the control plane says, and what it was asked.
#[derive(Clone)]
pub(crate) struct Says {
    pub(crate) drain: watch::Sender<Drain>,
    pub(crate) nodes: watch::Sender<Vec<Node>>,
    pub(crate) asked: Arc<Mutex<Vec<StartDrainRequest>>>,
    /// Of the drain that there is; its own drain is taken from `drain`.
    pub(crate) report: watch::Sender<DrainReport>,
    pub(crate) blockers: watch::Sender<Vec<NodeBlocker>>,
    pub(crate) asked_for_blockers: Arc<Mutex<Vec<ListBlockersRequest>>>,
    pub(crate) processes: watch::Sender<Vec<Process>>,
    /// How often the processes were listed.
    pub(crate) listed: Arc<AtomicUsize>,
}

/// A running control plane; dropped, it is gone with all its connections.
pub(crate) struct Fake {
    pub(crate) says: Says,
    directory: tempfile::TempDir,
    runtime: Option<Runtime>,
}

impl Fake {
    /// One drain `d-1` that is on, with three requests on `edge-1/ingress`.
    pub(crate) fn start() -> Self {
        let says = Says {
            drain: watch::Sender::new(drain(Phase::Draining, 3)),
            nodes: watch::Sender::new(vec![node("edge-1", 3)]),
            asked: Arc::default(),
            report: watch::Sender::new(DrainReport::default()),
            blockers: watch::Sender::new(Vec::new()),
            asked_for_blockers: Arc::default(),
            processes: watch::Sender::new(Vec::new()),
            listed: Arc::default(),
        };
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut fake = Self {
            says,
            directory,
            runtime: None,
        };
        fake.serve();
        fake
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("ebb.sock")
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    /// Breaks every connection and takes the socket away.
    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
        let _ = std::fs::remove_file(self.socket());
    }

    /// Serves again, with what it knew.
    pub(crate) fn serve(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = runtime.expect("runtime");
        let listener = runtime
            .block_on(async { UnixListener::bind(self.socket()) })
            .expect("socket");
        let server = Server::builder()
            .add_service(DrainServiceServer::new(self.says.clone()))
            .add_service(FleetServiceServer::new(self.says.clone()))
            .add_service(ProcessServiceServer::new(self.says.clone()))
            .serve_with_incoming(UnixListenerStream::new(listener));
        runtime.spawn(server);
        self.runtime = Some(runtime);
    }

    pub(crate) fn say_drain(&self, drain: Drain) {
        self.says.drain.send_replace(drain);
    }

    pub(crate) fn say_nodes(&self, nodes: Vec<Node>) {
        self.says.nodes.send_replace(nodes);
    }

    pub(crate) fn say_processes(&self, processes: Vec<Process>) {
        self.says.processes.send_replace(processes);
    }

    pub(crate) fn say_report(&self, report: DrainReport) {
        self.says.report.send_replace(report);
    }

    pub(crate) fn say_blockers(&self, blockers: Vec<NodeBlocker>) {
        self.says.blockers.send_replace(blockers);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The drain `d-1` of `edge-1/ingress`.
pub(crate) fn drain(phase: Phase, in_flight: u64) -> Drain {
    Drain {
        id: "d-1".into(),
        scope: Some(Scope {
            nodes: vec![],
            listeners: vec!["ingress".into()],
            ..Scope::default()
        }),
        policy: Some(Policy {
            timeout: Some(seconds(30)),
            ..Policy::default()
        }),
        phase: phase.into(),
        elapsed: Some(prost_types::Duration {
            seconds: 1,
            nanos: 500_000_000,
        }),
        in_flight,
        listeners: vec![DrainListener {
            node: "edge-1".into(),
            name: "ingress".into(),
            in_flight,
            requests_during_drain: 40,
            marked_during_drain: 37,
        }],
        holding: phase != Phase::Cancelled,
        ..Drain::default()
    }
}

/// A node with one listener `ingress` and two reporters, one of them unknown.
pub(crate) fn node(id: &str, in_flight: u64) -> Node {
    let reporter = |id: &str, state: ReporterState, reason: &str| Reporter {
        id: id.into(),
        state: state.into(),
        reason: reason.into(),
        ..Reporter::default()
    };
    Node {
        id: id.into(),
        cluster: "edge".into(),
        reporters: vec![
            reporter("00000000000000a1", ReporterState::Live, ""),
            reporter("00000000000000a2", ReporterState::Unknown, "silent for 1.5s"),
        ],
        listeners: vec![Listener {
            name: "ingress".into(),
            in_flight,
            phase: Phase::Unspecified.into(),
        }],
        ..Node::default()
    }
}

/// A process that runs.
pub(crate) fn process(name: &str, state: ProcessState) -> Process {
    Process {
        name: name.into(),
        state: state.into(),
        pid: 42,
        uptime: Some(seconds(90)),
        ..Process::default()
    }
}

pub(crate) fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

impl Says {
    fn known(&self, id: &str) -> Result<Drain, Status> {
        let drain = self.drain.borrow().clone();
        if drain.id == id {
            Ok(drain)
        } else {
            Err(Status::not_found(format!("no drain `{id}`")))
        }
    }
}

#[tonic::async_trait]
impl DrainService for Says {
    async fn start_drain(&self, request: Request<StartDrainRequest>) -> Answer<StartDrainResponse> {
        let request = request.into_inner();
        let listeners = request.scope.clone().unwrap_or_default().listeners;
        if listeners.iter().any(|name| name == "nope") {
            return Err(Status::not_found(
                "no listener `nope`: known are\n`ingress`, `internal`",
            ));
        }
        self.asked.lock().expect("lock").push(request);
        Ok(Response::new(StartDrainResponse {
            drain: Some(self.drain.borrow().clone()),
        }))
    }

    async fn get_drain(&self, request: Request<GetDrainRequest>) -> Answer<GetDrainResponse> {
        Ok(Response::new(GetDrainResponse {
            drain: Some(self.known(&request.into_inner().id)?),
        }))
    }

    async fn list_drains(&self, _: Request<ListDrainsRequest>) -> Answer<ListDrainsResponse> {
        Ok(Response::new(ListDrainsResponse {
            next_page_token: String::new(),
            drains: vec![self.drain.borrow().clone()],
        }))
    }

    type WatchDrainStream = Stream<WatchDrainResponse>;

    async fn watch_drain(&self, request: Request<WatchDrainRequest>) -> Answer<Self::WatchDrainStream> {
        self.known(&request.into_inner().id)?;
        let states = WatchStream::new(self.drain.subscribe());
        Ok(Response::new(Box::pin(
            states.map(|drain| Ok(WatchDrainResponse { drain: Some(drain) })),
        )))
    }

    async fn cancel_drain(&self, request: Request<CancelDrainRequest>) -> Answer<CancelDrainResponse> {
        let drain = self.known(&request.into_inner().id)?;
        let ended = matches!(drain.phase(), Phase::Drained | Phase::TimedOut | Phase::Cancelled);
        let phase = if ended {
            drain.phase
        } else {
            Phase::Cancelled.into()
        };
        let drain = Drain {
            phase,
            holding: false,
            ..drain
        };
        self.drain.send_replace(drain.clone());
        Ok(Response::new(CancelDrainResponse { drain: Some(drain) }))
    }

    async fn get_report(&self, request: Request<GetReportRequest>) -> Answer<GetReportResponse> {
        let report = DrainReport {
            drain: Some(self.known(&request.into_inner().id)?),
            ..self.report.borrow().clone()
        };
        Ok(Response::new(GetReportResponse { report: Some(report) }))
    }

    async fn list_blockers(&self, request: Request<ListBlockersRequest>) -> Answer<ListBlockersResponse> {
        let request = request.into_inner();
        if !request.drain_id.is_empty() {
            self.known(&request.drain_id)?;
        }
        self.asked_for_blockers.lock().expect("lock").push(request);
        let blockers = self.blockers.borrow().clone();
        Ok(Response::new(ListBlockersResponse { blockers }))
    }
}

#[tonic::async_trait]
impl FleetService for Says {
    /// A node on each page.
    async fn list_nodes(&self, request: Request<ListNodesRequest>) -> Answer<ListNodesResponse> {
        let place: usize = request.into_inner().page_token.parse().unwrap_or(0);
        let nodes = self.nodes.borrow();
        let next = Some(place + 1).filter(|next| *next < nodes.len());
        Ok(Response::new(ListNodesResponse {
            nodes: nodes.get(place).cloned().into_iter().collect(),
            next_page_token: next.map(|next| next.to_string()).unwrap_or_default(),
        }))
    }

    async fn restore_node(&self, request: Request<RestoreNodeRequest>) -> Answer<RestoreNodeResponse> {
        let node = request.into_inner().node;
        match node.as_str() {
            "edge-1" => Ok(Response::new(RestoreNodeResponse { envoys: 2 })),
            _ => Err(Status::not_found(format!(
                "no admin endpoint of node {node:?} is known"
            ))),
        }
    }

    async fn forget_node(&self, request: Request<ForgetNodeRequest>) -> Answer<ForgetNodeResponse> {
        let node = request.into_inner().node;
        let mut reporters = 0;
        self.nodes.send_modify(|nodes| {
            let gone = nodes.extract_if(.., |known| known.id == node);
            reporters = gone
                .map(|node| u32::try_from(node.reporters.len()).expect("few"))
                .sum();
        });
        if reporters == 0 {
            return Err(Status::not_found(format!("no node {node:?} is known")));
        }
        Ok(Response::new(ForgetNodeResponse { reporters }))
    }

    type WatchNodesStream = Stream<WatchNodesResponse>;

    async fn watch_nodes(&self, _: Request<WatchNodesRequest>) -> Answer<Self::WatchNodesStream> {
        let states = WatchStream::new(self.nodes.subscribe());
        Ok(Response::new(Box::pin(
            states.map(|nodes| Ok(WatchNodesResponse { nodes, more: false })),
        )))
    }
}

#[tonic::async_trait]
impl ProcessService for Says {
    async fn list_processes(&self, _: Request<ListProcessesRequest>) -> Answer<ListProcessesResponse> {
        self.listed.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(ListProcessesResponse {
            processes: self.processes.borrow().clone(),
        }))
    }

    type WatchProcessesStream = Stream<WatchProcessesResponse>;

    async fn watch_processes(&self, _: Request<WatchProcessesRequest>) -> Answer<Self::WatchProcessesStream> {
        let states = WatchStream::new(self.processes.subscribe());
        Ok(Response::new(Box::pin(
            states.map(|processes| Ok(WatchProcessesResponse { processes })),
        )))
    }

    type ShutdownStream = Stream<ShutdownResponse>;

    async fn shutdown(&self, _: Request<ShutdownRequest>) -> Answer<Self::ShutdownStream> {
        Err(Status::failed_precondition("no process is kept here"))
    }
}
