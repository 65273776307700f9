//! A real Envoy, started from the shipped configuration.

use std::{
    collections::HashMap,
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use hyper::{Method, StatusCode};

use crate::{
    admin,
    bins::{self, EnvoyVersion},
    bootstrap::Bootstrap,
    process::{Process, Spec},
};

/// Envoy compiles the module at its start, which takes seconds on a busy machine.
const START_BOUND: Duration = Duration::from_secs(60);

/// How to start an Envoy.
#[derive(Clone, Debug)]
pub struct EnvoyOptions {
    /// Which binary.
    pub version: EnvoyVersion,
    /// Number of worker threads.
    pub concurrency: u32,
    /// Envoy's `node.id`.
    pub node_id: String,
    /// The filter's module; none = [`bins::wasm`].
    pub wasm: Option<PathBuf>,
    /// A name for the control plane's cluster; none = as shipped.
    pub control_plane_cluster: Option<String>,
    /// What else is changed in the shipped configuration, after everything else.
    pub edit: fn(&mut Bootstrap) -> Result<()>,
    /// Further arguments for it.
    pub args: &'static [&'static str],
    /// Whether the end of Envoy's log is printed when it is dropped.
    pub show_log: bool,
}

impl Default for EnvoyOptions {
    fn default() -> Self {
        Self {
            version: EnvoyVersion::V1_40,
            concurrency: 1,
            node_id: "edge-1".to_owned(),
            wasm: None,
            control_plane_cluster: None,
            edit: |_| Ok(()),
            args: &[],
            show_log: true,
        }
    }
}

impl EnvoyOptions {
    /// The shipped configuration with these options, complete but for the admin endpoint.
    ///
    /// # Errors
    /// When a part under test is not there, or the shipped file is not what it should be.
    pub fn bootstrap(&self, control_plane: &Path, upstream: SocketAddr) -> Result<Bootstrap> {
        let wasm = self.wasm.clone().map_or_else(bins::wasm, Ok)?;
        let mut bootstrap = Bootstrap::shipped()?;
        bootstrap.set_node_id(&self.node_id);
        bootstrap.bind_free_ports()?;
        bootstrap.set_wasm(&wasm);
        bootstrap.set_control_plane(control_plane)?;
        bootstrap.set_upstream(upstream)?;
        if let Some(name) = &self.control_plane_cluster {
            bootstrap.rename_control_plane(name)?;
        }
        (self.edit)(&mut bootstrap)?;
        Ok(bootstrap)
    }
}

/// A running Envoy; dropping it kills it.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: PathBuf,
    listeners: HashMap<String, SocketAddr>,
    stat_prefixes: HashMap<String, String>,
}

/// An Envoy that was started and has not yet been waited for.
#[derive(Debug)]
pub struct Starting {
    process: Process,
    admin: PathBuf,
    bootstrap: Bootstrap,
}

impl Envoy {
    /// Starts Envoy with its files in `folder` and waits until it serves.
    ///
    /// # Errors
    /// When it cannot be started, ends, or is not ready in time.
    pub async fn start(
        options: &EnvoyOptions,
        folder: &Path,
        control_plane: &Path,
        upstream: SocketAddr,
    ) -> Result<Self> {
        Starting::spawn(options, folder, control_plane, upstream)?
            .ready()
            .await
    }

    /// Starts Envoy from a bootstrap of the test's own, to which only the admin endpoint is added.
    ///
    /// # Errors
    /// As [`Envoy::start`].
    pub async fn start_from(bootstrap: Bootstrap, folder: &Path) -> Result<Self> {
        Self::start_as(&EnvoyOptions::default(), bootstrap, folder).await
    }

    /// As [`Envoy::start_from`], with a choice of binary and workers; of the options, nothing else counts here.
    ///
    /// # Errors
    /// As [`Envoy::start`].
    pub async fn start_as(options: &EnvoyOptions, bootstrap: Bootstrap, folder: &Path) -> Result<Self> {
        Starting::spawn_from(bootstrap, options, folder)?.ready().await
    }

    /// Where a listener accepts.
    ///
    /// # Errors
    /// When there is no such listener.
    pub fn address(&self, listener: &str) -> Result<SocketAddr> {
        self.listeners
            .get(listener)
            .copied()
            .with_context(|| format!("Envoy has no listener `{listener}`"))
    }

