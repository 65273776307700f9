//! A real `ebb serve`, the command line against it, and a typed client.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result};
use ebb_proto::v1::{
    CancelDrainRequest, Drain, GetDrainRequest, ListDrainsRequest, ListNodesRequest, Node, StartDrainRequest,
    WatchDrainRequest, WatchDrainResponse, drain_service_client::DrainServiceClient,
    fleet_service_client::FleetServiceClient,
};
use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use serde_json::Value;
use tokio::{
    net::UnixStream,
    process::{Child, Command},
};
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};

use crate::{
    bins,
    process::{Process, Spec, spawn_bound_to_us},
    wait,
};

/// How to start a control plane.
#[derive(Clone, Debug)]
pub struct EbbOptions {
    /// Its Unix socket.
    pub socket: PathBuf,
    /// The folder of its durable state; none = memory only.
    pub state: Option<PathBuf>,
    /// Where it logs; appended to over restarts.
    pub log: PathBuf,
    /// Whether the end of its log is printed when it is dropped.
    pub show_log: bool,
}

impl EbbOptions {
    /// A control plane with its socket and log in `folder`, in memory only.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            socket: folder.join("ebb.sock"),
            state: None,
            log: folder.join("ebb.log"),
            show_log: true,
        }
    }
}

/// A running control plane; dropping it kills it.
#[derive(Debug)]
pub struct Ebb {
    process: Process,
    options: EbbOptions,
}

impl Ebb {
    /// Starts `ebb serve` and waits until it answers.
    ///
    /// # Errors
    /// When it cannot be started, ends, or does not answer in time.
    pub async fn start(options: EbbOptions) -> Result<Self> {
        let listen = format!("unix:{}", options.socket.display());
        let state = options.state.clone().unwrap_or_default();
        let args: [&OsStr; 5] = [
            "serve".as_ref(),
            "--listen".as_ref(),
            listen.as_ref(),
            "--state".as_ref(),
            state.as_ref(),
        ];
        let process = Process::spawn(Spec {
            name: "ebb".to_owned(),
            program: bins::ebb()?,
            args: args.map(OsString::from).into(),
            env: vec![("RUST_LOG".into(), "ebb=debug,info".into())],
            log: options.log.clone(),
            show_log: options.show_log,
        })?;
        let mut ebb = Self { process, options };
        ebb.wait_until_it_answers().await?;
        Ok(ebb)
    }

    /// Starts it again as it was started before, on the same socket and state.
    ///
    /// # Errors
    /// As [`Ebb::start`].
    pub async fn restart(self) -> Result<Self> {
        let options = self.options.clone();
        drop(self);
        Self::start(options).await
    }

    /// Kills it with SIGKILL: nothing is told, nothing is cleaned up. It can be started again with the result.
    ///
    /// # Errors
    /// When it has ended already.
    pub async fn kill(mut self) -> Result<EbbOptions> {
        self.process.signal(Signal::KILL)?;
        self.process.exit(wait::PATIENCE).await?;
        Ok(self.options.clone())
    }

    /// Ends it with SIGTERM. It can be started again with the result.
    ///
    /// # Errors
    /// When it does not end, or not with exit code 0.
    pub async fn terminate(mut self) -> Result<EbbOptions> {
        self.process.signal(Signal::TERM)?;
        let status = self.process.exit(wait::PATIENCE).await?;
        anyhow::ensure!(
            status.success(),
            "ebb ended with {} on SIGTERM",
            crate::process::describe(status)
        );
        Ok(self.options.clone())
    }

    /// Its Unix socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.options.socket
    }

    /// What it has logged, over restarts.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// A typed client.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn client(&self) -> Result<Client> {
        Client::connect(&self.options.socket).await
    }

    /// Runs the command line against it to its end.
    ///
    /// # Errors
    /// When it cannot be started or does not end within two minutes.
    pub async fn cli(&self, args: &[&str]) -> Result<CliOutput> {
        self.cli_start(args)?.output().await
    }

    /// Starts the command line against it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn cli_start(&self, args: &[&str]) -> Result<RunningCli> {
        cli_start(&self.options.socket, args)
    }

    async fn wait_until_it_answers(&mut self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + wait::PATIENCE;
        loop {
            self.process.check_running()?;
            let error = match Client::connect(&self.options.socket).await {
                Ok(mut client) => match client.drains().await {
                    Ok(_) => return Ok(()),
                    Err(status) => anyhow::Error::new(status),
                },
                Err(error) => error,
            };
            if tokio::time::Instant::now() > deadline {
                return Err(error).context("waited in vain: `ebb serve` answers");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A typed client of a control plane.
#[derive(Clone, Debug)]
pub struct Client {
    /// Starts, watches and ends drains.
    pub drain_service: DrainServiceClient<Channel>,
    /// Shows what is attached.
    pub fleet_service: FleetServiceClient<Channel>,
}

impl Client {
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
        let fleet_service = FleetServiceClient::new(channel.clone());
        Ok(Self {
            drain_service: DrainServiceClient::new(channel),
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
        Ok(self
            .drain_service
            .list_drains(ListDrainsRequest {})
            .await?
            .into_inner()
            .drains)
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

    /// What is attached.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn nodes(&mut self) -> Result<Vec<Node>, Status> {
        Ok(self
            .fleet_service
            .list_nodes(ListNodesRequest {})
            .await?
            .into_inner()
            .nodes)
    }
}

/// A command that runs.
#[derive(Debug)]
pub struct RunningCli {
    command: String,
    child: Child,
}

/// A command that has ended.
#[derive(Debug)]
pub struct CliOutput {
    /// The exit code; none after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Starts the command line against the control plane at `socket`.
///
/// # Errors
/// When it cannot be started.
pub fn cli_start(socket: &Path, args: &[&str]) -> Result<RunningCli> {
    let mut command = Command::new(bins::ebb()?);
    command
        .args(args)
        .env("EBB_ENDPOINT", format!("unix:{}", socket.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = spawn_bound_to_us(&mut command).context("cannot start ebb")?;
    Ok(RunningCli {
        command: args.join(" "),
        child,
    })
}

impl RunningCli {
    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end within two minutes.
    pub async fn output(self) -> Result<CliOutput> {
        let what = format!("`ebb {}` ends", self.command);
        let output = wait::within(what, Duration::from_secs(120), self.child.wait_with_output()).await??;
        Ok(CliOutput {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Its process id; none once it has been reaped.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }
}

impl CliOutput {
    /// Standard output as one JSON object.
    ///
    /// # Errors
    /// When it is something else; the message shows it and standard error.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("standard output is no JSON: {self:?}"))
    }
}
