use serde_json::json;

use super::*;

fn http(prefix: &str) -> Value {
    json!({ "name": "http", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": prefix,
    } })
}

fn tcp(prefix: &str, cluster: &str) -> Value {
    json!({ "name": "tcp", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": prefix, "cluster": cluster,
    } })
}

fn listener(name: &str, port: u16, chains: &[&[Value]]) -> Value {
    let chains: Vec<Value> = chains
        .iter()
        .map(|filters| json!({ "filters": filters }))
        .collect();
    json!({ "name": name, "filter_chains": chains,
        "address": { "socket_address": { "address": "0.0.0.0", "port_value": port } } })
}

fn dump(listeners: &[Value]) -> Value {
    let fixed: Vec<Value> = listeners.iter().map(|one| json!({ "listener": one })).collect();
    json!({ "@type": LISTENERS, "static_listeners": fixed })
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_listener_is_known_by_its_name_and_by_the_prefixes_of_its_filters() {
    let both = listener("mixed", 80, &[&[http("a")], &[tcp("raw", "db")]]);
    let layout = Layout::of(&[dump(&[both, listener("web", 81, &[&[http("a")]])])]);
    let named = |name| {
        layout
            .named(name)
            .map(|listener| &*listener.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(named("a"), ["mixed", "web"]);
    assert_eq!(named("raw"), ["mixed"]);
    assert_eq!(named("web"), ["web"]);
    assert!(named("other").is_empty());
    let sessions: Vec<bool> = layout
        .listeners
        .iter()
        .map(|listener| listener.has_sessions)
        .collect();
    assert_eq!(sessions, [true, false]);
    assert_eq!(layout.standing, set(&["db"]));
}

#[test]
fn listeners_that_came_by_xds_and_those_that_drain_are_there() {
    let config = json!({ "@type": LISTENERS, "dynamic_listeners": [
        { "name": "a", "active_state": { "listener": listener("a", 1, &[&[tcp("ta", "x")]]) },
          "draining_state": { "listener": listener("a", 2, &[&[tcp("tb", "y")]]) } },
        { "name": "b", "warming_state": { "listener": listener("b", 3, &[]) } },
    ] });
    let layout = Layout::of(&[config]);
    let seen: Vec<&str> = layout
        .listeners
        .iter()
        .map(|listener| &*listener.stat_name)
        .collect();
    assert_eq!(seen, ["0.0.0.0_1", "0.0.0.0_2"]);
}

#[test]
fn statistics_go_by_the_stat_prefix_or_by_the_address() {
    let of = |address: Value, prefix: &str| {
        let config = json!({ "name": "x", "stat_prefix": prefix, "address": address });
        Listener::new(&config).stat_name
    };
    let socket = |host: &str| json!({ "socket_address": { "address": host, "port_value": 80 } });
    assert_eq!(of(socket("::"), ""), "[__]_80");
    assert_eq!(of(socket("10.0.0.1"), ""), "10.0.0.1_80");
    assert_eq!(of(socket("10.0.0.1"), "a:b"), "a_b");
    assert_eq!(
        of(json!({ "pipe": { "path": "/run/a.sock" } }), ""),
        "/run/a.sock"
    );
}

#[test]
fn a_default_chain_and_a_struct_are_looked_at_as_well() {
    let wrapped = json!({ "typed_config": {
        "@type": "type.googleapis.com/xds.type.v3.TypedStruct",
        "type_url": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "value": { "stat_prefix": "raw",
            "weighted_clusters": { "clusters": [{ "name": "one" }, { "name": "two" }] } },
    } });
    let mut config = listener("l", 80, &[&[http("a")]]);
    config["default_filter_chain"] = json!({ "filters": [wrapped] });
    let layout = Layout::of(&[dump(&[config])]);
    let found = layout.listeners.first().expect("a listener");
    assert!(found.has_sessions && found.tcp == set(&["raw"]), "{found:?}");
    assert_eq!(layout.standing, set(&["one", "two"]));
}

#[test]
fn clusters_of_grpc_services_and_of_the_control_plane_are_found_wherever_they_are_named() {
    let logger = json!({ "common_config": { "grpc_service": { "envoy_grpc": { "cluster_name": "logs" } } } });
    let plugin = json!({ "configuration": { "@type": "type.googleapis.com/google.protobuf.StringValue",
        "value": "{\"listener\":\"ingress\",\"control_plane_cluster\":\"mine\"}" } });
    let cluster = json!({ "name": "logs", "alt_stat_name": "logs:v1" });
    let layout = Layout::of(&[
        json!({ "any": [{ "deep": logger }, plugin] }),
        json!({ "clusters": [cluster] }),
    ]);
    assert_eq!(layout.standing, set(&["logs_v1"]), "as the statistics name it");
    assert_eq!(layout.control_planes, set(&["mine"]));
}

#[test]
fn prefixes_are_as_the_statistics_have_them() {
    let listeners = [
        listener("web", 80, &[&[http("web:80")]]),
        listener("db", 5432, &[&[tcp("db:5432", "db")]]),
    ];
    let layout = Layout::of(&[dump(&listeners)]);
    for name in ["web", "web:80", "web_80"] {
        assert_eq!(layout.named(name).count(), 1, "{name}");
    }
    assert!(layout.names_of_sessions().contains("db_5432"));
}