    /// The admin endpoint's socket.
    #[must_use]
    pub fn admin_socket(&self) -> &Path {
        &self.admin
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What Envoy has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// A counter or gauge by its full name; none when Envoy has no such value (yet).
    ///
    /// # Errors
    /// When the admin endpoint does not answer.
    pub async fn stat(&self, name: &str) -> Result<Option<u64>> {
        let filter = name.replace('.', "\\.");
        let (_, text) =
            admin::request(&self.admin, Method::GET, &format!("/stats?filter=^{filter}$")).await?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.map(|value| {
            value
                .trim()
                .parse()
                .with_context(|| format!("{name} is no number: {value}"))
        })
        .transpose()
    }

    /// Envoy's own count of requests in flight on a listener: the ground truth.
    ///
    /// # Errors
    /// When the admin endpoint does not answer, or there is no such listener.
    pub async fn downstream_rq_active(&self, listener: &str) -> Result<u64> {
        let prefix = self.stat_prefixes.get(listener);
        let prefix = prefix.with_context(|| format!("Envoy has no listener `{listener}`"))?;
        let name = format!("http.{prefix}.downstream_rq_active");
        self.stat(&name)
            .await?
            .with_context(|| format!("Envoy has no value {name}"))
    }

    /// Requests a path of the admin endpoint.
    ///
    /// # Errors
    /// When it does not answer, or not with 200.
    pub async fn admin(&self, method: Method, path: &str) -> Result<String> {
        let (status, text) = admin::request(&self.admin, method, path).await?;
        if status != StatusCode::OK {
            bail!("Envoy's admin endpoint answered {status} to {path}: {text}");
        }
        Ok(text)
    }
}

impl Starting {
    /// Starts Envoy with its files in `folder`, and does not wait.
    ///
    /// # Errors
    /// When the configuration cannot be made or the binary cannot be started.
    pub fn spawn(
        options: &EnvoyOptions,
        folder: &Path,
        control_plane: &Path,
        upstream: SocketAddr,
    ) -> Result<Self> {
        Self::spawn_from(options.bootstrap(control_plane, upstream)?, options, folder)
    }

    /// Starts Envoy from a bootstrap that is complete but for the admin endpoint.
    fn spawn_from(mut bootstrap: Bootstrap, options: &EnvoyOptions, folder: &Path) -> Result<Self> {
        let admin = folder.join("admin.sock");
        bootstrap.set_admin(&admin);
        let file = folder.join("envoy.json");
        bootstrap.write(&file)?;
        let concurrency = options.concurrency.to_string();
        let mut args: Vec<OsString> = ["-c".into(), file.into()].into();
        args.extend(["--concurrency", &concurrency, "--disable-hot-restart"].map(OsString::from));
        // Its start-up alone is a hundred lines, and it warns of `fail_open` for every plugin and VM; of interest are
        // other warnings and what the filter says.
        let levels = [
            "--log-level",
            "warning",
            "--component-log-level",
            "wasm:info,misc:error",
        ];
        args.extend(levels.map(OsString::from));
        args.extend(options.args.iter().map(OsString::from));
        let process = Process::spawn(Spec {
            name: "envoy".to_owned(),
            program: bins::envoy(options.version)?,
            args,
            env: Vec::new(),
            log: folder.join("envoy.log"),
            show_log: options.show_log,
        })?;
        Ok(Self {
            process,
            admin,
            bootstrap,
        })
    }

    /// Waits until Envoy serves, and asks it for its ports.
    ///
    /// # Errors
    /// When it ends or is not ready in time.
    pub async fn ready(mut self) -> Result<Envoy> {
        let deadline = tokio::time::Instant::now() + START_BOUND;
        loop {
            self.process.check_running()?;
            if matches!(
                admin::request(&self.admin, Method::GET, "/ready").await,
                Ok((StatusCode::OK, _))
            ) {
                break;
            }
            if tokio::time::Instant::now() > deadline {
                bail!("waited {START_BOUND:?} in vain: Envoy is ready");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (_, text) = admin::request(&self.admin, Method::GET, "/listeners?format=json").await?;
        let listeners = admin::listeners(&text)?;
        let mut stat_prefixes = HashMap::new();
        for name in listeners.keys() {
            stat_prefixes.insert(name.clone(), self.bootstrap.stat_prefix(name)?);
        }
        Ok(Envoy {
            process: self.process,
            admin: self.admin,
            listeners,
            stat_prefixes,
        })
    }

    /// Waits for the end of an Envoy that refuses its configuration, and returns its log.
    ///
    /// # Errors
    /// When it goes on running.
    pub async fn refused(mut self) -> Result<String> {
        let status = self.process.exit(START_BOUND).await?;
        if status.success() {
            bail!("Envoy ended with success where it should have refused its configuration");
        }
        Ok(self.process.log())
    }
}
