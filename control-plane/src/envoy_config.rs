//! The Envoy configuration that puts the filter into a listener: options in, YAML text out.
//!
//! `envoy-config/envoy.yaml` holds the same text, as every supported Envoy takes it, for its two listeners; a test compares
//! them.

use std::fmt::Write as _;
use std::net::IpAddr;

use std::{fmt, str::FromStr};

use crate::address::Address;

/// A version of Envoy, as far as its configuration differs: the 40 of 1.40.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EnvoyVersion(u32);

impl EnvoyVersion {
    /// The first that the closer works with: before it Lua cannot close a connection.
    pub const OLDEST: Self = Self(37);
    /// The last that the tests run with.
    pub const NEWEST: Self = Self(40);
    /// The first that takes the capabilities of a plugin with its VM, and calls their old place deprecated.
    const CAPABILITIES_OF_VM: Self = Self(40);
}

impl fmt::Display for EnvoyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}", self.0)
    }
}

impl FromStr for EnvoyVersion {
    type Err = String;

    /// Reads `1.40`, or `1.40.0` as `envoy --version` says it.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| {
            let digits = part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse::<u32>().ok().filter(|_| digits)
        };
        let mut parts = text.split('.').map(number);
        let version = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Some(1)), Some(Some(minor)), None | Some(Some(_)), None) => Self(minor),
            _ => return Err(format!("`{text}` is no version of Envoy: write for example 1.40")),
        };
        let (oldest, newest) = (Self::OLDEST, Self::NEWEST);
        if version < oldest {
            Err(format!(
                "Envoy {version} cannot close a connection from Lua: use {oldest} or later"
            ))
        } else if version > newest {
            Err(format!(
                "what Envoy {version} wants is not known here, {newest} is the newest: use an ebb that knows it, or try {newest}"
            ))
        } else {
            Ok(version)
        }
    }
}

/// Name of the cluster through which filters reach the control plane.
pub const CONTROL_PLANE_CLUSTER: &str = "ebb_control_plane";

/// What the filter may use of Envoy: exactly the callbacks and hostcalls of the packed module. Envoy enters the VM for
/// nothing else, whichever module is loaded.
pub const CAPABILITIES: [&str; 27] = [
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_write",
    "proc_exit",
    "proxy_get_buffer_bytes",
    "proxy_get_header_map_value",
    "proxy_get_property",
    "proxy_get_shared_data",
    "proxy_grpc_cancel",
    "proxy_grpc_close",
    "proxy_grpc_send",
    "proxy_grpc_stream",
    "proxy_log",
    "proxy_on_configure",
    "proxy_on_context_create",
    "proxy_on_delete",
    "proxy_on_grpc_close",
    "proxy_on_grpc_receive",
    "proxy_on_request_headers",
    "proxy_on_response_headers",
    "proxy_on_tick",
    "proxy_replace_header_map_value",
    "proxy_set_effective_context",
    "proxy_set_shared_data",
    "proxy_set_tick_period_milliseconds",
    "random_get",
];

/// The closer: sees the filter's mark, removes it and has Envoy close the connection. Its matcher lets Envoy enter Lua
/// for marked responses only.
const CLOSER: &str = r#"# These two stand first, in this order, before ext_authz and all others: a request that an earlier filter holds is not
# counted, and what an earlier filter answers (a 403, a CORS preflight, a 429) does not tell its client to close.
#
# Closes the connection of a response that the filter has marked. It stands before the filter because responses pass the
# filters from the last to the first; swapped, the mark reaches the client. Lua is entered for marked responses only.
- name: ebb_closer
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher
    extension_config:
      name: envoy.filters.http.lua
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
        default_source_code:
          inline_string: |
            function envoy_on_response(response)
              response:headers():remove("x-ebb-close")
              response:streamInfo():drainConnectionUponCompletion()
            end
    xds_matcher:
      matcher_list:
        matchers:
        - predicate:
            not_matcher:
              single_predicate:
                input:
                  name: mark
                  typed_config:
                    "@type": type.googleapis.com/envoy.type.matcher.v3.HttpResponseHeaderMatchInput
                    header_name: x-ebb-close
                value_match: { exact: "1" }
          on_match:
            action:
              name: skip
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.common.matcher.action.v3.SkipFilter
"#;

