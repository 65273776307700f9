//! The plugin configuration: JSON as the user wrote it, and the validated form that the rest of the filter uses.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use crate::grpc_service;

const REPORT_INTERVAL: Duration = Duration::from_secs(5);
const DRAIN_REPORT_INTERVAL: Duration = Duration::from_millis(500);
const RECONNECT_MIN: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(5);

/// Shorter intervals cost more than they tell.
const SHORTEST: Duration = Duration::from_millis(10);
/// Longer ones can only be a mistake.
const LONGEST: Duration = Duration::from_secs(3600);

/// As the user wrote it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    role: RawRole,
    listener: Option<String>,
    upstreams: Option<bool>,
    detect_grpc: Option<bool>,
    blocker_paths: Option<bool>,
    control_plane_cluster: String,
    report_interval: Option<String>,
    drain_report_interval: Option<String>,
    reconnect_min: Option<String>,
    reconnect_max: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawRole {
    #[default]
    Listener,
    Upstream,
}

/// The configuration of one plugin, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What it stands in, and what it does there.
    pub role: Role,
    /// How the VM reaches the control plane.
    pub link: LinkConfig,
}

/// Where a plugin stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// `"role": "listener"`, the default: in the HTTP filters of a listener. It counts requests and marks responses.
    Listener(ListenerConfig),
    /// `"role": "upstream"`: in the HTTP filters of a cluster. It counts attempts by upstream endpoint, exactly and
    /// from their first byte on.
    Upstream,
}

/// What a plugin does in a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Name of the listener, as drains name it; never empty.
    pub name: String,
    /// Whether attempts are counted by upstream endpoint, which is known from response headers on. At the cost of a
    /// hostcall per response. Has no effect while there are plugins in clusters: they know better. Default: no.
    pub upstreams: bool,
    /// Whether gRPC is told from other requests also while nothing drains, at the cost of a hostcall per request with
    /// a body: headers can be read only when they arrive. Without, a gRPC stream that began before the drain is listed
    /// under its HTTP version. Default: no.
    pub detect_grpc: bool,
    /// Whether the path of a request, without its query, is kept while it is in flight, and shown where the oldest requests
    /// are listed. At the cost of a hostcall and some memory per request: headers can be read only when they arrive.
    /// Default: no.
    pub blocker_paths: bool,
}

/// How a VM reaches the control plane. All listeners of a VM share one stream, so theirs should be equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Name of Envoy's cluster for the control plane; never empty, at most [`grpc_service::MAX_CLUSTER_NAME`] bytes.
    pub cluster: String,
    /// The cluster as a serialized `GrpcService`.
    pub grpc_service: String,
    /// Longest time between two reports while nothing drains.
    pub report_interval: Duration,
    /// The same while somebody waits for a drain.
    pub drain_report_interval: Duration,
    /// Shortest wait before a new stream is tried.
    pub reconnect_min: Duration,
    /// Longest wait before a new stream is tried.
    pub reconnect_max: Duration,
}

