//! A replica: a real Envoy and the app behind it, each a process of its own.

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    api,
    bins::{self, EnvoyVersion},
    client::http1,
    gateway::{
        journal::{self, Moment},
        witness,
    },
    haproxy::Server,
    ports::Port,
    process::{Process, Spec, describe},
    wait, world,
};
use http::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::{contender::Contender, place::app_program, stop};

/// Envoy compiles the module at its start, which takes seconds on a busy machine.
const START_BOUND: Duration = Duration::from_secs(60);
/// Of the end of a process once nothing holds it any more, and of all of Ebb's stop.
const STOP_BOUND: Duration = Duration::from_secs(60);
pub(super) const WORKERS: u32 = 2;
pub(super) const NODE: &str = "router";

/// What a replica needs in common with the others of its contender.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) contender: Contender,
    /// Divides all times of everybody but Ebb.
    pub(super) divisor: u32,
    /// How long Ebb goes on accepting after its health turned bad.
    pub(super) announce: Duration,
}

/// A replica. Its ports stay its own over restarts; dropping it kills its processes.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) settings: Settings,
    running: Option<Running>,
    pub(super) ingress: Port,
    pub(super) internal: Port,
    /// Of Envoy's admin endpoint, or of Ebb's health.
    pub(super) health: Port,
    pub(super) app: Port,
    folder: TempDir,
}

#[derive(Debug)]
enum Running {
    Bare(Box<Bare>),
    /// `ebb run`, which has both.
    Ebb(Box<Process>),
}

/// Envoy and the app behind it.
#[derive(Debug)]
struct Bare {
    envoy: Process,
    app: Process,
}

/// A stop, in moments of the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopped {
    pub(super) signal: Moment,
    /// The end of the last process.
    pub(super) exit: Moment,
    /// When the app had its last response ready.
    pub(super) last: Moment,
    /// Whether a deadline ended the wait.
    pub(super) deadline: bool,
}

impl Replica {
    /// A replica that was not started.
    pub(super) fn new(settings: Settings) -> Result<Self> {
        let replica = Self {
            settings,
            running: None,
            ingress: Port::reserve()?,
            internal: Port::reserve()?,
            health: Port::reserve()?,
            app: Port::reserve()?,
            folder: world::folder()?,
        };
        replica.bootstrap()?.write(&replica.file("envoy.json"))?;
        fs::write(replica.file("ebb.toml"), replica.configuration()?)?;
        Ok(replica)
    }

    /// Where clients and the load balancer find it.
    pub(super) fn server(&self) -> Server {
        Server {
            address: self.ingress.address(),
            health: self.health.address(),
        }
    }

    /// What `ebb run` has logged over restarts; nothing of the others.
    pub(super) fn log(&self) -> String {
        match &self.running {
            Some(Running::Ebb(ebb)) => ebb.log(),
            _ => String::new(),
        }
    }

    /// Starts it and waits until it serves.
    pub(super) async fn start(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "the replica runs already");
        // What is not there cannot be taken for the moment of an earlier stop.
        let _ = fs::remove_file(self.last_file());
        if self.settings.contender == Contender::Ebb {
            let config: [OsString; 3] = ["run".into(), "--config".into(), self.file("ebb.toml").into()];
            let ebb = self.running.insert(Running::Ebb(Box::new(spawn(
                self.folder.path(),
                "ebb",
                bins::ebb()?,
                config.into(),
            )?)));
            is_ready(self.health.address(), ebb).await?;
            return self.is_attached().await;
        }
        let app = spawn(self.folder.path(), "app", app_program()?, self.app_arguments())?;
        let address = self.app.address();
        let listens = wait::until("the app listens", START_BOUND, || async {
            Ok(TcpStream::connect(address).await.is_ok())
        });
        listens.await?;
        let envoy = spawn(
            self.folder.path(),
            "envoy",
            bins::envoy(EnvoyVersion::V1_40)?,
            self.envoy_arguments(),
        )?;
        let running = self.running.insert(Running::Bare(Box::new(Bare { envoy, app })));
        is_ready(self.health.address(), running).await
    }

    async fn is_attached(&self) -> Result<()> {
        let mut client = api::Client::connect(&self.file("ebb.sock")).await?;
        world::wait_attached(&mut client, NODE, WORKERS).await.map(drop)
    }

    /// Stops it as its contender does, and returns when its last process has ended.
    pub(super) async fn stop(&mut self) -> Result<Stopped> {
        let Settings {
            contender, divisor, ..
        } = self.settings;
        let running = self.running.take().context("the replica does not run")?;
        let signal = journal::now();
        let mut deadline = false;
        match running {
            Running::Ebb(mut ebb) => {
                let pid = ebb.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
                kill_process(pid.context("ebb run has ended")?, Signal::TERM)?;
                let status = ebb.exit(STOP_BOUND).await?;
                ensure!(
                    status.success(),
                    "ebb run ended with {}\n{}",
                    describe(status),
                    ebb.log()
                );
            }
            Running::Bare(both) if contender == Contender::Plain => {
                let Bare { mut envoy, mut app } = *both;
                envoy.signal(Signal::TERM)?;
                app.signal(Signal::TERM)?;
                envoy.exit(STOP_BOUND).await?;
                app.exit(STOP_BOUND).await?;
            }
            Running::Bare(both) => {
                let Bare { mut envoy, mut app } = *both;
                deadline = stop::before_the_signal(contender, self.health.address(), divisor).await?;
                envoy.signal(Signal::TERM)?;
                envoy.exit(STOP_BOUND).await?;
                app.signal(Signal::TERM)?;
                app.exit(STOP_BOUND).await?;
            }
        }
        let exit = journal::now();
        let file = self.last_file();
        let last = fs::read_to_string(&file).context("the app has not written down its last response")?;
        let last = last
            .trim()
            .parse()
            .with_context(|| format!("{} is no number", file.display()))?;
        Ok(Stopped {
            signal,
            exit,
            last,
            deadline,
        })
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn last_file(&self) -> PathBuf {
        self.file("last")
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.running = None;
        witness::kill_all(self.folder.path());
    }
}

impl Running {
    fn check(&mut self) -> Result<()> {
        match self {
            Self::Bare(both) => both.envoy.check_running().and_then(|()| both.app.check_running()),
            Self::Ebb(ebb) => ebb.check_running(),
        }
    }
}

fn spawn(folder: &Path, name: &str, program: PathBuf, args: Vec<OsString>) -> Result<Process> {
    Process::spawn(Spec {
        name: name.to_owned(),
        program,
        args,
        env: vec![
            (witness::GATEWAY.into(), folder.into()),
            ("EBB_LOG".into(), "info".into()),
        ],
        log: folder.join(format!("{name}.log")),
        show_log: false,
    })
}

/// Waits until `/ready` answers 200.
async fn is_ready(address: SocketAddr, running: &mut Running) -> Result<()> {
    let start = tokio::time::Instant::now();
    loop {
        running.check()?;
        let asking = async { http1::Connection::open(address).await?.get("/ready").await };
        if asking
            .await
            .is_ok_and(|response| response.status == StatusCode::OK)
        {
            return Ok(());
        }
        ensure!(
            start.elapsed() < START_BOUND,
            "waited {START_BOUND:?} in vain: the replica is ready"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
