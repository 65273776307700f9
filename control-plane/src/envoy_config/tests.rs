use super::*;
use serde_json::{Value, json};

fn parsed(listener: &str, control_plane: &str, wasm: &str) -> Value {
    rendered(listener, control_plane, wasm, false)
}

fn fragment<'a>(listener: &'a str, control_plane: &'a Address, wasm: &'a str) -> Fragment<'a> {
    Fragment {
        listener,
        control_plane,
        wasm,
        upstreams: false,
        envoy: EnvoyVersion::NEWEST,
        failure_policy: false,
    }
}

/// As an Envoy of this version takes it.
fn for_envoy(version: &str, failure_policy: bool) -> Value {
    let control_plane: Address = "unix:/run/ebb.sock".parse().unwrap();
    let text = Fragment {
        envoy: version.parse().unwrap(),
        failure_policy,
        ..fragment("a", &control_plane, "/f.wasm")
    }
    .render();
    serde_yaml_ng::from_str(&text).unwrap()
}

#[test]
fn each_version_gets_the_capabilities_where_it_wants_them() {
    let key = "capability_restriction_config";
    for version in ["1.37", "1.38", "1.39"] {
        let config = for_envoy(version, false);
        assert!(plugin(&config)[key].is_object() && plugin(&config)["vm_config"].get(key).is_none());
    }
    let (newest, oldest) = (for_envoy("1.40", false), for_envoy("1.37", false));
    assert!(plugin(&newest).get(key).is_none());
    assert_eq!(plugin(&newest)["vm_config"][key], plugin(&oldest)[key]);
}

#[test]
fn the_failure_policy_is_the_users_choice() {
    for version in ["1.37", "1.40"] {
        let (kept, cut) = (for_envoy(version, false), for_envoy(version, true));
        assert_eq!(plugin(&kept)["fail_open"], true);
        assert!(
            plugin(&kept).get("failure_policy").is_none(),
            "Envoy refuses both"
        );
        assert_eq!(plugin(&cut)["failure_policy"], "FAIL_OPEN");
        assert!(plugin(&cut).get("fail_open").is_none(), "Envoy refuses both");
    }
}