/// Why a configuration was refused: one line that names the key and says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plugin configuration refused: {}", self.0)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Parses and validates the plugin configuration.
    ///
    /// # Errors
    /// JSON that does not parse, an unknown or missing key, or a value that cannot work.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        let raw: Raw = serde_json::from_slice(json).map_err(refused)?;
        let role = role(
            raw.role,
            raw.listener,
            raw.upstreams,
            raw.detect_grpc,
            raw.blocker_paths,
        )?;
        if raw.control_plane_cluster.trim().is_empty() {
            return refuse(
                "control_plane_cluster",
                "is empty: name the Envoy cluster of the control plane",
            );
        }
        let Some(grpc_service) = grpc_service::serialize(&raw.control_plane_cluster) else {
            let limit = grpc_service::MAX_CLUSTER_NAME;
            return refuse(
                "control_plane_cluster",
                &format!("is too long: use at most {limit} bytes"),
            );
        };
        let link = LinkConfig {
            cluster: raw.control_plane_cluster,
            grpc_service,
            report_interval: interval("report_interval", raw.report_interval, REPORT_INTERVAL)?,
            drain_report_interval: interval(
                "drain_report_interval",
                raw.drain_report_interval,
                DRAIN_REPORT_INTERVAL,
            )?,
            reconnect_min: interval("reconnect_min", raw.reconnect_min, RECONNECT_MIN)?,
            reconnect_max: interval("reconnect_max", raw.reconnect_max, RECONNECT_MAX)?,
        };
        if link.reconnect_min > link.reconnect_max {
            return refuse(
                "reconnect_min",
                "is longer than reconnect_max: make it the shorter one",
            );
        }
        Ok(Self { role, link })
    }

    /// What it stands in, for a log line.
    pub fn place(&self) -> String {
        match &self.role {
            Role::Listener(listener) => format!("listener `{}`", listener.name),
            Role::Upstream => "upstream filter".to_owned(),
        }
    }
}

fn role(
    role: RawRole,
    listener: Option<String>,
    upstreams: Option<bool>,
    detect_grpc: Option<bool>,
    blocker_paths: Option<bool>,
) -> Result<Role, ConfigError> {
    match role {
        RawRole::Listener => {
            let Some(name) = listener else {
                return refuse("listener", "is missing: give it the name that drains shall use");
            };
            if name.trim().is_empty() {
                return refuse("listener", "is empty: give it the name that drains shall use");
            }
            Ok(Role::Listener(ListenerConfig {
                name,
                upstreams: upstreams.unwrap_or(false),
                detect_grpc: detect_grpc.unwrap_or(false),
                blocker_paths: blocker_paths.unwrap_or(false),
            }))
        }
        RawRole::Upstream => {
            let of_listeners = [
                ("listener", listener.is_some()),
                ("upstreams", upstreams.is_some()),
                ("detect_grpc", detect_grpc.is_some()),
                ("blocker_paths", blocker_paths.is_some()),
            ];
            match of_listeners.into_iter().find(|(_, given)| *given) {
                Some((key, _)) => refuse(key, "has no meaning in the role `upstream`: leave it out"),
                None => Ok(Role::Upstream),
            }
        }
    }
}

/// A `Struct` in Envoy's configuration reaches the filter as protobuf, so that mistake looks like bad JSON.
fn refused(error: serde_json::Error) -> ConfigError {
    let hint = if error.is_data() {
        ""
    } else {
        ": write it as JSON text in a google.protobuf.StringValue"
    };
    ConfigError(format!("{error}{hint}"))
}

fn refuse<T>(key: &str, why: &str) -> Result<T, ConfigError> {
    Err(ConfigError(format!("{key} {why}")))
}

