//! A gateway of three processes under `ebb run`: a real Envoy that asks a policy engine for every request, which asks an
//! executor.

mod files;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context as _, Result};
use http::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    bins::{self, EnvoyVersion},
    cli,
    client::http1,
    ports::Port,
    process::{Process, Spec},
    wait,
};

/// Envoy compiles the module at its start, which takes seconds on a busy machine.
const START_BOUND: Duration = Duration::from_secs(60);

/// How to start a gateway.
#[derive(Clone, Debug)]
pub struct GatewayOptions {
    /// Which Envoy.
    pub version: EnvoyVersion,
    /// `[drain]` and `[shutdown]`, as TOML.
    pub policy: String,
    /// What the router's `drain` names as its admin endpoint; none = no such key.
    pub admin: Option<PathBuf>,
    /// Whether the router depends on the policy engine; if not, only the policy engine's gate holds it.
    pub chained: bool,
    /// How long the executor takes for a request, in milliseconds.
    pub executor_takes: u64,
    /// The program of the links: a test has it as `CARGO_BIN_EXE_ebb-link`.
    pub link: PathBuf,
}

impl GatewayOptions {
    /// The usual ones, in `folder`.
    #[must_use]
    pub fn new(folder: &Path, link: &str) -> Self {
        Self {
            version: EnvoyVersion::V1_40,
            policy: "[drain]\ntimeout = \"15s\"\n".to_owned(),
            admin: Some(folder.join("admin.sock")),
            chained: true,
            executor_takes: 0,
            link: PathBuf::from(link),
        }
    }
}

/// A gateway. Its ports stay its own over restarts. Dropping it kills all of its processes.
#[derive(Debug)]
pub struct Gateway {
    folder: PathBuf,
    options: GatewayOptions,
    ingress: Port,
    health: Port,
    policy: Port,
    executor: Port,
    running: Option<Process>,
}

impl Gateway {
    /// Writes its configuration into `folder`, and starts nothing.
    ///
    /// # Errors
    /// When there are no free ports, or the configuration cannot be written.
    pub fn new(folder: &Path, upstream: SocketAddr, options: GatewayOptions) -> Result<Self> {
        let gateway = Self {
            folder: folder.to_owned(),
            options,
            ingress: Port::reserve()?,
            health: Port::reserve()?,
            policy: Port::reserve()?,
            executor: Port::reserve()?,
            running: None,
        };
        gateway.write_envoy(upstream)?;
        fs::write(folder.join("ebb.toml"), gateway.configuration()?)?;
        Ok(gateway)
    }

    /// Starts it, and waits until `/ready` says so and every VM of Envoy is attached.
    ///
    /// # Errors
    /// When it ends, or is not ready in time.
    pub async fn start(&mut self) -> Result<()> {
        self.start_until(StatusCode::OK).await
    }

    /// Starts it in a state in which it is attached but not ready: a drain holds.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub async fn start_unready(&mut self) -> Result<()> {
        self.start_until(StatusCode::SERVICE_UNAVAILABLE).await
    }

    async fn start_until(&mut self, wanted: StatusCode) -> Result<()> {
        self.running = Some(Process::spawn(Spec {
            name: "ebb run".to_owned(),
            program: bins::ebb()?,
            args: ["run", "--config"]
                .map(Into::into)
                .into_iter()
                .chain([self.folder.join("ebb.toml").into()])
                .collect(),
            env: Vec::new(),
            log: self.folder.join("ebb.log"),
            show_log: true,
        })?);
        let deadline = tokio::time::Instant::now() + START_BOUND;
        loop {
            self.process()?.check_running()?;
            if self.ready().await? == Some(wanted) && self.attached() {
                return Ok(());
            }
            anyhow::ensure!(
                tokio::time::Instant::now() < deadline,
                "waited {START_BOUND:?} in vain: ready"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.ingress.address()
    }

    /// Where `/ready` and `/live` are.
    #[must_use]
    pub fn health(&self) -> SocketAddr {
        self.health.address()
    }

    /// The status of `/ready`; none while nobody listens there.
    ///
    /// # Errors
    /// When what listens there speaks no HTTP.
    pub async fn ready(&self) -> Result<Option<StatusCode>> {
        let Ok(mut connection) = http1::Connection::open(self.health()).await else {
            return Ok(None);
        };
        Ok(connection
            .get("/ready")
            .await
            .ok()
            .map(|response| response.status))
    }

    /// The control plane's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("ebb.sock")
    }

    /// What the links wrote, line by line.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn journal(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(self.folder.join("journal")).context("no journal")?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// What `ebb run` and its processes logged, over restarts.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("ebb.log")).unwrap_or_default()).into_owned()
    }

    /// Sends a signal to `ebb run`.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process()?.signal(signal)
    }

    /// Waits for the end of `ebb run`.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn exit(&mut self) -> Result<ExitStatus> {
        let mut process = self.running.take().context("it does not run")?;
        process.exit(START_BOUND).await
    }

    /// SIGTERM, and how long it took until everything had stopped.
    ///
    /// # Errors
    /// When it does not end, or not with exit code 0.
    pub async fn stop(&mut self) -> Result<Duration> {
        let began = std::time::Instant::now();
        self.signal(Signal::TERM)?;
        let status = self.exit().await?;
        anyhow::ensure!(status.success(), "ebb run ended with {status}");
        Ok(began.elapsed())
    }

    /// The pid of one of its processes.
    ///
    /// # Errors
    /// When the control plane does not answer, or it is not alive.
    pub async fn pid_of(&self, name: &str) -> Result<u64> {
        let output = cli::start(&self.socket(), &["status", "-o", "json"])?
            .output()
            .await?;
        let status: Value = serde_json::from_str(&output.stdout).context("no status")?;
        let processes = status.get("processes").and_then(Value::as_array);
        let named = processes
            .into_iter()
            .flatten()
            .find(|process| process.get("name") == Some(&json!(name)));
        let pid = named
            .and_then(|process| process.get("pid"))
            .and_then(Value::as_u64);
        pid.with_context(|| format!("{name} has no pid"))
    }

    /// SIGKILL to `ebb run` and all of its processes at once.
    ///
    /// # Errors
    /// When they cannot be found.
    pub async fn kill_all(&mut self) -> Result<()> {
        let mut pids = Vec::new();
        for name in ["router", "policy-engine", "executor"] {
            pids.extend(self.pid_of(name).await.ok());
        }
        self.signal(Signal::KILL)?;
        self.exit().await?;
        for pid in pids {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // It may have ended by itself meanwhile.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        Ok(())
    }

    fn process(&mut self) -> Result<&mut Process> {
        self.running.as_mut().context("it does not run")
    }

    /// Both VMs that see traffic and the one of the main thread, of this start.
    fn attached(&self) -> bool {
        let log = self.log();
        let last = log
            .rfind("version=")
            .and_then(|at| log.get(at..))
            .unwrap_or_default();
        last.matches("filter attached").count() >= 3
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let Some(pid) = self.running.as_ref().and_then(Process::pid) else {
            return;
        };
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return;
        };
        // Three of them: `ebb run` kills its processes, which are in groups of their own, and ends.
        for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
            let _ = kill_process(pid, signal);
            std::thread::sleep(Duration::from_millis(20));
        }
        // A zombie until the process is dropped; what matters is that it has had the time.
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Waits for a line in the log that contains the text.
///
/// # Errors
/// When it does not come in time.
pub async fn logged(gateway: &Gateway, text: &str) -> Result<()> {
    wait::until(format!("{text:?} in the log"), wait::PATIENCE, || async {
        Ok(gateway.log().contains(text))
    })
    .await
}
