//! The same processes as those of a [`super::Gateway`], without Ebb: started one after the other, and told to stop all at
//! once, as an entrypoint without a supervisor does.

use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use tokio::net::TcpStream;

use super::{setup::Setup, witness};
use crate::{
    client::http1,
    process::{Process, Spec},
    wait,
};

const START_BOUND: Duration = Duration::from_secs(60);

/// The processes; dropping them kills them.
#[derive(Debug)]
pub struct Plain {
    setup: Setup,
    admin: std::net::SocketAddr,
    processes: Vec<Process>,
}

impl Plain {
    /// Starts them and waits until Envoy is ready.
    ///
    /// # Errors
    /// When one cannot be started, or is not ready in time.
    pub async fn start(mut setup: Setup) -> Result<Self> {
        let admin = setup.admin_on_port()?;
        setup.write()?;
        let mut plain = Self {
            setup,
            admin,
            processes: Vec::new(),
        };
        plain.restart().await?;
        Ok(plain)
    }

    /// Starts them once more.
    ///
    /// # Errors
    /// As [`Plain::start`].
    pub async fn restart(&mut self) -> Result<()> {
        for (name, address) in [
            ("python-executor", self.setup.executor()),
            ("policy-engine", self.setup.policy()),
        ] {
            self.spawn(name)?;
            wait::until(format!("{name} listens"), START_BOUND, || async {
                Ok(TcpStream::connect(address).await.is_ok())
            })
            .await?;
        }
        self.spawn("router")?;
        wait::until("Envoy is ready", START_BOUND, || async {
            let answer = http1::Connection::open(self.admin).await?.get("/ready").await?;
            Ok(answer.status == http::StatusCode::OK)
        })
        .await
    }

    fn spawn(&mut self, name: &str) -> Result<()> {
        let mut words = self.setup.command(name)?.into_iter();
        self.processes.push(Process::spawn(Spec {
            name: name.to_owned(),
            program: words.next().context("an empty command")?.into(),
            args: words.map(Into::into).collect(),
            env: vec![(witness::GATEWAY.into(), self.setup.folder().into())],
            log: self.setup.folder().join(format!("{name}.log")),
            show_log: false,
        })?);
        Ok(())
    }

    /// SIGTERM to all of them, and waits for their ends.
    ///
    /// # Errors
    /// When one does not end.
    pub async fn terminate(&mut self) -> Result<()> {
        for process in &self.processes {
            process.signal(Signal::TERM)?;
        }
        for mut process in self.processes.drain(..) {
            process.exit(START_BOUND).await?;
        }
        Ok(())
    }

    /// Its configuration.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Where Envoy's `/ready` is.
    #[must_use]
    pub fn health(&self) -> std::net::SocketAddr {
        self.admin
    }
}
