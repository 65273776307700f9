//! The control plane as a server: its sockets, its gRPC services, and its clean end.
//!
//! | file | what |
//! |---|---|
//! | `listen` | sockets: the Unix socket's mode, stale sockets |
//! | `incoming` | connections: how many, and how long one may be silent |
//! | `pace` | how fast watchers are told what is large |
//! | `filter` | `FilterService`: the streams that filters open |
//! | `drain` | `DrainService` |
//! | `fleet` | `FleetService` |
//! | `process` | `ProcessService` |

mod drain;
mod filter;
mod fleet;
mod incoming;
mod listen;
mod pace;
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
use tokio::{sync::watch, task::JoinSet};
use tonic::{server::NamedService, transport::server::Router};
use tonic_health::server::HealthReporter;

use crate::{
    address::Address,
    core::{policies::Policies, record::Kept},
    engine::Engine,
    limits,
    store::Store,
    supervisor::{self, admin::Admin, signals::Signals},
};
use incoming::Room;
use listen::Listener;
use pace::Pace;

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
    pub policies: Policies,
    /// Admin endpoints of Envoys, which back the filter up.
    pub admins: Vec<Address>,
}

impl ServeOptions {
    /// Opens the store.
    ///
    /// # Errors
    /// It is in use, or of a newer format.
    pub fn open_store(&self) -> anyhow::Result<Store> {
        match &self.state {
            Some(folder) => Ok(Store::open(folder)?),
            None => {
                tracing::warn!("no state folder: drains do not survive a restart of the control plane");
                Ok(Store::memory())
            }
        }
    }
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
        let opening = options.clone();
        // It takes as long as the disk does, which must not hold up a stop.
        let opened = tokio::task::spawn_blocking(move || {
            let mut store = opening.open_store()?;
            let kept = store.load()?;
            anyhow::Ok((store, kept))
        });
        let (store, kept) = opened.await??;
        Self::start_with(options, store, kept, None).await
    }

    /// As [`Server::start`], with a store that is open already and what it kept, and tells of the processes that are kept.
    ///
    /// # Errors
    /// A socket cannot be opened; the message names it.
    pub async fn start_with(
        options: ServeOptions,
        store: Store,
        kept: Kept,
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
            options.policies,
            kept,
            store,
            options.admins.into_iter().map(Admin).collect(),
        );
        // Nothing is ready before a supervisor has started it; it says so itself from then on.
        let serving = supervisor.is_none();
        let (health, health_service) = tonic_health::server::health_reporter();
        set_health(&health, serving).await;
        let (stop, stopped) = watch::channel(false);
        let mut servers = JoinSet::new();
        let (pace, room) = (Pace::default(), Room::new(limits::grpc_connections()));
        for listener in listeners {
            let processes = process::Processes::new(supervisor.clone(), stopped.clone());
            let router = router(&engine, processes, &pace)?.add_service(health_service.clone());
            servers.spawn(listener.serve(router, room.clone(), stopped.clone()));
        }
        Ok(Self {
            engine,
            addresses,
            health,
            stop,
            servers,
        })
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
        set_health(&self.health, serving).await;
    }

    /// A server that has ended by itself: why. A listener may have, or the task that owns the state: nothing can be asked
    /// or told without it, so whoever runs the server has to end as well.
    ///
    /// # Errors
    /// Always, but for a server that was stopped.
    pub async fn failed(&mut self) -> anyhow::Result<()> {
        tokio::select! {
            ended = self.servers.join_next() => match ended {
                Some(ended) => ended.context("a listener ended")?,
                None => std::future::pending().await,
            },
            () = self.engine.ended() => {
                anyhow::bail!("the task that owns the drains has ended, which is a fault of Ebb's; start it again")
            }
        }
    }

    /// Ends cleanly: filters are told to reconnect at once, callers get UNAVAILABLE, sockets are removed. Takes no
    /// longer than a few seconds, whatever the peers do.
    pub async fn stop(self) {
        self.stop_within(CLOSE_WITHIN).await;
    }

    /// As [`Server::stop`], and connections are cut that have not closed within this time.
    pub async fn stop_within(mut self, within: Duration) {
        self.set_serving(false).await;
        self.engine.go_away().await;
        self.stop.send_replace(true);
        // Who watches has been told, and hears nothing more.
        for name in NAMES {
            self.health.clear_service_status(name).await;
        }
        let all = async { while self.servers.join_next().await.is_some() {} };
        if tokio::time::timeout(within, all).await.is_err() {
            tracing::warn!("some connections did not close in {within:?}; cutting them");
        }
        self.servers.shutdown().await;
    }
}