/// Where the filter goes in a cluster.
const UPSTREAM_COMMENT: &str = r#"# Counts attempts in flight by endpoint, each from its first byte on. Without it, `upstreams` above knows the endpoint of
# a request from its response headers on. Once a cluster has it, what goes to clusters without it is not counted by
# endpoint: put it into all for whose endpoints drains may wait.
#   typed_extension_protocol_options:
#     envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
#       "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
#       explicit_http_config:
#         http_protocol_options: {}   # or what the cluster speaks
#       http_filters: [...]           # these, in this order
"#;

/// The last filter of a cluster, as the router is the last of a listener.
const UPSTREAM_CODEC: &str = r#"- name: envoy.filters.http.upstream_codec
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec
"#;

/// What to put into an Envoy configuration for one listener.
#[derive(Clone, Copy, Debug)]
pub struct Fragment<'a> {
    /// Name of the listener, as drains shall name it.
    pub listener: &'a str,
    /// Where the control plane listens.
    pub control_plane: &'a Address,
    /// Path of the filter's module, as Envoy sees it.
    pub wasm: &'a str,
    /// Whether requests in flight are counted by upstream endpoint too.
    pub upstreams: bool,
    /// The Envoy that is to take it.
    pub envoy: EnvoyVersion,
    /// Whether to say `failure_policy: FAIL_OPEN` in the place of `fail_open: true`, which Envoy calls deprecated. If the VM
    /// ever dies, it fails what is in flight there.
    pub failure_policy: bool,
}

impl Fragment<'_> {
    /// YAML with the keys `http_filters`, to be put first into those of the listener, and `clusters`; with `upstreams`
    /// also `upstream_http_filters`, for the clusters whose endpoints are to be counted exactly.
    #[must_use]
    pub fn render(&self) -> String {
        let upstream_filters = if self.upstreams {
            format!(
                "upstream_http_filters:\n{UPSTREAM_COMMENT}{}{UPSTREAM_CODEC}",
                self.upstream_filter()
            )
        } else {
            String::new()
        };
        format!(
            "http_filters:\n{CLOSER}{}clusters:\n{}{upstream_filters}",
            self.listener_filter(),
            self.cluster()
        )
    }

    /// The filter in a listener. Envoy tells plugins apart by name and configuration, so both name the listener.
    fn listener_filter(&self) -> String {
        let listener = json_string(self.listener);
        let mut configuration = format!("\"listener\": {listener}");
        if self.upstreams {
            configuration.push_str(",\n              \"upstreams\": true");
        }
        let filter = self.filter(&format!("ebb_{}", self.listener), &configuration);
        format!("# Counts requests in flight, and marks responses while its listener drains.\n{filter}")
    }

    /// The filter in a cluster. It is the same for every cluster, so that a worker needs one root context for all.
    fn upstream_filter(&self) -> String {
        self.filter("ebb.upstream", "\"role\": \"upstream\"")
    }

    /// The Wasm filter; `vm_id` is the same wherever it stands, so that a worker needs one VM.
    fn filter(&self, plugin: &str, configuration: &str) -> String {
        let plugin = quoted(plugin);
        let capabilities = |indent: &str| {
            let head = format!(
                "{indent}# All that the filter needs, and nothing else.\n{indent}capability_restriction_config:\n\
                 {indent}  allowed_capabilities:\n"
            );
            CAPABILITIES.iter().fold(head, |mut list, capability| {
                // Writing to a string cannot fail.
                let _ = writeln!(list, "{indent}    {capability}: {{}}");
                list
            })
        };
        let (mut of_vm, mut of_plugin) = (String::new(), String::new());
        if self.envoy < EnvoyVersion::CAPABILITIES_OF_VM {
            of_plugin = capabilities("      ");
        } else {
            of_vm = capabilities("        ");
        }
        let failure = if self.failure_policy {
            "# Should the VM ever fail, requests go on without it, but those in flight in it fail.\n      \
             failure_policy: FAIL_OPEN"
        } else {
            "# Should the VM ever fail, requests go on without it. Envoy calls this deprecated; what it offers in its place,\n      \
             # `failure_policy: FAIL_OPEN`, fails the requests in flight in it (`ebb envoy-config --failure-policy`).\n      \
             fail_open: true"
        };
        // A control plane that is back has to be heard within a second. On the same machine a refused connection costs
        // nothing, so it is tried more often there.
        let reconnect = match self.control_plane {
            Address::Unix(_) => "500ms",
            Address::Tcp { .. } => "800ms",
        };
        format!(
            r#"- name: ebb
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
    config:
      name: {plugin}
      root_id: {plugin}
      {failure}
      vm_config:
        vm_id: ebb
        runtime: envoy.wasm.runtime.v8
        code:
          local:
            filename: {wasm}
{of_vm}      configuration:
        "@type": type.googleapis.com/google.protobuf.StringValue
        value: |
            {{
              {configuration},
              "control_plane_cluster": "{CONTROL_PLANE_CLUSTER}",
              "reconnect_max": "{reconnect}"
            }}
{of_plugin}"#,
            wasm = quoted(self.wasm),
        )
    }

    fn cluster(&self) -> String {
        let (discovery, keepalive, address) = match self.control_plane {
            Address::Unix(path) => {
                let path = quoted(&path.display().to_string());
                ("type: STATIC", " {}", format!("pipe: {{ path: {path} }}"))
            }
            Address::Tcp { host, port } => {
                let discovery = match host.parse::<IpAddr>() {
                    Ok(_) => "type: STATIC",
                    Err(_) => "type: STRICT_DNS\n  dns_lookup_family: ALL",
                };
                // A peer that vanishes without a word is noticed by this and by nothing else.
                let keepalive = "\n          connection_keepalive: { interval: 5s, timeout: 2s }";
                let host = quoted(host);
                (
                    discovery,
                    keepalive,
                    format!("socket_address: {{ address: {host}, port_value: {port} }}"),
                )
            }
        };
        format!(
            r#"- name: {CONTROL_PLANE_CLUSTER}
  {discovery}
  connect_timeout: 1s
  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      explicit_http_config:
        http2_protocol_options:{keepalive}
  load_assignment:
    cluster_name: {CONTROL_PLANE_CLUSTER}
    endpoints:
    - lb_endpoints:
      - endpoint:
          address:
            {address}
"#
        )
    }
}