fn rendered(listener: &str, control_plane: &str, wasm: &str, upstreams: bool) -> Value {
    let control_plane: Address = control_plane.parse().unwrap();
    let text = Fragment {
        upstreams,
        ..fragment(listener, &control_plane, wasm)
    }
    .render();
    serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn plugin(fragment: &Value) -> &Value {
    fragment.pointer("/http_filters/1/typed_config/config").unwrap()
}

fn configuration(fragment: &Value) -> Value {
    let text = plugin(fragment)["configuration"]["value"].as_str().unwrap();
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn it_has_two_keys_and_the_closer_comes_first() {
    let fragment = parsed("ingress", "unix:/run/ebb/ebb.sock", "/etc/envoy/ebb_filter.wasm");
    let keys: Vec<&String> = fragment.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["clusters", "http_filters"]);
    let names: Vec<&Value> = fragment["http_filters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|filter| &filter["name"])
        .collect();
    assert_eq!(names, ["ebb_closer", "ebb"]);
    assert_eq!(fragment["clusters"].as_array().unwrap().len(), 1);
}

#[test]
fn upstreams_are_a_key_of_the_listener_and_a_filter_for_clusters() {
    let (with, without) = (
        rendered("a", "unix:/run/ebb.sock", "/f.wasm", true),
        parsed("a", "unix:/run/ebb.sock", "/f.wasm"),
    );
    let keys: Vec<&String> = with.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["clusters", "http_filters", "upstream_http_filters"]);
    assert_eq!(with["clusters"], without["clusters"]);
    assert_eq!(configuration(&with)["upstreams"], true);
    assert!(configuration(&without).get("upstreams").is_none());
    let filters = with["upstream_http_filters"].as_array().unwrap();
    let names: Vec<&Value> = filters.iter().map(|filter| &filter["name"]).collect();
    assert_eq!(names, ["ebb", "envoy.filters.http.upstream_codec"]);
    let upstream = &filters[0]["typed_config"]["config"];
    for key in ["vm_config", "fail_open"] {
        assert_eq!(upstream[key], plugin(&with)[key], "{key}: one VM for both");
    }
    assert_ne!(upstream["name"], plugin(&with)["name"]);
    let text = upstream["configuration"]["value"].as_str().unwrap();
    let role: Value = serde_json::from_str(text).unwrap();
    let expected = json!({
        "role": "upstream",
        "control_plane_cluster": CONTROL_PLANE_CLUSTER,
        "reconnect_max": "500ms",
    });
    assert_eq!(role, expected);
}

#[test]
fn no_listener_has_the_plugin_of_the_clusters() {
    let with = rendered("upstream", "cp:1", "/f.wasm", true);
    let filters = with["upstream_http_filters"].as_array().unwrap();
    assert_ne!(
        filters[0]["typed_config"]["config"]["name"],
        plugin(&with)["name"]
    );
}

#[test]
fn every_listener_has_a_plugin_of_its_own_in_one_vm() {
    let (a, b) = (parsed("a", "cp:1", "/f.wasm"), parsed("b", "cp:1", "/f.wasm"));
    for key in ["name", "root_id"] {
        assert_ne!(plugin(&a)[key], plugin(&b)[key]);
    }
    assert_eq!(plugin(&a)["vm_config"], plugin(&b)["vm_config"]);
    assert_eq!(plugin(&a)["fail_open"], true);
    assert_eq!(configuration(&a)["listener"], "a");
}

#[test]
fn a_unix_socket() {
    let fragment = parsed("a", "unix:/run/ebb.sock", "/f.wasm");
    let cluster = &fragment["clusters"][0];
    assert_eq!(cluster["type"], "STATIC");
    assert_eq!(
        address(&fragment),
        &json!({ "pipe": { "path": "/run/ebb.sock" } })
    );
    assert_eq!(http2(&fragment), &json!({}));
    assert_eq!(configuration(&fragment)["reconnect_max"], "500ms");
}

#[test]
fn tcp_by_name_and_by_address() {
    for (control_plane, discovery, host) in [
        ("ebb.example.com:9001", "STRICT_DNS", "ebb.example.com"),
        ("10.0.0.1:9001", "STATIC", "10.0.0.1"),
        ("[::1]:9001", "STATIC", "::1"),
    ] {
        let fragment = parsed("a", control_plane, "/f.wasm");
        assert_eq!(fragment["clusters"][0]["type"], discovery);
        let socket = json!({ "socket_address": { "address": host, "port_value": 9001 } });
        assert_eq!(address(&fragment), &socket);
        assert!(http2(&fragment)["connection_keepalive"].is_object());
        assert_eq!(configuration(&fragment)["reconnect_max"], "800ms");
    }
}

fn address(fragment: &Value) -> &Value {
    let path = "/clusters/0/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address";
    fragment.pointer(path).unwrap()
}

fn http2(fragment: &Value) -> &Value {
    let options = &fragment["clusters"][0]["typed_extension_protocol_options"];
    let http = &options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    http.pointer("/explicit_http_config/http2_protocol_options")
        .unwrap()
}

#[test]
fn capabilities_are_sorted_and_all_there() {
    assert!(CAPABILITIES.is_sorted());
    let fragment = parsed("a", "cp:1", "/f.wasm");
    let restriction = &plugin(&fragment)["vm_config"]["capability_restriction_config"];
    let allowed: Vec<&String> = restriction["allowed_capabilities"]
        .as_object()
        .unwrap()
        .keys()
        .collect();
    assert_eq!(allowed, CAPABILITIES);
}

#[test]
fn the_shipped_bootstrap_has_the_same() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../envoy-config/envoy.yaml");
    let shipped: Value = serde_yaml_ng::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for (index, listener) in ["ingress", "internal"].into_iter().enumerate() {
        // It is for every supported Envoy.
        let control_plane: Address = "unix:/run/ebb/ebb.sock".parse().unwrap();
        let text = Fragment {
            envoy: EnvoyVersion::OLDEST,
            ..fragment(listener, &control_plane, "/etc/envoy/ebb_filter.wasm")
        }
        .render();
        let fragment: Value = serde_yaml_ng::from_str(&text).unwrap();
        let shipped_listener = &shipped["static_resources"]["listeners"][index];
        assert_eq!(shipped_listener["name"], listener);
        let manager = &shipped_listener["filter_chains"][0]["filters"][0]["typed_config"];
        let filters = manager["http_filters"].as_array().unwrap();
        assert_eq!(
            filters[..2],
            fragment["http_filters"].as_array().unwrap()[..],
            "listener {listener}"
        );
        let clusters = shipped["static_resources"]["clusters"].as_array().unwrap();
        assert!(
            clusters.contains(&fragment["clusters"][0]),
            "the cluster of the control plane differs"
        );
    }
}

proptest::proptest! {
    #[test]
    fn nothing_that_a_user_types_breaks_out(listener in ".*", wasm in "\\PC*", word in "[a-zA-Z0-9._/-]{0,6}") {
        for text in [&listener, &wasm, &word] {
            let fragment = parsed(text, "cp:1", text);
            assert_eq!(configuration(&fragment)["listener"], **text);
            assert_eq!(plugin(&fragment)["vm_config"]["code"]["local"]["filename"], **text);
            assert_eq!(plugin(&fragment)["name"], format!("ebb_{text}"));
        }
    }
}

#[test]
fn words_that_yaml_takes_for_something_else_stay_text() {
    for word in [
        "yes", "No", "null", "true", "~", "1", "0x10", "1.5", "1e3", ".inf", "-", "a: b", "#x", "NaN", "",
    ] {
        assert_eq!(configuration(&parsed(word, "cp:1", "/f"))["listener"], word);
    }
}
