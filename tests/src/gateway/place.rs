//! What differs on every machine: the paths, ports and programs of a gateway.

use std::{net::SocketAddr, path::Path};

use anyhow::Result;
use serde_json::json;
use toml::{Table, Value};

use super::{
    setup::{NODE, Setup, WORKERS},
    witness,
};
use crate::bins::{self, EnvoyVersion};

impl Setup {
    pub(super) fn place_envoy(&mut self, upstream: SocketAddr) -> Result<()> {
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

    pub(super) fn place_ebb(&mut self, version: EnvoyVersion, policy_engine: &Path) -> Result<()> {
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

    /// Has its processes outlive an `ebb run` that is killed, as those of users do. What is left then ends with the
    /// [`super::Gateway`], unless the test is killed itself.
    ///
    /// # Errors
    /// When it has not the processes of the shipped gateway.
    pub fn outlive_ebb(&mut self) -> Result<()> {
        for name in ["router", "policy-engine", "python-executor"] {
            self.command_mut(name)?.drain(..DIES_WITH_PARENT.len());
        }
        Ok(())
    }

    fn die_with_parent(&mut self, process: &str) -> Result<()> {
        let command = self.command_mut(process)?;
        for (place, word) in DIES_WITH_PARENT.into_iter().enumerate() {
            command.insert(place, word.into());
        }
        Ok(())
    }
}

/// Put before a command.
const DIES_WITH_PARENT: [&str; 3] = ["setpriv", "--pdeathsig", "KILL"];

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn strings(words: &[&str]) -> Value {
    Value::Array(words.iter().map(|&word| word.into()).collect())
}

pub(super) fn table<const N: usize>(entries: [(&str, String); N]) -> Table {
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
