//! The configuration of a gateway: the shipped `envoy-config/ebb.toml` and `envoy-config/envoy.yaml`, with only that
//! replaced which differs on every machine, and whatever a test changes besides.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::json;
use toml::{Table, Value};

use super::witness;
use crate::{
    bins::{self, EnvoyVersion},
    bootstrap::Bootstrap,
    ports::Port,
};

/// Number of Envoy's workers.
pub const WORKERS: u32 = 2;
/// Envoy's `node.id`.
pub const NODE: &str = "router";

/// How long the executor takes for its answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Takes {
    /// The shortest.
    pub shortest: Duration,
    /// The longest of the short ones.
    pub short: Duration,
    /// A long one.
    pub long: Duration,
    /// Of so many answers one is long; 0 = none.
    pub long_one_of: u32,
}

/// A gateway to be started. Its ports stay its own over restarts.
#[derive(Debug)]
pub struct Setup {
    folder: PathBuf,
    ingress: Port,
    internal: Port,
    health: Port,
    policy: Port,
    executor: Port,
    admin_port: Option<Port>,
    /// `ebb.toml`.
    pub ebb: Table,
    /// Envoy's bootstrap.
    pub envoy: Bootstrap,
    /// Whether the end of the log is printed when the gateway is dropped; it is unless told otherwise.
    pub show_log: bool,
}

impl Setup {
    /// The shipped gateway in `folder`, before `upstream`; `policy_engine` is that program of this crate.
    ///
    /// # Errors
    /// When there are no free ports, or something that it needs is not there.
    pub fn new(
        folder: &Path,
        version: EnvoyVersion,
        upstream: SocketAddr,
        policy_engine: &Path,
    ) -> Result<Self> {
        let path = bins::repository().join("envoy-config/ebb.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut setup = Self {
            folder: folder.to_owned(),
            ingress: Port::reserve()?,
            internal: Port::reserve()?,
            health: Port::reserve()?,
            policy: Port::reserve()?,
            executor: Port::reserve()?,
            admin_port: None,
            ebb: text
                .parse()
                .with_context(|| format!("{} is no TOML", path.display()))?,
            envoy: Bootstrap::shipped()?,
            show_log: true,
        };
        setup.place_envoy(upstream)?;
        setup.place_ebb(version, policy_engine)?;
        Ok(setup)
    }

    fn place_envoy(&mut self, upstream: SocketAddr) -> Result<()> {
        self.envoy.set_node_id(NODE);
        self.envoy.set_wasm(&bins::wasm()?);
        self.envoy.set_control_plane(&self.socket())?;
        self.envoy.set_upstream(upstream)?;
        self.envoy.set_admin(&self.admin_socket());
        self.envoy.bind("ingress", self.ingress.address())?;
        self.envoy.bind("internal", self.internal.address())?;
        let filters = self.envoy.http_filters_mut("ingress")?;
        let router = filters.len().saturating_sub(1);
        filters.insert(router, ext_authz(self.policy.address()));
        self.envoy.add_cluster("policy-engine", self.policy.address())
    }

