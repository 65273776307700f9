//! Routes under which requests go wrong in every way: put into the shipped configuration.

use anyhow::{Context as _, Result};
use ebb_e2e::bootstrap::Bootstrap;
use serde_json::{Value, json};

/// Replaces the routes of both listeners. What has no route here is answered with 404.
pub(crate) fn install(bootstrap: &mut Bootstrap) -> Result<()> {
    for listener in ["ingress", "internal"] {
        let routes = bootstrap
            .connection_manager_mut(listener)?
            .pointer_mut("/route_config/virtual_hosts/0/routes")
            .context("the shipped configuration has no inline routes")?;
        let cluster = routes
            .pointer("/0/route/cluster")
            .and_then(Value::as_str)
            .context("the first shipped route names no cluster")?;
        *routes = table(cluster);
        // Envoy gives a client this time to close first, by default a second; many cases wait for it.
        let manager = bootstrap.connection_manager_mut(listener)?;
        insert(manager, "delayed_close_timeout", json!("0.02s"))?;
    }
    let manager = bootstrap.connection_manager_mut("internal")?;
    let accept = json!({ "accept_http_10": true, "default_host_for_http_10": "ebb.test" });
    insert(manager, "http_protocol_options", accept)?;
    allow_retries(bootstrap)
}

fn insert(manager: &mut Value, key: &str, value: Value) -> Result<()> {
    let manager = manager
        .as_object_mut()
        .context("the connection manager is no object")?;
    manager.insert(key.to_owned(), value);
    Ok(())
}

fn table(cluster: &str) -> Value {
    let plain = ["/ok", "/delay", "/reset", "/slow"].map(|prefix| {
        json!({
            "match": { "prefix": prefix },
            "route": { "cluster": cluster, "timeout": "30s" },
        })
    });
    // Held for as long as a sample takes.
    let held = ["/hold", "/upload", "/ws"].map(|prefix| {
        json!({
            "match": { "prefix": prefix },
            "route": { "cluster": cluster, "timeout": "0s" },
        })
    });
    let special = [
        json!({
            "match": { "prefix": "/timeout" },
            "route": { "cluster": cluster, "prefix_rewrite": "/delay/60000", "timeout": "0.05s" },
        }),
        json!({
            "match": { "prefix": "/retry" },
            "route": {
                "cluster": cluster,
                "retry_policy": {
                    "retry_on": "5xx",
                    "num_retries": 3,
                    "retry_back_off": { "base_interval": "0.002s", "max_interval": "0.01s" },
                },
            },
        }),
        json!({
            "match": { "prefix": "/redirect" },
            "route": { "cluster": cluster, "timeout": "0s", "internal_redirect_policy": {} },
        }),
    ];
    Value::from_iter(plain.into_iter().chain(held).chain(special))
}

/// By default Envoy makes at most three retries at a time, and fails the fourth.
fn allow_retries(bootstrap: &mut Bootstrap) -> Result<()> {
    let clusters = bootstrap
        .value_mut()
        .pointer_mut("/static_resources/clusters")
        .and_then(Value::as_array_mut)
        .context("the shipped configuration has no clusters")?;
    for cluster in clusters.iter_mut().filter_map(Value::as_object_mut) {
        let thresholds = json!({ "thresholds": [{ "max_retries": 1000 }] });
        cluster.insert("circuit_breakers".to_owned(), thresholds);
    }
    Ok(())
}
