//! The configuration of a gateway: `ebb.toml`, and Envoy's bootstrap.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::Gateway;
use crate::{bins, bootstrap::Bootstrap, ports::Port};

impl Gateway {
    pub(super) fn configuration(&self) -> Result<String> {
        let file = |name: &str| self.folder.join(name).display().to_string();
        let link = |name: &str, listen: &Port, more: Vec<String>| {
            let mut command = vec![self.options.link.display().to_string()];
            let listen = listen.address().to_string();
            command.extend(
                ["--name", name, "--listen", &listen, "--journal", &file("journal")].map(str::to_owned),
            );
            command.extend(more);
            format!("{command:?}")
        };
        let admin = match &self.options.admin {
            Some(socket) => format!(", admin = {:?}", format!("unix:{}", socket.display())),
            None => String::new(),
        };
        let (policy, executor) = (self.policy.address(), self.executor.address());
        Ok(format!(
            r#"
[control_plane]
listen = {socket:?}
state = {state:?}
health = "{health}"
{policy_keys}
[[process]]
name = "router"
command = [{envoy:?}, "-c", {bootstrap:?}, "--concurrency", "2", "--disable-hot-restart", "--log-level", "error"]
depends_on = {needs}
ready = {{ http = {ready:?}, timeout = "60s" }}
drain = {{ listeners = ["ingress"]{admin} }}
[[process]]
name = "policy-engine"
command = {policy_command}
depends_on = ["executor"]
ready = {{ tcp = "{policy}" }}
gate = ["{policy}"]
[[process]]
name = "executor"
command = {executor_command}
ready = {{ tcp = "{executor}" }}
"#,
            needs = if self.options.chained {
                "[\"policy-engine\"]"
            } else {
                "[]"
            },
            socket = format!("unix:{}", file("ebb.sock")),
            state = file("state"),
            health = self.health(),
            policy_keys = self.options.policy,
            envoy = bins::envoy(self.options.version)?,
            bootstrap = file("envoy.json"),
            ready = format!("unix:{}:/ready", file("admin.sock")),
            policy_command = link(
                "policy-engine",
                &self.policy,
                vec![
                    "--next".to_owned(),
                    executor.to_string(),
                    "--before".to_owned(),
                    file("admin.sock")
                ],
            ),
            executor_command = link(
                "executor",
                &self.executor,
                vec!["--takes".to_owned(), self.options.executor_takes.to_string()],
            ),
        ))
    }

    /// The shipped bootstrap, with the policy engine asked before the router filter of `ingress`.
    pub(super) fn write_envoy(&self, upstream: SocketAddr) -> Result<()> {
        let mut bootstrap = Bootstrap::shipped()?;
        bootstrap.set_node_id("gateway");
        bootstrap.bind_free_ports()?;
        bootstrap.set_wasm(&bins::wasm()?);
        bootstrap.set_control_plane(&self.socket())?;
        bootstrap.set_upstream(upstream)?;
        bootstrap.set_admin(&self.folder.join("admin.sock"));
        let filters = bootstrap
            .connection_manager_mut("ingress")?
            .get_mut("http_filters");
        let filters = filters
            .and_then(Value::as_array_mut)
            .context("ingress has no filters")?;
        let router = filters.len().saturating_sub(1);
        filters.insert(router, ext_authz(self.policy.address()));
        let document = bootstrap.value_mut();
        let clusters = document
            .pointer_mut("/static_resources/clusters")
            .and_then(Value::as_array_mut);
        clusters
            .context("no clusters")?
            .push(cluster(self.policy.address()));
        let port = document.pointer_mut("/static_resources/listeners/0/address/socket_address/port_value");
        *port.context("no listener")? = json!(self.address().port());
        bootstrap.write(&self.folder.join("envoy.json"))
    }
}

fn ext_authz(policy: SocketAddr) -> Value {
    json!({
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "http_service": {
                "server_uri": { "uri": format!("http://{policy}"), "cluster": "policy", "timeout": "10s" }
            },
            "status_on_error": { "code": "ServiceUnavailable" }
        }
    })
}

fn cluster(policy: SocketAddr) -> Value {
    let address =
        json!({ "socket_address": { "address": policy.ip().to_string(), "port_value": policy.port() } });
    json!({
        "name": "policy",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "policy",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }]
        }
    })
}