    fn place_ebb(&mut self, version: EnvoyVersion, policy_engine: &Path) -> Result<()> {
        let (policy, executor) = (
            self.policy.address().to_string(),
            self.executor.address().to_string(),
        );
        let (journal, admin) = (text(&self.journal()), text(&self.admin_socket()));
        self.set(
            &["control_plane", "listen"],
            format!("unix:{}", self.socket().display()),
        )?;
        self.set(&["control_plane", "state"], text(&self.folder.join("state")))?;
        self.set(&["control_plane", "health"], self.health().to_string())?;
        // Nobody has to be told where there is no load balancer.
        self.set(&["drain", "announce"], "0s")?;
        let envoy = text(&bins::envoy(version)?);
        let bootstrap = text(&self.bootstrap_file());
        let workers = WORKERS.to_string();
        let router = [
            &envoy,
            "-c",
            &bootstrap,
            "--concurrency",
            &workers,
            "--disable-hot-restart",
            "-l",
            "error",
        ];
        self.set_process("router", "command", strings(&router))?;
        let ready = [
            ("http", format!("unix:{admin}:/ready")),
            ("timeout", "60s".to_owned()),
        ];
        self.set_process("router", "ready", table(ready))?;
        let drain = [("admin", format!("unix:{admin}"))];
        let mut drain = table(drain);
        drain.insert("listeners".to_owned(), strings(&["ingress"]));
        self.set_process("router", "drain", drain)?;
        let engine = text(policy_engine);
        let engine = [
            &engine,
            "--listen",
            &policy,
            "--executor",
            &executor,
            "--journal",
            &journal,
        ];
        self.set_process("policy-engine", "command", strings(&engine))?;
        self.set_process("policy-engine", "ready", table([("tcp", policy.clone())]))?;
        self.set_process("policy-engine", "gate", strings(&[&policy]))?;
        let script = text(&bins::repository().join("tests/python/executor.py"));
        let python = text(&bins::any_python());
        let program = [&python, &script, "--listen", &executor, "--journal", &journal];
        self.set_process("python-executor", "command", strings(&program))?;
        self.set_process("python-executor", "ready", table([("tcp", executor.clone())]))?;
        for name in ["router", "policy-engine", "python-executor"] {
            // Were Ebb killed, nothing would be left of a test.
            self.die_with_parent(name)?;
            self.set_process(name, "env", table([(witness::PROCESS, name.to_owned())]))?;
        }
        Ok(())
    }

    fn die_with_parent(&mut self, process: &str) -> Result<()> {
        let command = self.command_mut(process)?;
        for (place, word) in ["setpriv", "--pdeathsig", "KILL"].into_iter().enumerate() {
            command.insert(place, word.into());
        }
        Ok(())
    }

    /// Has the executor take its time.
    ///
    /// # Errors
    /// When the configuration has no executor.
    pub fn executor_takes(&mut self, takes: Takes) -> Result<()> {
        let milliseconds = |duration: Duration| (duration.as_secs_f64() * 1000.0).to_string();
        let arguments = [
            ("--shortest", milliseconds(takes.shortest)),
            ("--short", milliseconds(takes.short)),
            ("--long", milliseconds(takes.long)),
            ("--long-one-of", takes.long_one_of.to_string()),
        ];
        let arguments: Vec<&str> = arguments.iter().flat_map(|(key, value)| [*key, value]).collect();
        self.extend_command("python-executor", &arguments)
    }

