//! Footprint: what Ebb takes on disk and in memory, and how long its parts take to start.

mod envoys;
mod table;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    api::Client,
    bins,
    ebb::{Ebb, EbbOptions},
    process::{Process, Spec},
    wait,
};
use serde::{Deserialize, Serialize};

use crate::{Mode, proc, progress::Progress, stats::millis};
pub use envoys::{EnvoyRound, Way};

/// Between two tries to reach a control plane that starts: what its start time is exact to.
const TRY_EVERY: Duration = Duration::from_micros(500);

/// What was measured. Sizes and memory are in bytes, times in milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Footprint {
    /// The binary `ebb`.
    pub binary: u64,
    /// The filter's module, as it is shipped.
    pub module: u64,
    /// The module as the compiler makes it, before the exports that it does not use are dropped; none if it is not at hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpacked: Option<u64>,
    /// A control plane that has just started, once per round.
    pub idle: Vec<IdleRound>,
    /// Envoys, once per round, way and number of workers.
    pub envoys: Vec<EnvoyRound>,
}

/// One control plane, started, looked at and killed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct IdleRound {
    /// From the start of `ebb serve` until it has answered a call.
    pub start: f64,
    /// From the start of `/bin/true` until its end.
    pub nothing: f64,
    /// Resident memory.
    pub resident: u64,
    /// Memory that it shares with nobody.
    pub private: u64,
}

/// Measures.
///
/// # Errors
/// When a part does not start or does not do what it should.
pub async fn run(mode: Mode, progress: &Progress) -> Result<Footprint> {
    progress.say("footprint: sizes, and starts of the control plane");
    let unpacked = bins::repository().join("target/wasm32-wasip1/wasm/ebb_filter.wasm");
    let mut idle = Vec::new();
    for _ in 0..mode.pick(15, 1) {
        idle.push(idle_round(mode.pick(Duration::from_millis(500), Duration::from_millis(50))).await?);
    }
    let envoys = envoys::run(mode, progress).await?;
    Ok(Footprint {
        binary: size(&bins::ebb()?)?,
        module: size(&bins::wasm()?)?,
        unpacked: size(&unpacked).ok(),
        idle,
        envoys,
    })
}

fn size(file: &Path) -> Result<u64> {
    let data = fs::metadata(file).with_context(|| format!("cannot tell the size of {}", file.display()))?;
    Ok(data.len())
}

/// `settle` is the time between its first answer and the look at its memory.
async fn idle_round(settle: Duration) -> Result<IdleRound> {
    let folder = ebb_e2e::world::folder()?;
    let nothing = nothing(folder.path()).await?;
    let mut options = EbbOptions::in_folder(folder.path());
    options.state = Some(folder.path().join("state"));
    options.show_log = false;
    let socket = options.socket.clone();
    let start = Instant::now();
    let ebb = Ebb::spawn(options)?;
    let answers = async {
        loop {
            if let Ok(mut client) = Client::connect(&socket).await
                && client.drains().await.is_ok()
            {
                return start.elapsed();
            }
            tokio::time::sleep(TRY_EVERY).await;
        }
    };
    let answered = wait::within("`ebb serve` answers", wait::PATIENCE, answers).await?;
    tokio::time::sleep(settle).await;
    let pid = ebb.pid().context("the control plane has ended")?;
    Ok(IdleRound {
        start: millis(answered),
        nothing,
        resident: proc::resident_memory(pid)?,
        private: proc::private_memory(pid)?,
    })
}

/// What starting a process takes anyway.
async fn nothing(folder: &Path) -> Result<f64> {
    let start = Instant::now();
    let mut process = Process::spawn(Spec {
        name: "true".to_owned(),
        program: "/bin/true".into(),
        args: Vec::new(),
        env: Vec::new(),
        log: folder.join("true.log"),
        show_log: false,
    })?;
    let status = process.exit(wait::PATIENCE).await?;
    ensure!(status.success(), "/bin/true has failed");
    Ok(millis(start.elapsed()))
}
