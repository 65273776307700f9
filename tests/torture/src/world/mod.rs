//! The processes of a schedule: Envoys, the control plane, a relay between them, the disk of the state, and the witness.

mod bootstrap;
mod control;
mod envoys;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use ebb_e2e::{client::http3::Identity, disk::Disk, relay::Relay, wait, world};
use futures::future::try_join_all;
use tempfile::TempDir;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard};

pub use self::control::{Control, can_step};
use self::envoys::Slot;
use crate::{
    clients::Dialer,
    clock::{Clock, Stalls},
    schedule::{Listener, State, WorldPlan},
    witness::Witness,
};

/// Until every filter has attached: at the longest pause between two attempts, and on a busy machine.
const ATTACHED_WITHIN: Duration = Duration::from_secs(30);

/// What every world of a run shares.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Its clock.
    pub clock: Clock,
    /// When this machine stood still.
    pub stalls: Arc<Stalls>,
    /// The binary `torture`, which strangers are processes of.
    pub torture: PathBuf,
}

/// Everything that is there. Fields are dropped in order.
#[derive(Debug)]
pub struct World {
    /// The run's clock.
    pub clock: Clock,
    /// When this machine stood still.
    pub stalls: Arc<Stalls>,
    /// The binary `torture`.
    pub torture: PathBuf,
    /// What was asked for.
    pub plan: WorldPlan,
    /// As in the plan.
    pub envoys: Vec<Slot>,
    /// The control plane.
    pub control: Control,
    /// Who knows what is held.
    pub witness: Witness,
    /// Of the state, where the plan has one and this user may mount it.
    disk: Option<AsyncMutex<Disk>>,
    identity: Arc<Identity>,
    ids: AtomicU64,
    _folder: TempDir,
}

impl World {
    /// Starts everything, and waits until every filter has attached.
    ///
    /// # Errors
    /// When a part does not start in time.
    pub async fn start(plan: &WorldPlan, shared: &Shared) -> Result<Arc<Self>> {
        let folder = world::folder()?;
        let witness = Witness::start(shared.clock).await?;
        let identity = Arc::new(Identity::generate()?);
        let socket = folder.path().join("ebb.sock");
        let disk = match plan.state {
            State::Disk => Disk::ext4(folder.path().join("disk"), &folder.path().join("image"))?,
            State::Memory | State::Folder => None,
        };
        std::fs::create_dir_all(folder.path().join("disk"))?;
        let state = match plan.state {
            State::Memory => None,
            State::Folder | State::Disk => Some(folder.path().join("disk").join("state")),
        };
        let mut envoys = Vec::new();
        for (number, envoy) in plan.envoys.iter().enumerate() {
            let place = folder.path().join(number.to_string());
            std::fs::create_dir(&place)?;
            let (relay, filters) = if plan.relay {
                let near = place.join("relay.sock");
                (Some(Relay::start(&near, &socket)?), near)
            } else {
                (None, socket.clone())
            };
            let bootstrap = bootstrap::of(envoy, plan.trap, &filters, &witness, &identity)?;
            envoys.push(Slot::new(envoy, bootstrap, place, relay));
        }
        let admins = envoys.iter().filter_map(Slot::admin_flag).collect();
        let control = Control::new(folder.path(), state, admins, shared.clock);
        control.start().await?;
        let world = Arc::new(Self {
            clock: shared.clock,
            stalls: Arc::clone(&shared.stalls),
            torture: shared.torture.clone(),
            plan: plan.clone(),
            envoys,
            control,
            witness,
            disk: disk.map(AsyncMutex::new),
            identity,
            ids: AtomicU64::new(0),
            _folder: folder,
        });
        try_join_all(world.envoys.iter().map(Slot::start)).await?;
        world.whole().await?;
        Ok(world)
    }

    /// The disk, which has one fault at a time: of two, one could not be undone.
    ///
    /// # Errors
    /// When there is none.
    pub async fn disk(&self) -> Result<MutexGuard<'_, Disk>> {
        let disk = self.disk.as_ref().context("this user may not mount a disk")?;
        Ok(disk.lock().await)
    }

    /// The number of the next request.
    pub fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Who connects to a listener; none when its Envoy has ended.
    #[must_use]
    pub fn dialer(&self, envoy: usize, listener: Listener) -> Option<Dialer> {
        Some(Dialer {
            address: self.envoys.get(envoy)?.address(listener)?,
            identity: Arc::clone(&self.identity),
        })
    }

    /// The Envoy at a place in the plan.
    ///
    /// # Errors
    /// When there is none.
    pub fn envoy(&self, number: usize) -> Result<&Slot> {
        self.envoys.get(number).context("there is no such Envoy")
    }

    /// Waits until every filter has attached.
    ///
    /// # Errors
    /// When they have not within 30 s.
    pub async fn whole(&self) -> Result<()> {
        let expected: usize = self
            .plan
            .envoys
            .iter()
            .map(|envoy| envoy.workers as usize + 1)
            .sum();
        wait::until("every filter is attached", ATTACHED_WITHIN, || async {
            let nodes = self.control.client().await?.nodes().await?;
            let live: usize = nodes
                .iter()
                .filter(|node| self.plan.envoys.iter().any(|envoy| envoy.node == node.id))
                .map(world::live_reporters)
                .sum();
            anyhow::ensure!(live == expected, "{live} of {expected} are");
            Ok(true)
        })
        .await
    }
}