    /// Adds arguments to the command of a process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn extend_command(&mut self, process: &str, arguments: &[&str]) -> Result<()> {
        let command = self.command_mut(process)?;
        command.extend(arguments.iter().map(|&argument| argument.into()));
        Ok(())
    }

    fn command_mut(&mut self, process: &str) -> Result<&mut Vec<Value>> {
        let command = self.process_mut(process)?.get_mut("command");
        let command = command.and_then(Value::as_array_mut);
        command.with_context(|| format!("{process} has no command"))
    }

    /// Puts Envoy's admin endpoint on a TCP port, where a load balancer can ask it, and returns the address.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn admin_on_port(&mut self) -> Result<SocketAddr> {
        let port = Port::reserve()?;
        let address = port.address();
        self.admin_port = Some(port);
        let socket = json!({ "address": address.ip().to_string(), "port_value": address.port() });
        *self
            .envoy
            .value_mut()
            .pointer_mut("/admin/address")
            .context("no admin")? = json!({ "socket_address": socket });
        self.set_process_key("router", &["ready", "http"], format!("http://{address}/ready"))?;
        self.set_process_key("router", &["drain", "admin"], address.to_string())?;
        Ok(address)
    }

    /// Takes Envoy's admin endpoint away: it is ready when its listener accepts.
    ///
    /// # Errors
    /// When the configuration has none.
    pub fn without_admin(&mut self) -> Result<()> {
        let bootstrap = self.envoy.value_mut().as_object_mut().context("no object")?;
        bootstrap.remove("admin").context("no admin")?;
        let ready = [("tcp", self.ingress().to_string()), ("timeout", "60s".to_owned())];
        self.set_process("router", "ready", table(ready))?;
        let drain = self
            .process_mut("router")?
            .get_mut("drain")
            .and_then(Value::as_table_mut);
        drain.context("no drain")?.remove("admin").context("no admin")?;
        Ok(())
    }

    /// Sets a key of `ebb.toml`.
    ///
    /// # Errors
    /// When there is no such table.
    pub fn set(&mut self, path: &[&str], value: impl Into<Value>) -> Result<()> {
        set(&mut self.ebb, path, value.into())
    }

    /// Sets a key of a `[[process]]`.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn set_process(&mut self, process: &str, key: &str, value: impl Into<Value>) -> Result<()> {
        set(self.process_mut(process)?, &[key], value.into())
    }

    /// Sets a nested key of a `[[process]]`.
    ///
    /// # Errors
    /// When there is no such process or table.
    pub fn set_process_key(&mut self, process: &str, path: &[&str], value: impl Into<Value>) -> Result<()> {
        set(self.process_mut(process)?, path, value.into())
    }

    /// A `[[process]]`.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn process_mut(&mut self, name: &str) -> Result<&mut Table> {
        let processes = self.ebb.get_mut("process").and_then(Value::as_array_mut);
        let mut tables = processes.into_iter().flatten().filter_map(Value::as_table_mut);
        let found = tables.find(|table| table.get("name").and_then(Value::as_str) == Some(name));
        found.with_context(|| format!("ebb.toml has no process {name}"))
    }

    /// Program and arguments of a process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn command(&mut self, process: &str) -> Result<Vec<String>> {
        let words = self.command_mut(process)?.iter();
        Ok(words.filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// Writes both files.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write(&self) -> Result<()> {
        fs::write(self.configuration_file(), toml::to_string(&self.ebb)?)?;
        self.envoy.write(&self.bootstrap_file())
    }

    /// Where everything of it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where clients connect: the listener with the policy engine, which is drained.
    #[must_use]
    pub fn ingress(&self) -> SocketAddr {
        self.ingress.address()
    }

    /// The other listener, without a policy engine.
    #[must_use]
    pub fn internal(&self) -> SocketAddr {
        self.internal.address()
    }

    /// Where Ebb's `/ready` is.
    #[must_use]
    pub fn health(&self) -> SocketAddr {
        self.health.address()
    }

    /// Where the policy engine listens.
    #[must_use]
    pub fn policy(&self) -> SocketAddr {
        self.policy.address()
    }

    /// Where the executor listens.
    #[must_use]
    pub fn executor(&self) -> SocketAddr {
        self.executor.address()
    }

    /// The control plane's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("ebb.sock")
    }

    /// Envoy's admin endpoint, unless a test has moved it.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.folder.join("admin.sock")
    }

    /// The journal of the small programs.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.folder.join("journal")
    }

    /// `ebb.toml`.
    #[must_use]
    pub fn configuration_file(&self) -> PathBuf {
        self.folder.join("ebb.toml")
    }

    fn bootstrap_file(&self) -> PathBuf {
        self.folder.join("envoy.json")
    }
}

fn set(table: &mut Table, path: &[&str], value: Value) -> Result<()> {
    let Some((key, above)) = path.split_last() else {
        return Ok(());
    };
    let mut place = table;
    for name in above {
        let next = place.get_mut(*name).and_then(Value::as_table_mut);
        place = next.with_context(|| format!("ebb.toml has no table {name}"))?;
    }
    place.insert((*key).to_owned(), value);
    Ok(())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn strings(words: &[&str]) -> Value {
    Value::Array(words.iter().map(|&word| word.into()).collect())
}

fn table<const N: usize>(entries: [(&str, String); N]) -> Table {
    let entries = entries.into_iter();
    entries
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect()
}

/// Envoy's filter that asks about every request; without an answer the request fails.
fn ext_authz(policy_engine: SocketAddr) -> serde_json::Value {
    let uri = format!("http://{policy_engine}");
    json!({
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "http_service": { "server_uri": { "uri": uri, "cluster": "policy-engine", "timeout": "10s" } },
            "status_on_error": { "code": "ServiceUnavailable" },
        },
    })
}