/// `text` as a YAML scalar: plain where that is beyond doubt, else double-quoted, and then all that is not printable
/// ASCII is escaped.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '/' | '.' | '-');
    let starts_as_text = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    if starts_as_text && text.chars().all(plain) && !is_yaml_keyword(text) {
        return text.to_owned();
    }
    let mut scalar = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => scalar.extend(['\\', c]),
            ' '..='~' => scalar.push(c),
            _ => {
                let _ = write!(scalar, "\\U{:08x}", u32::from(c));
            }
        }
    }
    scalar.push('"');
    scalar
}

/// `text` as a JSON string in ASCII, which can stand in a YAML block as it is.
fn json_string(text: &str) -> String {
    let mut string = String::from('"');
    for unit in text.encode_utf16() {
        match char::from_u32(u32::from(unit)) {
            Some(c @ ('"' | '\\')) => string.extend(['\\', c]),
            Some(c @ ' '..='~') => string.push(c),
            _ => {
                let _ = write!(string, "\\u{unit:04x}");
            }
        }
    }
    string.push('"');
    string
}

/// Whether YAML 1.1 or 1.2 takes an unquoted word for something else than text.
fn is_yaml_keyword(word: &str) -> bool {
    let keywords = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    keywords.iter().any(|keyword| word.eq_ignore_ascii_case(keyword))
}

#[cfg(test)]
mod tests {
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
    fn versions_are_read_as_envoy_says_them() {
        for (text, version) in [("1.37", 37), ("1.39.3", 39), ("1.40.0", 40)] {
            assert_eq!(text.parse(), Ok(EnvoyVersion(version)));
        }
        for (text, hint) in [
            ("1.36.9", "use 1.37 or later"),
            ("1.41", "1.40 is the newest"),
            ("", "for example 1.40"),
            ("1.+40", "for example 1.40"),
            ("1.40.0.0", "for example 1.40"),
            ("v1.40", "for example 1.40"),
            ("1.40.x", "for example 1.40"),
            ("2.1", "for example 1.40"),
        ] {
            let error = text.parse::<EnvoyVersion>().unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
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
}
