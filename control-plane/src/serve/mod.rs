//! The control plane as a server: its sockets, its gRPC services, and its clean end.
//!
//! | file | what |
//! |---|---|
//! | `listen` | sockets: the Unix socket's mode, stale sockets |
//! | `limits` | how many connections there may be |
//! | `filter` | `FilterService`: the streams that filters open |
//! | `drain` | `DrainService` |
//! | `fleet` | `FleetService` |
//! | `process` | `ProcessService` |

mod drain;
mod filter;
mod fleet;
mod limits;
mod listen;
mod process;

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use ebb_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{
        drain_service_server::DrainServiceServer, filter_service_server::FilterServiceServer,
        fleet_service_server::FleetServiceServer, process_service_server::ProcessServiceServer,
    },
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tonic::{server::NamedService, transport::server::Router};
use tonic_health::server::HealthReporter;

use crate::{
    address::Address,
    core::policy::Policy,
    engine::Engine,
    store::Store,
    supervisor::{self, admin::Admin},
};
use listen::Listener;

/// How long connections may take to close once their streams have been told to.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// A peer that does not answer a ping in this time is gone, and its reporters with it. Only one that has been silent is
/// pinged: filters speak every 5 s, and of a thousand of them none should cost a ping.
const PING_EVERY: Duration = Duration::from_secs(7);
const PONG_WITHIN: Duration = Duration::from_secs(5);

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where; at least one.
    pub listen: Vec<Address>,
    /// Whether a TCP address that others can reach is allowed: there is no authentication on it.
    pub insecure: bool,
    /// The folder of the durable store; `None` = memory only.
    pub state: Option<PathBuf>,
    /// What a drain's policy is where its caller says nothing.
    pub policy: Policy,
    /// Admin endpoints of Envoys, which back the filter up.
    pub admins: Vec<Address>,
}

/// A control plane that serves.
#[derive(Debug)]
pub struct Server {
    engine: Engine,
    addresses: Vec<Address>,
    health: HealthReporter,
    stop: watch::Sender<bool>,
    servers: JoinSet<anyhow::Result<()>>,
}

impl Server {
    /// Opens the store and the sockets, and serves.
    ///
    /// # Errors
    /// The store or a socket cannot be opened; the message names it.
    pub async fn start(options: ServeOptions) -> anyhow::Result<Self> {
        Self::start_with(options, None).await
    }

    /// As [`Server::start`], and tells of the processes that are kept.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn start_with(
        options: ServeOptions,
        supervisor: Option<supervisor::Handle>,
    ) -> anyhow::Result<Self> {
        if let Some(open) = options
            .listen
            .iter()
            .find(|address| !address.is_loopback() && !options.insecure)
        {
            anyhow::bail!(
                "listen {open}: others could reach it, and it has no authentication; \
                 use a Unix socket or a loopback address, or say --insecure"
            );
        }
        let store = match &options.state {
            Some(folder) => Store::open(folder)?,
            None => {
                tracing::warn!("no state folder: drains do not survive a restart of the control plane");
                Store::memory()
            }
        };
        // All of them before the first serves, so that a wrong one leaves nothing half-open.
        let mut listeners = Vec::new();
        for address in &options.listen {
            listeners.push(Listener::bind(address).await?);
        }
        let addresses = listeners
            .iter()
            .map(Listener::address)
            .collect::<Result<Vec<_>, _>>()?;
        let engine = Engine::start(
            options.policy,
            store,
            options.admins.into_iter().map(Admin).collect(),
        )?;
        let (health, health_service) = tonic_health::server::health_reporter();
        let (stop, stopped) = watch::channel(false);
        let mut servers = JoinSet::new();
        for listener in listeners {
            let router = router(&engine, supervisor.clone())?.add_service(health_service.clone());
            servers.spawn(listener.serve(router, stopped.clone()));
        }
        let server = Self {
            engine,
            addresses,
            health,
            stop,
            servers,
        };
        server.set_serving(true).await;
        Ok(server)
    }

    /// Where it can be reached, with the ports that the system chose.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The state behind it.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What grpc.health.v1 says, of every service.
    pub async fn set_serving(&self, serving: bool) {
        use tonic_health::ServingStatus::{NotServing, Serving};
        let status = if serving { Serving } else { NotServing };
        let names = [
            "",
            <FilterServiceServer<filter::Filters> as NamedService>::NAME,
            <DrainServiceServer<drain::Drains> as NamedService>::NAME,
            <FleetServiceServer<fleet::Nodes> as NamedService>::NAME,
            <ProcessServiceServer<process::Processes> as NamedService>::NAME,
        ];
        for name in names {
            self.health.set_service_status(name, status).await;
        }
    }

    /// A server that has ended by itself: why.
    ///
    /// # Errors
    /// Always, but for a server that was stopped.
    pub async fn failed(&mut self) -> anyhow::Result<()> {
        match self.servers.join_next().await {
            Some(ended) => ended.context("a listener ended")?,
            None => std::future::pending().await,
        }
    }

    /// Ends cleanly: filters are told to reconnect at once, callers get UNAVAILABLE, sockets are removed. Takes no
    /// longer than a few seconds, whatever the peers do.
    pub async fn stop(mut self) {
        self.set_serving(false).await;
        self.engine.go_away().await;
        self.stop.send_replace(true);
        let all = async { while self.servers.join_next().await.is_some() {} };
        if tokio::time::timeout(CLOSE_WITHIN, all).await.is_err() {
            tracing::warn!("some connections did not close in {CLOSE_WITHIN:?}; cutting them");
        }
        self.servers.shutdown().await;
    }
}

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// See [`Server::start`]; or a listener failed.
pub async fn run(options: ServeOptions) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    limits::allow_connections();
    let mut server = Server::start(options).await?;
    for address in server.addresses() {
        tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "serving");
    }
    let name = tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
        ended = server.failed() => return ended,
    };
    tracing::info!(signal = name, "stopping");
    server.stop().await;
    tracing::info!("stopped");
    Ok(())
}

fn router(engine: &Engine, supervisor: Option<supervisor::Handle>) -> anyhow::Result<Router> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PONG_WITHIN))
        .add_service(reflection().build_v1().context("reflection")?)
        .add_service(reflection().build_v1alpha().context("reflection")?)
        .add_service(
            FilterServiceServer::new(filter::Filters::new(engine.clone()))
                .max_decoding_message_size(filter::MAX_REPORT),
        )
        .add_service(DrainServiceServer::new(drain::Drains::new(engine.clone())))
        .add_service(FleetServiceServer::new(fleet::Nodes::new(engine.clone())))
        .add_service(ProcessServiceServer::new(process::Processes::new(supervisor))))
}

/// What a call gets once the control plane is going away.
fn gone(gone: crate::engine::Gone) -> tonic::Status {
    tonic::Status::unavailable(gone.to_string())
}
