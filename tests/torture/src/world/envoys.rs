//! One Envoy of a world, which ends and is started again.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use ebb_e2e::{
    admin,
    bootstrap::Bootstrap,
    envoy::{Envoy, EnvoyOptions},
    relay::Relay,
    wait,
};
use hyper::Method;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::schedule::{EnvoyPlan, Listener};

/// An Envoy, or the place of one that has ended.
#[derive(Debug)]
pub struct Slot {
    plan: EnvoyPlan,
    bootstrap: Bootstrap,
    folder: PathBuf,
    relay: Option<Relay>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    envoy: Envoy,
    addresses: HashMap<Listener, SocketAddr>,
}

impl Slot {
    pub(super) fn new(plan: &EnvoyPlan, bootstrap: Bootstrap, folder: PathBuf, relay: Option<Relay>) -> Self {
        Self {
            plan: plan.clone(),
            bootstrap,
            folder,
            relay,
            running: Mutex::default(),
        }
    }

    /// What `ebb serve --admin` is told, if it is told anything.
    pub(super) fn admin_flag(&self) -> Option<String> {
        let socket = self.folder.join("admin.sock");
        self.plan.admin.then(|| format!("unix:{}", socket.display()))
    }

    /// Starts it, unless it runs, and waits until it serves.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start(&self) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let options = EnvoyOptions {
            version: self.plan.version,
            concurrency: self.plan.workers,
            show_log: false,
            ..EnvoyOptions::default()
        };
        let envoy = Envoy::start_as(&options, self.bootstrap.clone(), &self.folder).await?;
        let mut addresses = HashMap::new();
        for listener in Listener::ALL {
            addresses.insert(listener, envoy.address(listener.name())?);
        }
        *self.running() = Some(Running { envoy, addresses });
        Ok(())
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running().is_some()
    }

    /// Between its filters and the control plane, where there is one.
    #[must_use]
    pub fn relay(&self) -> Option<&Relay> {
        self.relay.as_ref()
    }

    /// Where a listener accepts; none when it has ended.
    #[must_use]
    pub fn address(&self, listener: Listener) -> Option<SocketAddr> {
        self.running().as_ref()?.addresses.get(&listener).copied()
    }

    /// Has it say again that it is healthy.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn heal(&self) -> Result<()> {
        let socket = self.folder.join("admin.sock");
        admin::request(&socket, Method::POST, "/healthcheck/ok").await?;
        Ok(())
    }

    /// Sends it a signal that it survives.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let mut running = self.running();
        let running = running.as_mut().context("it has ended")?;
        running.envoy.process().signal(signal)
    }

    /// Ends it; true if it ran.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn end(&self, signal: Signal) -> Result<bool> {
        let Some(mut running) = self.running().take() else {
            return Ok(false);
        };
        let process = running.envoy.process();
        let group = process
            .pid()
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        process.signal(signal)?;
        if let Some(group) = group {
            // One that was stopped does not hear of SIGTERM before it goes on.
            let _ = kill_process_group(group, Signal::CONT);
        }
        process.exit(wait::PATIENCE).await?;
        Ok(true)
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
