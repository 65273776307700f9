//! What every test here begins with.

use std::path::Path;

use anyhow::Result;
use ebb_e2e::{
    bins::EnvoyVersion,
    client::{Failure, Response, http1},
    gateway::{Gateway, setup::Setup},
    upstream::Upstream,
    wait,
    world::folder,
};
use http::StatusCode;
use tempfile::TempDir;
use tokio::task::JoinHandle;

const POLICY_ENGINE: &str = env!("CARGO_BIN_EXE_policy-engine");

/// A gateway with its upstream. Fields are dropped in order: first the gateway, last the folder.
pub(crate) struct World {
    pub(crate) gateway: Gateway,
    pub(crate) upstream: Upstream,
    _folder: TempDir,
}

/// The shipped gateway in `folder`.
pub(crate) fn setup(folder: &Path, version: EnvoyVersion, upstream: &Upstream) -> Result<Setup> {
    Setup::new(folder, version, upstream.address(), Path::new(POLICY_ENGINE))
}

impl World {
    /// The shipped gateway, serving.
    pub(crate) async fn start() -> Result<Self> {
        Self::start_with(EnvoyVersion::V1_40, |_| Ok(())).await
    }

    /// As [`World::start`], with changes to its configuration.
    pub(crate) async fn start_with(
        version: EnvoyVersion,
        change: impl FnOnce(&mut Setup) -> Result<()>,
    ) -> Result<Self> {
        let mut world = Self::spawn_with(version, change).await?;
        world.gateway.serves().await?;
        Ok(world)
    }

    /// As [`World::start_with`], not waiting until it serves.
    pub(crate) async fn spawn_with(
        version: EnvoyVersion,
        change: impl FnOnce(&mut Setup) -> Result<()>,
    ) -> Result<Self> {
        let folder = folder()?;
        let upstream = Upstream::start().await?;
        let mut setup = setup(folder.path(), version, &upstream)?;
        change(&mut setup)?;
        Ok(Self {
            gateway: Gateway::spawn(setup)?,
            upstream,
            _folder: folder,
        })
    }

    /// A request on `ingress` that the upstream holds.
    pub(crate) async fn hold(&self) -> Result<JoinHandle<Result<Response, Failure>>> {
        let mut connection = http1::Connection::open(self.gateway.setup().ingress()).await?;
        let held = tokio::spawn(async move { connection.get("/hold").await });
        self.upstream.wait_held(1).await?;
        Ok(held)
    }

    /// Requests on new connections to `ingress`, each of which has to end well, until one is told to leave: the filter
    /// hears of a drain a moment after the control plane has begun it.
    pub(crate) async fn until_told_to_leave(&self) -> Result<()> {
        wait::until("clients are told to leave", wait::PATIENCE, || async {
            let response = self
                .get()
                .await
                .map(|response| (response.status, response.says_close()));
            // A failure is no reason to ask again.
            assert!(matches!(response, Ok((StatusCode::OK, _))), "{response:?}");
            Ok(matches!(response, Ok((_, true))))
        })
        .await
    }

    /// A request on a new connection to `ingress`.
    pub(crate) async fn get(&self) -> Result<Response, Failure> {
        http1::Connection::open(self.gateway.setup().ingress())
            .await?
            .get("/")
            .await
    }
}