fn interval(key: &str, text: Option<String>, default: Duration) -> Result<Duration, ConfigError> {
    let Some(text) = text else { return Ok(default) };
    let Ok(value) = humantime::parse_duration(&text) else {
        return refuse(key, &format!("is `{text}`: write a duration such as 250ms or 5s"));
    };
    if !(SHORTEST..=LONGEST).contains(&value) {
        return refuse(key, &format!("is {text}: it must be between 10ms and 1h"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(json: &str) -> String {
        let error = Config::parse(json.as_bytes()).unwrap_err().to_string();
        assert!(!error.contains('\n'), "more than one line: {error}");
        error
    }

    #[test]
    fn defaults() {
        let config = Config::parse(br#"{"listener":"ingress","control_plane_cluster":"cp"}"#).unwrap();
        let listener = ListenerConfig {
            name: "ingress".to_owned(),
            upstreams: false,
            detect_grpc: false,
            blocker_paths: false,
        };
        assert_eq!(config.role, Role::Listener(listener));
        assert_eq!(config.link.cluster, "cp");
        assert_eq!(config.link.grpc_service, grpc_service::serialize("cp").unwrap());
        assert_eq!(config.link.report_interval, Duration::from_secs(5));
        assert_eq!(config.link.drain_report_interval, Duration::from_millis(500));
        assert_eq!(config.link.reconnect_min, Duration::from_millis(100));
        assert_eq!(config.link.reconnect_max, Duration::from_secs(5));
    }

    #[test]
    fn every_interval_can_be_set() {
        let json = br#"{"listener":"l","control_plane_cluster":"cp","report_interval":"1m",
            "drain_report_interval":"50ms","reconnect_min":"20ms","reconnect_max":"900ms"}"#;
        let link = Config::parse(json).unwrap().link;
        assert_eq!(link.report_interval, Duration::from_secs(60));
        assert_eq!(link.drain_report_interval, Duration::from_millis(50));
        assert_eq!(link.reconnect_min, Duration::from_millis(20));
        assert_eq!(link.reconnect_max, Duration::from_millis(900));
    }

    #[test]
    fn a_plugin_in_a_cluster_has_no_listener() {
        let config = Config::parse(br#"{"role":"upstream","control_plane_cluster":"cp"}"#).unwrap();
        assert_eq!(config.role, Role::Upstream);
        for (key, value) in [
            ("listener", "\"a\""),
            ("upstreams", "true"),
            ("detect_grpc", "false"),
            ("blocker_paths", "true"),
        ] {
            let json = format!(r#"{{"role":"upstream","control_plane_cluster":"cp","{key}":{value}}}"#);
            assert!(error(&json).contains(&format!("{key} has no meaning")), "{key}");
        }
        assert!(error(r#"{"role":"both","control_plane_cluster":"cp"}"#).contains("both"));
    }

    #[test]
    fn what_costs_per_request_can_be_switched_on() {
        let json = br#"{"role":"listener","listener":"l","control_plane_cluster":"c","upstreams":true,
            "detect_grpc":true,"blocker_paths":true}"#;
        let Role::Listener(listener) = Config::parse(json).unwrap().role else {
            panic!("no listener")
        };
        assert!(listener.upstreams && listener.detect_grpc && listener.blocker_paths);
    }

    #[test]
    fn errors_name_the_key() {
        let with = |extra: &str| {
            error(&format!(
                r#"{{"listener":"l","control_plane_cluster":"c",{extra}}}"#
            ))
        };
        assert!(error("").contains("plugin configuration refused"));
        assert!(error("\n\u{1e}").contains("google.protobuf.StringValue"));
        assert!(!error("{}").contains("google.protobuf.StringValue"));
        assert!(error("[]").contains("refused"));
        assert!(error(r#"{"listener":"l"}"#).contains("control_plane_cluster"));
        assert!(error(r#"{"control_plane_cluster":"c"}"#).contains("listener is missing"));
        assert!(with(r#""upstreams":1"#).contains("bool"));
        assert!(error(r#"{"listener":" ","control_plane_cluster":"c"}"#).contains("listener is empty"));
        assert!(
            error(r#"{"listener":"l","control_plane_cluster":""}"#)
                .contains("control_plane_cluster is empty")
        );
        assert!(with(r#""lisener":"x""#).contains("lisener"));
        assert!(with(r#""report_interval":5"#).contains("string"));
        assert!(with(r#""report_interval":"soon""#).contains("report_interval is `soon`"));
        assert!(with(r#""drain_report_interval":"0s""#).contains("drain_report_interval is 0s"));
        assert!(with(r#""reconnect_max":"2h""#).contains("reconnect_max is 2h"));
        assert!(with(r#""reconnect_min":"6s""#).contains("reconnect_min is longer"));
        let long = format!(
            r#"{{"listener":"l","control_plane_cluster":"{}"}}"#,
            "c".repeat(121)
        );
        assert!(error(&long).contains("at most 120 bytes"));
    }
}
