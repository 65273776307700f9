//! The control plane of a world, which goes away and comes back.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    api::Client,
    bins,
    ebb::{Ebb, EbbOptions},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::Mutex as AsyncMutex;

use crate::{
    clock::Clock,
    journal::{Away, Moment, Outage},
};

/// Of the state's file.
const PAGE: u64 = 4096;

/// The control plane. Whatever makes it go away holds it until it is back, so that these follow each other.
#[derive(Debug)]
pub struct Control {
    ebb: AsyncMutex<Option<Ebb>>,
    options: Mutex<EbbOptions>,
    outages: Mutex<Vec<Outage>>,
    /// By how many seconds its wall clock is wrong.
    step: Mutex<i64>,
    step_file: PathBuf,
    clock: Clock,
}

impl Control {
    pub(super) fn new(folder: &Path, state: Option<PathBuf>, admins: Vec<String>, clock: Clock) -> Self {
        let mut options = EbbOptions::in_folder(folder);
        let step_file = folder.join("step");
        if let Some(library) = bins::faketime() {
            options.env = vec![
                ("LD_PRELOAD".into(), library.into()),
                ("FAKETIME_TIMESTAMP_FILE".into(), step_file.clone().into()),
                ("FAKETIME_NO_CACHE".into(), "1".into()),
                ("FAKETIME_DONT_FAKE_MONOTONIC".into(), "1".into()),
            ];
        }
        options.state = state;
        options.admins = admins;
        options.show_log = false;
        Self {
            ebb: AsyncMutex::default(),
            options: Mutex::new(options),
            outages: Mutex::default(),
            step: Mutex::new(0),
            step_file,
            clock,
        }
    }

    /// Starts it, unless it runs.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(&self) -> Result<()> {
        let mut ebb = self.ebb.lock().await;
        if ebb.is_none() {
            self.step(0)?;
            let options = lock(&self.options).clone();
            *ebb = Some(Ebb::start(options).await?);
        }
        Ok(())
    }

    /// Waits until it is not away.
    pub async fn is_there(&self) {
        drop(self.ebb.lock().await);
    }

    /// A typed client.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn client(&self) -> Result<Client> {
        Client::connect(&self.socket()).await
    }

    /// Its Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        lock(&self.options).socket.clone()
    }

    /// Has it go away: killed, or told to end. Something may happen meanwhile.
    ///
    /// # Errors
    /// When it does not end, or does not start again.
    pub async fn restart(
        &self,
        killed: bool,
        away: Duration,
        meanwhile: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut ebb = self.ebb.lock().await;
        let running = ebb.take().context("there is no control plane")?;
        let from = self.clock.now();
        let options = if killed {
            running.kill().await?
        } else {
            running.terminate().await?
        };
        let done = meanwhile();
        tokio::time::sleep(away).await;
        *ebb = Some(Ebb::start(options).await?);
        self.was_away(Away::Ended, from);
        done
    }

    /// Has it stand still.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn pause(&self, length: Duration) -> Result<()> {
        let ebb = self.ebb.lock().await;
        let running = ebb.as_ref().context("there is no control plane")?;
        let from = self.clock.now();
        running.pause()?;
        tokio::time::sleep(length).await;
        running.resume()?;
        self.was_away(Away::Paused, from);
        Ok(())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn signal(&self, signal: Signal) -> Result<()> {
        let ebb = self.ebb.lock().await;
        let pid = ebb
            .as_ref()
            .and_then(Ebb::pid)
            .context("there is no control plane")?;
        let pid = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .context("no pid")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Overwrites a page of its state, which it must not have open.
    ///
    /// # Errors
    /// When it keeps none, or has written nothing yet.
    pub fn break_state(&self, page: u64) -> Result<()> {
        let state = lock(&self.options)
            .state
            .clone()
            .context("the state is in memory")?;
        let mut file = OpenOptions::new().write(true).open(state.join("ebb.redb"))?;
        let pages = file.metadata()?.len() / PAGE;
        ensure!(pages > 0, "the state is empty");
        file.seek(SeekFrom::Start(page % pages * PAGE))?;
        Ok(file.write_all(&[0xa5; PAGE as usize])?)
    }

    /// Starts it anew in an empty state: it knows of nobody.
    ///
    /// # Errors
    /// When it does not end, or does not start again.
    pub async fn renew(&self, number: usize) -> Result<()> {
        let mut ebb = self.ebb.lock().await;
        if let Some(running) = ebb.take() {
            let mut options = running.kill().await?;
            if let Some(state) = &mut options.state {
                // The disk is a small one.
                match std::fs::remove_dir_all(&*state) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        return Err(error).context("cannot drop a state");
                    }
                    _ => {}
                }
                state.set_file_name(format!("state{number}"));
            }
            lock(&self.options).state.clone_from(&options.state);
            *ebb = Some(Ebb::start(options).await?);
        }
        Ok(())
    }

    /// Sets its wall clock by that many seconds.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn step(&self, seconds: i64) -> Result<()> {
        let mut step = lock(&self.step);
        *step += seconds;
        let new = self.step_file.with_extension("new");
        std::fs::write(&new, format!("{:+}\n", *step))?;
        std::fs::rename(new, &self.step_file).context("cannot set the clock")
    }

    /// When it was away since then.
    #[must_use]
    pub fn outages_since(&self, since: Moment) -> Vec<Outage> {
        let outages = lock(&self.outages);
        outages
            .iter()
            .filter(|outage| outage.until > since)
            .copied()
            .collect()
    }

    /// What it has logged.
    pub async fn log(&self) -> String {
        self.ebb.lock().await.as_ref().map(Ebb::log).unwrap_or_default()
    }

    fn was_away(&self, away: Away, from: Moment) {
        let until = self.clock.now();
        lock(&self.outages).push(Outage { away, from, until });
    }
}

/// Whether the wall clock of a process can be set here.
#[must_use]
pub fn can_step() -> bool {
    bins::faketime().is_some()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