/// Serves until SIGINT, SIGTERM or SIGQUIT, or until the terminal from which it was started is gone. Other signals do nothing.
///
/// # Errors
/// See [`Server::start`]; or a listener failed.
pub async fn run(options: ServeOptions) -> anyhow::Result<()> {
    let mut signals = Signals::arm().context("signals")?;
    limits::raise();
    let admins = options.admins.clone();
    let starting = Server::start(options);
    let mut server = tokio::select! {
        server = starting => server?,
        asked = signals.stop() => {
            tracing::info!("stopping: {asked}, before it served");
            return Ok(());
        }
    };
    tokio::spawn(warn_of_silent(admins));
    for address in server.addresses() {
        tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "serving");
    }
    let asked = tokio::select! {
        asked = signals.stop() => asked,
        ended = server.failed() => return ended,
    };
    tracing::info!("stopping: {asked}");
    server.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// How long after the start an admin endpoint may take to answer before that is said.
const ADMIN_WITHIN: Duration = Duration::from_secs(10);

/// Says which admin endpoints do not answer: a wrong one would show only in drains otherwise, which wait for it.
async fn warn_of_silent(admins: Vec<Address>) {
    tokio::time::sleep(ADMIN_WITHIN).await;
    for address in admins {
        if let Err(error) = Admin(address.clone()).identity().await {
            tracing::warn!(
                %address, %error,
                "no Envoy answers at this admin endpoint: drains that may concern it wait for it, as its requests are unknown"
            );
        }
    }
}

/// Of what grpc.health.v1 speaks; "" is all of it.
const NAMES: [&str; 5] = [
    "",
    <FilterServiceServer<filter::Filters> as NamedService>::NAME,
    <DrainServiceServer<drain::Drains> as NamedService>::NAME,
    <FleetServiceServer<fleet::Nodes> as NamedService>::NAME,
    <ProcessServiceServer<process::Processes> as NamedService>::NAME,
];

async fn set_health(health: &HealthReporter, serving: bool) {
    use tonic_health::ServingStatus::{NotServing, Serving};
    let status = if serving { Serving } else { NotServing };
    for name in NAMES {
        health.set_service_status(name, status).await;
    }
}

fn router(engine: &Engine, processes: process::Processes, pace: &Pace) -> anyhow::Result<Router> {
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
        .add_service(DrainServiceServer::new(drain::Drains::new(
            engine.clone(),
            pace.clone(),
        )))
        .add_service(FleetServiceServer::new(fleet::Nodes::new(
            engine.clone(),
            pace.clone(),
        )))
        .add_service(ProcessServiceServer::new(processes)))
}

/// How many entries of a list a caller wants on a page; 0 = as many as fit.
fn page_size(wanted: u32) -> usize {
    match usize::try_from(wanted) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(wanted) => wanted,
    }
}

/// What a call gets once the control plane is going away.
fn gone(gone: crate::engine::Gone) -> tonic::Status {
    tonic::Status::unavailable(format!("{gone}: try again, elsewhere or in a moment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_whose_state_has_no_owner_has_failed() {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Server::start(ServeOptions {
            listen: vec![Address::Unix(folder.path().join("ebb.sock"))],
            insecure: false,
            state: None,
            policies: Policies::default(),
            admins: Vec::new(),
        })
        .await
        .unwrap();
        let early = tokio::time::timeout(Duration::ZERO, server.failed()).await;
        assert!(early.is_err(), "{early:?}");
        server.engine().go_away().await;
        let error = server.failed().await.unwrap_err();
        assert!(error.to_string().contains("has ended"), "{error}");
    }
}
