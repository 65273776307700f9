//! The configuration of an Envoy: the shipped one, with three more listeners and ext_authz.

use std::path::Path;

use anyhow::{Context as _, Result};
use ebb_e2e::{bins, bootstrap::Bootstrap, client::http3::Identity, envoy::EnvoyOptions};
use serde_json::{Value, json};

use crate::{
    schedule::{EnvoyPlan, Listener, Order},
    witness::Witness,
};

/// The two filters of Ebb.
const OURS: [&str; 2] = ["ebb_closer", "ebb"];

pub(super) fn of(
    plan: &EnvoyPlan,
    trap: bool,
    control_plane: &Path,
    witness: &Witness,
    identity: &Identity,
) -> Result<Bootstrap> {
    let options = EnvoyOptions {
        node_id: plan.node.to_owned(),
        wasm: if trap { Some(bins::wasm_trap()?) } else { None },
        ..EnvoyOptions::default()
    };
    let mut bootstrap = options.bootstrap(control_plane, witness.a)?;
    let reconnect_max = plan.reconnect_max_ms.unwrap_or(5_000);
    bootstrap.configure_plugins("reconnect_max", &json!(format!("{reconnect_max}ms")))?;
    bootstrap.configure_plugins("upstreams", &json!(true))?;
    if trap {
        // So that a VM that has trapped is soon known to be silent.
        bootstrap.configure_plugins("report_interval", &json!("500ms"))?;
    }
    bootstrap.add_cluster("upstream_b", witness.b)?;
    bootstrap.add_cluster("raw", witness.raw)?;
    bootstrap.add_cluster("authz", witness.authz)?;
    for listener in [Listener::Ingress, Listener::Internal] {
        let to_b = json!({ "match": { "prefix": "/b/" }, "route": { "cluster": "upstream_b" } });
        bootstrap.insert_route(listener.name(), to_b)?;
    }
    for listener in [Listener::Secure, Listener::Plain] {
        copy(&mut bootstrap, Listener::Internal, listener)?;
    }
    let plain = bootstrap.http_filters_mut(Listener::Plain.name())?;
    plain.retain(|filter| !is_ours(filter));
    listeners(&mut bootstrap)?
        .iter_mut()
        .find(|listener| listener.get("name") == Some(&json!(Listener::Secure.name())))
        .and_then(|listener| listener.pointer_mut("/filter_chains/0"))
        .and_then(Value::as_object_mut)
        .context("no filter chain")?
        .insert("transport_socket".to_owned(), tls(identity));
    listeners(&mut bootstrap)?.push(raw());
    let ingress = bootstrap.http_filters_mut(Listener::Ingress.name())?;
    let at = match plan.order {
        Order::First => ingress.iter().rposition(is_ours).map_or(0, |last| last + 1),
        Order::Last => ingress.iter().position(is_ours).unwrap_or(0),
    };
    ingress.insert(at, ext_authz());
    Ok(bootstrap)
}

fn is_ours(filter: &Value) -> bool {
    let name = filter.get("name").and_then(Value::as_str);
    name.is_some_and(|name| OURS.contains(&name))
}

fn listeners(bootstrap: &mut Bootstrap) -> Result<&mut Vec<Value>> {
    let value = bootstrap.value_mut().pointer_mut("/static_resources/listeners");
    value.and_then(Value::as_array_mut).context("no listeners")
}

/// A listener as another is: its name stands in its own, its statistics, its plugin and that plugin's configuration.
fn copy(bootstrap: &mut Bootstrap, from: Listener, to: Listener) -> Result<()> {
    let listeners = listeners(bootstrap)?;
    let named = |listener: &&Value| listener.get("name") == Some(&json!(from.name()));
    let text = listeners
        .iter()
        .find(named)
        .context("no such listener")?
        .to_string();
    listeners.push(serde_json::from_str(&text.replace(from.name(), to.name()))?);
    Ok(())
}

fn tls(identity: &Identity) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificates": [{
                    "certificate_chain": { "inline_string": identity.certificate },
                    "private_key": { "inline_string": identity.key },
                }],
            },
        },
    })
}

fn raw() -> Value {
    let name = Listener::Raw.name();
    json!({
        "name": name,
        "stat_prefix": name,
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } },
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": name,
                "cluster": "raw",
            },
        }] }],
    })
}

fn ext_authz() -> Value {
    json!({
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "http_service": {
                "server_uri": { "uri": "http://authz", "cluster": "authz", "timeout": "10s" },
            },
        },
    })
}
