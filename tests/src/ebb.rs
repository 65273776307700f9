//! A real `ebb serve`.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use crate::{
    api::Client,
    bins,
    cli::{self, CliOutput, RunningCli},
    process::{Process, Spec, describe},
    wait,
};

/// How to start a control plane.
#[derive(Clone, Debug)]
pub struct EbbOptions {
    /// Its Unix socket.
    pub socket: PathBuf,
    /// A further address that it listens on, as the command line takes it.
    pub listen_also: Option<String>,
    /// Admin endpoints of Envoys, as the command line takes them.
    pub admins: Vec<String>,
    /// Its configuration file.
    pub config: Option<PathBuf>,
    /// The folder of its durable state; none = memory only.
    pub state: Option<PathBuf>,
    /// Added to its environment.
    pub env: Vec<(OsString, OsString)>,
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
            listen_also: None,
            admins: Vec::new(),
            config: None,
            state: None,
            env: Vec::new(),
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
        let mut ebb = Self::spawn(options)?;
        ebb.wait_until_it_answers().await?;
        Ok(ebb)
    }

    /// Starts `ebb serve` and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(options: EbbOptions) -> Result<Self> {
        let listen = format!("unix:{}", options.socket.display());
        let mut args: Vec<OsString> = ["serve", "--listen", &listen].map(OsString::from).into();
        if let Some(address) = &options.listen_also {
            args.extend(["--listen", address].map(OsString::from));
        }
        for admin in &options.admins {
            args.extend(["--admin", admin].map(OsString::from));
        }
        if let Some(file) = &options.config {
            args.extend(["--config".into(), file.into()]);
        }
        args.extend(["--state".into(), options.state.clone().unwrap_or_default().into()]);
        let mut env = vec![("EBB_LOG".into(), "info".into())];
        env.extend(options.env.iter().cloned());
        let process = Process::spawn(Spec {
            name: "ebb".to_owned(),
            program: bins::ebb()?,
            args,
            env,
            log: options.log.clone(),
            show_log: options.show_log,
        })?;
        Ok(Self { process, options })
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
        anyhow::ensure!(status.success(), "ebb ended with {} on SIGTERM", describe(status));
        Ok(self.options.clone())
    }

    /// Stops it with SIGSTOP: its connections stay, and it says nothing.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn pause(&self) -> Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// Lets it go on after [`Ebb::pause`].
    ///
    /// # Errors
    /// When it has ended already.
    pub fn resume(&self) -> Result<()> {
        self.process.signal(Signal::CONT)
    }

    /// The process id; none once it has been reaped.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
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
        cli::start(&self.options.socket, args)
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// When it ends, or does not answer in time.
    pub async fn wait_until_it_answers(&mut self) -> Result<()> {
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
