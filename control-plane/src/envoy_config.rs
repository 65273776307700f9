//! The Envoy configuration that puts the filter into a listener: options in, YAML text out.
//!
//! `envoy-config/envoy.yaml` holds the same text, as every supported Envoy takes it, for its two listeners; a test compares
//! them.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::address::Address;

mod version;

pub use version::EnvoyVersion;

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
mod tests;
