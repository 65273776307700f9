//! The configuration of a replica: Envoy's bootstrap, `ebb.toml`, and the programs with their arguments.

use std::{ffi::OsString, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use ebb_e2e::{
    bins::{self, EnvoyVersion},
    bootstrap::Bootstrap,
    envoy::EnvoyOptions,
};
use serde_json::{Value, json};

use super::{
    contender::Contender,
    replica::{NODE, Replica, WORKERS},
};

impl Replica {
    /// The shipped bootstrap; without Ebb's filters and cluster for everybody else.
    pub(super) fn bootstrap(&self) -> Result<Bootstrap> {
        let options = EnvoyOptions {
            node_id: NODE.to_owned(),
            ..EnvoyOptions::default()
        };
        let mut bootstrap = options.bootstrap(&self.file("ebb.sock"), self.app.address())?;
        bootstrap.bind("ingress", self.ingress.address())?;
        bootstrap.bind("internal", self.internal.address())?;
        if self.settings.contender == Contender::Ebb {
            bootstrap.set_admin(&self.file("admin.sock"));
            return Ok(bootstrap);
        }
        for listener in ["ingress", "internal"] {
            let filters = bootstrap.http_filters_mut(listener)?;
            filters.retain(|filter| {
                filter.get("name").and_then(Value::as_str) == Some("envoy.filters.http.router")
            });
        }
        let document = bootstrap.value_mut();
        let clusters = document.pointer_mut("/static_resources/clusters");
        let clusters = clusters
            .and_then(Value::as_array_mut)
            .context("the bootstrap has no clusters")?;
        clusters.retain(|cluster| cluster.get("name").and_then(Value::as_str) == Some("upstream"));
        let admin = self.health.address();
        let admin = json!({ "address": admin.ip().to_string(), "port_value": admin.port() });
        let place = document
            .pointer_mut("/admin/address")
            .context("the bootstrap has no admin")?;
        *place = json!({ "socket_address": admin });
        Ok(bootstrap)
    }

    pub(super) fn envoy_arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = ["-c".into(), self.file("envoy.json").into()].into();
        let workers = WORKERS.to_string();
        let flags = [
            "--concurrency",
            &workers,
            "--disable-hot-restart",
            "--log-level",
            "error",
        ];
        arguments.extend(flags.map(OsString::from));
        arguments.extend(self.settings.contender.envoy_flags().iter().map(OsString::from));
        arguments
    }

    pub(super) fn app_arguments(&self) -> Vec<OsString> {
        [self.app.address().to_string().into(), self.last_file().into()].into()
    }

    /// `ebb.toml`, in JSON's notation of strings, which TOML has as well.
    pub(super) fn configuration(&self) -> Result<String> {
        // Were Ebb killed, nothing would be left of the benchmark.
        let command = |program: PathBuf, arguments: Vec<OsString>| {
            let words = ["setpriv", "--pdeathsig", "KILL"].map(OsString::from).into_iter();
            let words = words.chain([program.into()]).chain(arguments);
            let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
            serde_json::to_string(&words)
        };
        let router = command(bins::envoy(EnvoyVersion::V1_40)?, self.envoy_arguments())?;
        let app = command(app_program()?, self.app_arguments())?;
        let [socket, state, admin] =
            ["ebb.sock", "state", "admin.sock"].map(|name| self.file(name).display().to_string());
        let (health, endpoint) = (self.health.address(), self.app.address());
        let announce = self.settings.announce.as_millis();
        Ok(format!(
            r#"[control_plane]
listen = "unix:{socket}"
state = "{state}"
health = "{health}"

[drain]
announce = "{announce}ms"
quiet_period = "200ms"
timeout = "15s"

[shutdown]
grace_period = "30s"

[[process]]
name = "{NODE}"
command = {router}
depends_on = ["app"]
ready = {{ http = "unix:{admin}:/ready", timeout = "60s" }}
stop = {{ signal = "SIGTERM", timeout = "5s" }}
drain = {{ listeners = ["ingress"], admin = "unix:{admin}" }}

[[process]]
name = "app"
command = {app}
ready = {{ tcp = "{endpoint}" }}
gate = ["{endpoint}"]
"#
        ))
    }
}

/// The app's program, which is built beside this one; a test's own program lies in a folder below.
pub(super) fn app_program() -> Result<PathBuf> {
    let us = std::env::current_exe().context("where this program lies is unknown")?;
    let beside = us
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("bench-app"));
    match beside.into_iter().find(|program| program.is_file()) {
        Some(program) => Ok(program),
        None => bail!(
            "bench-app is not there beside {}: build it with `cargo build -p ebb-bench --bins`",
            us.display()
        ),
    }
}
