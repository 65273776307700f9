//! An Envoy with its control plane and its upstream, in a folder of its own.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context as _, Result};
use ebb_proto::v1::{Node, ReporterState};
use tempfile::TempDir;

use crate::{
    api::Client,
    ebb::{Ebb, EbbOptions},
    envoy::{Envoy, EnvoyOptions},
    upstream::Upstream,
    wait,
};

/// Unix sockets have short paths: a longer temporary folder is not used.
const LONGEST_FOLDER: usize = 60;

/// Everything that one test needs. Fields are dropped in order: first Envoy, last the folder.
#[derive(Debug)]
pub struct World {
    /// The proxy.
    pub envoy: Envoy,
    /// The control plane.
    pub ebb: Ebb,
    /// The upstream of both listeners.
    pub upstream: Upstream,
    /// Where sockets, logs and configuration lie.
    pub folder: TempDir,
}

impl World {
    /// Starts all and waits until every VM of Envoy reports.
    ///
    /// # Errors
    /// When a part does not start in time.
    pub async fn start(options: EnvoyOptions) -> Result<Self> {
        Self::start_with(options, |_, _| {}).await
    }

    /// As [`World::start`], with changes to the control plane's options, which may use the folder.
    ///
    /// # Errors
    /// When a part does not start in time.
    pub async fn start_with(
        options: EnvoyOptions,
        change: impl FnOnce(&mut EbbOptions, &Path),
    ) -> Result<Self> {
        Self::start_in(folder()?, options, change).await
    }

    /// As [`World::start_with`], in a folder that was made before.
    ///
    /// # Errors
    /// When a part does not start in time.
    pub async fn start_in(
        folder: TempDir,
        options: EnvoyOptions,
        change: impl FnOnce(&mut EbbOptions, &Path),
    ) -> Result<Self> {
        let mut ebb_options = EbbOptions::in_folder(folder.path());
        ebb_options.show_log = options.show_log;
        change(&mut ebb_options, folder.path());
        let upstream = Upstream::start().await?;
        let ebb = Ebb::start(ebb_options).await?;
        let envoy = Envoy::start(&options, folder.path(), ebb.socket(), upstream.address()).await?;
        let world = Self {
            envoy,
            ebb,
            upstream,
            folder,
        };
        wait_attached(&mut world.client().await?, &options.node_id, options.concurrency).await?;
        Ok(world)
    }

    /// A typed client of the control plane.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn client(&self) -> Result<Client> {
        self.ebb.client().await
    }

    /// Where the listener `ingress` accepts.
    ///
    /// # Errors
    /// When Envoy has no such listener.
    pub fn ingress(&self) -> Result<SocketAddr> {
        self.envoy.address("ingress")
    }

    /// Where the listener `internal` accepts.
    ///
    /// # Errors
    /// When Envoy has no such listener.
    pub fn internal(&self) -> Result<SocketAddr> {
        self.envoy.address("internal")
    }
}

/// A temporary folder whose path is short enough for Unix sockets.
///
/// # Errors
/// When it cannot be made.
pub fn folder() -> Result<TempDir> {
    let base = std::env::temp_dir();
    let base = if base.as_os_str().len() <= LONGEST_FOLDER {
        base.as_path()
    } else {
        Path::new("/tmp")
    };
    let builder = tempfile::Builder::new().prefix("ebb-e2e-").tempdir_in(base);
    builder.with_context(|| format!("cannot make a folder in {}", base.display()))
}

/// Waits until all VMs of a node report: one per worker and one of the main thread.
///
/// # Errors
/// When they do not within [`wait::PATIENCE`].
pub async fn wait_attached(client: &mut Client, node: &str, concurrency: u32) -> Result<Node> {
    let expected = concurrency as usize + 1;
    let what = format!("the {expected} reporters of node {node} are attached");
    wait::eventually(what, wait::PATIENCE, || {
        let mut client = client.clone();
        async move {
            let found = client
                .nodes()
                .await?
                .into_iter()
                .find(|candidate| candidate.id == node);
            Ok(found.filter(|node| live_reporters(node) == expected))
        }
    })
    .await
}

/// Reporters of a node whose counts can be relied upon.
#[must_use]
pub fn live_reporters(node: &Node) -> usize {
    node.reporters
        .iter()
        .filter(|reporter| reporter.state() == ReporterState::Live)
        .count()
}

/// Requests in flight on a listener of a node, as the control plane sums them.
#[must_use]
pub fn in_flight(node: &Node, listener: &str) -> Option<u64> {
    node.listeners
        .iter()
        .find(|candidate| candidate.name == listener)
        .map(|found| found.in_flight)
}
