//! An Envoy with upstreams, whose VMs talk to the test.

use std::net::SocketAddr;

use anyhow::Result;
use ebb_e2e::{
    bins::EnvoyVersion,
    bootstrap::Bootstrap,
    client::http1,
    envoy::{Envoy, EnvoyOptions},
    ports::Port,
    upstream::Upstream,
    vms::Vms,
    world::folder,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Who counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Nobody,
    Listeners,
    Clusters,
    Both,
}

/// An Envoy with two upstreams: a request with the header `to: b` goes to the second, `to: both` to a port that refuses
/// connections and then to the second.
pub(crate) struct World {
    pub(crate) envoy: Envoy,
    pub(crate) vms: Vms,
    pub(crate) a: Upstream,
    pub(crate) b: Upstream,
    pub(crate) dead: Port,
    _folder: TempDir,
}

impl World {
    pub(crate) async fn start(version: EnvoyVersion, mode: Mode) -> Result<Self> {
        let folder = folder()?;
        let socket = folder.path().join("ebb.sock");
        let mut vms = Vms::listen(&socket)?;
        let (a, b, dead) = (
            Upstream::start().await?,
            Upstream::start().await?,
            Port::reserve()?,
        );
        let options = EnvoyOptions {
            version,
            ..EnvoyOptions::default()
        };
        let mut bootstrap = options.bootstrap(&socket, a.address())?;
        bootstrap.configure_plugins("drain_report_interval", &json!("1h"))?;
        count(&mut bootstrap, mode, b.address(), dead.address())?;
        let envoy = Envoy::start_as(&options, bootstrap, folder.path()).await?;
        vms.attach(options.concurrency).await?;
        Ok(Self {
            envoy,
            vms,
            a,
            b,
            dead,
            _folder: folder,
        })
    }

    pub(crate) async fn connect(&self) -> Result<http1::Connection> {
        Ok(http1::Connection::open(self.envoy.address("ingress")?).await?)
    }

    /// Sends a request, whose response is read later.
    pub(crate) async fn send(&self, path: &str, to: &str) -> Result<http1::Connection> {
        let mut connection = self.connect().await?;
        connection
            .send(&format!("GET {path} HTTP/1.1\r\nhost: a\r\nto: {to}\r\n\r\n"))
            .await?;
        Ok(connection)
    }

    /// What is reported of an endpoint: in flight, and ever begun.
    pub(crate) async fn of(&mut self, address: SocketAddr) -> Result<Option<(u64, u64)>> {
        self.vms.upstream(&address.to_string()).await
    }

    pub(crate) async fn unassigned(&mut self) -> Result<u64> {
        Ok(self.vms.upstream("").await?.unwrap_or_default().0)
    }
}

/// Adds what `mode` says, and clusters and routes.
pub(crate) fn count(bootstrap: &mut Bootstrap, mode: Mode, b: SocketAddr, dead: SocketAddr) -> Result<()> {
    if matches!(mode, Mode::Listeners | Mode::Both) {
        bootstrap.configure_plugins("upstreams", &json!(true))?;
    }
    add_clusters(bootstrap, b, dead)?;
    if matches!(mode, Mode::Clusters | Mode::Both) {
        add_filters(bootstrap);
    }
    Ok(())
}

/// Clusters `b` and `both`, and routes to them by the header `to`. All are tried again, also on 5xx.
fn add_clusters(bootstrap: &mut Bootstrap, b: SocketAddr, dead: SocketAddr) -> Result<()> {
    let endpoint = |address: SocketAddr, priority: u32| {
        let address = json!({ "address": address.ip().to_string(), "port_value": address.port() });
        json!({
            "priority": priority,
            "lb_endpoints": [{ "endpoint": { "address": { "socket_address": address } } }],
        })
    };
    let cluster = |name: &str, endpoints: Vec<Value>| {
        json!({
            "name": name,
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": { "cluster_name": name, "endpoints": endpoints },
        })
    };
    let clusters = [
        cluster("b", vec![endpoint(b, 0)]),
        cluster("both", vec![endpoint(dead, 0), endpoint(b, 1)]),
    ];
    let place = &mut bootstrap.value_mut()["static_resources"]["clusters"];
    if let Some(list) = place.as_array_mut() {
        list.extend(clusters);
    }
    // Of the two priorities, each try takes another.
    let retry = json!({
        "retry_on": "5xx,connect-failure",
        "num_retries": 3,
        "retry_priority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                "update_frequency": 1,
            },
        },
    });
    let by_header = |to: &str, route: Value| {
        let header = json!({ "name": "to", "string_match": { "exact": to } });
        let mut route = route;
        route["match"] = json!({ "prefix": "/", "headers": [header] });
        route
    };
    for name in ["b", "both"] {
        let action = json!({ "cluster": name, "retry_policy": retry });
        bootstrap.insert_route("ingress", by_header(name, json!({ "route": action })))?;
    }
    let hedge = json!({
        "cluster": "b",
        "retry_policy": { "retry_on": "5xx", "num_retries": 1, "per_try_timeout": "0.1s" },
        "hedge_policy": { "hedge_on_per_try_timeout": true },
    });
    bootstrap.insert_route("ingress", by_header("hedge", json!({ "route": hedge })))?;
    let own = json!({ "status": 200, "body": { "inline_string": "own\n" } });
    bootstrap.insert_route("ingress", by_header("own", json!({ "direct_response": own })))
}

/// The plugin in the filter chain of every cluster but the control plane's.
fn add_filters(bootstrap: &mut Bootstrap) {
    let value = bootstrap.value_mut();
    let mut plugin = value["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
        ["typed_config"]["http_filters"][1]
        .clone();
    let config = &mut plugin["typed_config"]["config"];
    for key in ["name", "root_id"] {
        config[key] = json!("ebb_upstream");
    }
    config["configuration"]["value"] = json!(
        r#"{ "role": "upstream", "control_plane_cluster": "ebb_control_plane", "reconnect_max": "500ms",
             "drain_report_interval": "1h" }"#
    );
    let codec = json!({
        "name": "envoy.filters.http.upstream_codec",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
        },
    });
    let options = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http_protocol_options": {} },
            "http_filters": [plugin, codec],
        },
    });
    let clusters = value["static_resources"]["clusters"].as_array_mut();
    for cluster in clusters.into_iter().flatten() {
        if cluster["name"] != "ebb_control_plane" {
            cluster["typed_extension_protocol_options"] = options.clone();
        }
    }
}
