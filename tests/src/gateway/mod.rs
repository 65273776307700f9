//! A gateway of three processes under `ebb run`: a real Envoy that asks a policy engine about every request, which asks a
//! Python executor.

pub mod journal;
pub mod plain;
pub mod setup;
pub mod witness;

use std::{
    collections::HashMap,
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ebb_proto::v1::{
    self, ProcessState, ShutdownEvent, ShutdownRequest, process_service_client::ProcessServiceClient,
};
use http::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::Channel;

use self::{
    journal::Entry,
    setup::{NODE, Setup, WORKERS},
};
use crate::{
    api::Client,
    bins,
    client::http1,
    process::{Process, Spec, describe},
    wait,
    world::wait_attached,
};

/// Envoy compiles the module at its start, which takes seconds on a busy machine.
const START_BOUND: Duration = Duration::from_secs(60);
/// The bound of a stop, which is far below: it is judged elsewhere.
const STOP_BOUND: Duration = Duration::from_secs(60);
/// How long killed processes may take to disappear, after which there is nothing else to try.
const CLEAN_UP: Duration = Duration::from_secs(5);

/// A gateway that was started. Dropping it kills all of its processes.
#[derive(Debug)]
pub struct Gateway {
    setup: Setup,
    ebb: Option<Process>,
    /// The pid of `ebb run`, also where the process is a wrapper around it.
    pid: Option<Pid>,
}

impl Gateway {
    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// When it ends, or does not serve in time.
    pub async fn start(setup: Setup) -> Result<Self> {
        let mut gateway = Self::spawn(setup)?;
        gateway.serves().await?;
        Ok(gateway)
    }

    /// Starts `ebb run`, and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(setup: Setup) -> Result<Self> {
        setup.write()?;
        let mut gateway = Self {
            setup,
            ebb: None,
            pid: None,
        };
        gateway.respawn()?;
        Ok(gateway)
    }

    /// As [`Gateway::spawn`], as PID 1 of a pid namespace of its own.
    ///
    /// # Errors
    /// When it cannot be started, for example because the system allows no namespaces.
    pub async fn spawn_as_pid_1(setup: Setup) -> Result<Self> {
        setup.write()?;
        let mut gateway = Self {
            setup,
            ebb: None,
            pid: None,
        };
        let arguments = ["--pid", "--fork", "--mount-proc", "--kill-child"];
        let mut arguments: Vec<OsString> = arguments.map(OsString::from).into();
        arguments.push(bins::ebb()?.into());
        gateway.spawn_program("unshare".into(), arguments)?;
        let unshare = gateway.process()?.pid().context("unshare has ended")?;
        let what = "unshare has started ebb";
        gateway.pid = Some(
            wait::eventually(what, wait::PATIENCE, || async {
                let children = std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"))?;
                let child = children
                    .split_whitespace()
                    .next()
                    .and_then(|pid| pid.parse().ok());
                Ok(child.and_then(Pid::from_raw))
            })
            .await?,
        );
        Ok(gateway)
    }

    /// Starts it once more, after it has stopped.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.respawn()?;
        self.serves().await
    }

    /// As [`Gateway::restart`], not waiting until it serves.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn respawn(&mut self) -> Result<()> {
        ensure!(self.ebb.is_none(), "it has not stopped");
        self.spawn_program(bins::ebb()?, Vec::new())?;
        let pid = self.process()?.pid().and_then(|pid| i32::try_from(pid).ok());
        self.pid = pid.and_then(Pid::from_raw);
        Ok(())
    }

    fn spawn_program(&mut self, program: PathBuf, mut args: Vec<OsString>) -> Result<()> {
        args.extend([
            "run".into(),
            "--config".into(),
            self.setup.configuration_file().into(),
        ]);
        self.ebb = Some(Process::spawn(Spec {
            name: "ebb run".to_owned(),
            program,
            args,
            env: vec![
                (witness::GATEWAY.into(), self.setup.folder().into()),
                ("EBB_LOG".into(), "info".into()),
            ],
            log: self.setup.folder().join("ebb.log"),
            show_log: self.setup.show_log,
        })?);
        Ok(())
    }

    /// Waits until `/ready` says so and every VM of Envoy is attached.
    ///
    /// # Errors
    /// When it ends, or does not in time.
    pub async fn serves(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_BOUND;
        loop {
            self.process()?.check_running()?;
            let answer = self.ready().await;
            if matches!(answer, Ok((StatusCode::OK, _))) {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "waited {START_BOUND:?} in vain: the gateway is ready: {answer:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.attached().await
    }

    /// Waits until every VM of Envoy is attached.
    ///
    /// # Errors
    /// When they are not in time.
    pub async fn attached(&self) -> Result<()> {
        let client = wait::eventually("the control plane answers", START_BOUND, || async {
            Ok(Some(self.client().await?))
        });
        let attaching = wait_attached(&mut client.await?, NODE, WORKERS).await;
        attaching.map(drop)
    }

    /// Its configuration.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// What `/ready` answers.
    ///
    /// # Errors
    /// When nobody does.
    pub async fn ready(&self) -> Result<(StatusCode, String)> {
        let response = http1::Connection::open(self.setup.health())
            .await?
            .get("/ready")
            .await?;
        Ok((
            response.status,
            String::from_utf8_lossy(&response.body).trim_end().to_owned(),
        ))
    }

    /// A client of its control plane.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn client(&self) -> Result<Client> {
        Client::connect(&self.setup.socket()).await
    }

    /// Its processes, as the control plane shows them.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn processes(&self) -> Result<Vec<v1::Process>> {
        Ok(self.client().await?.processes().await?)
    }

    /// Waits until the control plane shows a process in a state, and returns all processes as they are then.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn in_state(&self, name: &str, state: ProcessState) -> Result<Vec<v1::Process>> {
        let what = format!("{name} is {}", state.as_str_name());
        wait::eventually(what, wait::PATIENCE, || async {
            let processes = self.processes().await?;
            let reached = processes
                .iter()
                .any(|one| one.name == name && one.state() == state);
            Ok(reached.then_some(processes))
        })
        .await
    }

    /// Follows the shutdown that has begun to its end: all that has happened in it and will.
    ///
    /// # Errors
    /// When it is not told to its end.
    pub async fn follow_shutdown(&self) -> Result<Vec<ShutdownEvent>> {
        // The call would begin it as well: a signal takes a moment to arrive.
        wait::until("the shutdown has begun", wait::PATIENCE, || async {
            let (_, why) = self.ready().await?;
            Ok(why.starts_with("shutting down"))
        })
        .await?;
        let mut stream = self
            .process_service()
            .await?
            .shutdown(ShutdownRequest {})
            .await?
            .into_inner();
        let following = async {
            let mut events = Vec::new();
            loop {
                let message = stream
                    .message()
                    .await?
                    .context("the shutdown was not told to its end")?;
                match message.event {
                    Some(event) => events.push(event),
                    None => return anyhow::Ok(events),
                }
            }
        };
        wait::within("the shutdown ends", STOP_BOUND, following).await?
    }

    async fn process_service(&self) -> Result<ProcessServiceClient<Channel>> {
        Ok(ProcessServiceClient::new(self.client().await?.channel()))
    }

    /// Sends a signal to `ebb run`, and to it alone.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid.context("it does not run")?, signal).context("ebb run has ended")
    }

    /// Waits for the end of `ebb run`.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        let status = self.process()?.exit(STOP_BOUND).await?;
        self.ebb = None;
        self.pid = None;
        Ok(status)
    }

    /// SIGTERM, and everything until `ebb run` had ended, well and with nothing left.
    ///
    /// # Errors
    /// When it does not.
    pub async fn stop(&mut self) -> Result<Stop> {
        let began = Instant::now();
        self.signal(Signal::TERM)?;
        let events = self.follow_shutdown().await?;
        let status = self.ended().await?;
        let took = began.elapsed();
        ensure!(status.success(), "ebb run ended with {}", describe(status));
        self.nothing_is_left()?;
        Ok(Stop { took, events })
    }

    /// Whether no process of it is alive any more.
    ///
    /// # Errors
    /// When there is one: which.
    pub fn nothing_is_left(&self) -> Result<()> {
        let left = witness::all(self.setup.folder());
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }

    /// SIGKILL to all of it at once.
    ///
    /// # Errors
    /// When something of it stays.
    pub async fn kill(&mut self) -> Result<()> {
        let gone = wait::until("everything of the gateway is gone", wait::PATIENCE, || async {
            witness::kill_all(self.setup.folder());
            Ok(witness::all(self.setup.folder()).is_empty())
        });
        gone.await?;
        self.ended().await?;
        Ok(())
    }

    /// What its small programs wrote down, over restarts.
    ///
    /// # Errors
    /// When it is unreadable.
    pub fn journal(&self) -> Result<Vec<Entry>> {
        journal::read(&self.setup.journal())
    }

    /// What `ebb run` logged and its processes printed, over restarts.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.setup.folder().join("ebb.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the log contains a text.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn logged(&self, text: &str) -> Result<()> {
        let what = format!("{text:?} is in the log");
        wait::until(what, wait::PATIENCE, || async { Ok(self.log().contains(text)) }).await
    }

    fn process(&mut self) -> Result<&mut Process> {
        self.ebb.as_mut().context("it does not run")
    }
}

/// A stop, as it was.
#[derive(Clone, Debug)]
pub struct Stop {
    /// From the signal to the end of `ebb run`.
    pub took: Duration,
    /// What happened meanwhile.
    pub events: Vec<ShutdownEvent>,
}

impl Stop {
    /// The time that the processes took to end once each was told to, which is up to them and to the machine.
    #[must_use]
    pub fn ends(&self) -> Duration {
        let mut told = HashMap::new();
        let mut sum = Duration::ZERO;
        for event in &self.events {
            let since = since(event);
            if event.text.starts_with("sent SIG") {
                told.insert(&event.process, since);
            } else if let Some(told) = told.remove(&event.process) {
                sum += since.saturating_sub(told);
            }
        }
        sum
    }
}

/// How long after the beginning of the shutdown something happened.
#[must_use]
pub fn since(event: &ShutdownEvent) -> Duration {
    let since = event.since.and_then(|since| since.try_into().ok());
    since.unwrap_or_default()
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.ebb = None;
        let folder: &Path = self.setup.folder();
        let start = Instant::now();
        while !witness::all(folder).is_empty() && start.elapsed() < CLEAN_UP {
            witness::kill_all(folder);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
