//! What an Envoy's configuration says of its listeners, and of clusters whose requests do not end by themselves.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    core::reading::in_statistics,
    supervisor::admin::{Admin, AdminError},
};

const LISTENERS: &str = "type.googleapis.com/envoy.admin.v3.ListenersConfigDump";
const HTTP_CONNECTION_MANAGER: &str = "HttpConnectionManager";
const TCP_PROXY: &str = "TcpProxy";

/// The parts of a configuration that matter here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) listeners: Vec<Listener>,
    /// Clusters whose active requests tell nothing: gRPC services, whose streams stay open for good (access logs, xDS,
    /// metrics, Ebb's own control plane), and those of TCP proxies, whose sessions count by themselves.
    pub(super) standing: BTreeSet<String>,
    /// The clusters of Ebb's control plane, as the filters in this Envoy name them. All clusters here go by their names in
    /// the statistics.
    pub(super) control_planes: BTreeSet<String>,
}

/// One listener.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listener {
    pub(super) name: String,
    /// What it goes by in the statistics. Several listeners may have the same.
    pub(super) stat_name: String,
    /// The `stat_prefix`es of its HTTP connection managers, as they are written in the statistics.
    pub(super) http: BTreeSet<String>,
    /// The same of its TCP proxies.
    pub(super) tcp: BTreeSet<String>,
    /// Whether it has filter chains without an HTTP connection manager.
    pub(super) has_sessions: bool,
}

#[derive(Deserialize)]
struct Dump {
    #[serde(default)]
    configs: Vec<Value>,
}

impl Layout {
    pub(super) async fn read(admin: &Admin) -> Result<Self, AdminError> {
        let dump: Dump = admin.json("/config_dump", "/config_dump").await?;
        Ok(Self::of(&dump.configs))
    }

    fn of(configs: &[Value]) -> Self {
        let mut layout = Self::default();
        let mut aliases = BTreeMap::new();
        for config in configs {
            layout.walk(config, &mut aliases);
            if kind(config) == LISTENERS {
                layout.listeners.extend(listeners(config));
            }
        }
        for names in [&mut layout.standing, &mut layout.control_planes] {
            *names = names
                .iter()
                .map(|name| in_statistics(aliases.get(name).unwrap_or(name)).into_owned())
                .collect();
        }
        layout
    }

    /// Looks for clusters, wherever they are named. `aliases`: names that clusters have in the statistics instead.
    fn walk(&mut self, value: &Value, aliases: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(fields) => {
                if let Some(name) = value.pointer("/envoy_grpc/cluster_name").and_then(Value::as_str) {
                    self.standing.insert(name.to_owned());
                }
                if let Some(proxy) = filter_of(value, TCP_PROXY) {
                    self.standing.extend(clusters_of_tcp_proxy(proxy));
                }
                // The configuration of a Wasm plugin is text.
                let own = text(value, "value")
                    .filter(|text| text.contains("control_plane_cluster"))
                    .and_then(|text| serde_json::from_str::<Value>(text).ok());
                if let Some(name) = own.as_ref().and_then(|own| text(own, "control_plane_cluster")) {
                    self.control_planes.insert(name.to_owned());
                }
                let alias = text(value, "alt_stat_name").filter(|alias| !alias.is_empty());
                if let (Some(name), Some(alias)) = (text(value, "name"), alias) {
                    aliases.insert(name.to_owned(), alias.to_owned());
                }
                for field in fields.values() {
                    self.walk(field, aliases);
                }
            }
            Value::Array(all) => all.iter().for_each(|one| self.walk(one, aliases)),
            _ => {}
        }
    }

    /// The listeners that a name stands for: its own, or the `stat_prefix` of something in it.
    pub(super) fn named<'l>(&'l self, name: &'l str) -> impl Iterator<Item = &'l Listener> {
        let prefix = in_statistics(name);
        self.listeners.iter().filter(move |listener| {
            listener.name == name || listener.http.contains(&*prefix) || listener.tcp.contains(&*prefix)
        })
    }

    /// Names under which TCP sessions can be drained.
    pub(super) fn names_of_sessions(&self) -> BTreeSet<String> {
        let with_sessions = self.listeners.iter().filter(|listener| listener.has_sessions);
        with_sessions
            .flat_map(|listener| listener.tcp.iter().chain([&listener.name]))
            .filter(|name| !name.is_empty())
            .cloned()
            .collect()
    }
}

/// The listeners of a dump: those that serve and those that drain, which still have connections.
fn listeners(dump: &Value) -> impl Iterator<Item = Listener> {
    let all = |key: &str| dump.get(key).and_then(Value::as_array).into_iter().flatten();
    let fixed = all("static_listeners").filter_map(|one| one.get("listener"));
    let dynamic = all("dynamic_listeners").flat_map(|one| {
        let states = ["active_state", "draining_state"].into_iter();
        states.filter_map(|state| one.get(state)?.get("listener"))
    });
    fixed.chain(dynamic).map(Listener::new)
}

impl Listener {
    fn new(config: &Value) -> Self {
        let stat_prefix = text(config, "stat_prefix").filter(|prefix| !prefix.is_empty());
        let mut listener = Self {
            name: text(config, "name").unwrap_or_default().to_owned(),
            stat_name: stat_prefix
                .map_or_else(|| stat_name(config), |prefix| in_statistics(prefix).into_owned()),
            ..Self::default()
        };
        let chains = config.get("filter_chains").and_then(Value::as_array);
        let default = config.get("default_filter_chain");
        for chain in chains.into_iter().flatten().chain(default) {
            let filters = chain.get("filters").and_then(Value::as_array);
            let filters = || {
                filters
                    .into_iter()
                    .flatten()
                    .filter_map(|filter| filter.get("typed_config"))
            };
            let prefixes = |kind: &'static str| {
                let of_kind = filters().filter_map(move |filter| filter_of(filter, kind));
                of_kind.filter_map(|filter| Some(in_statistics(text(filter, "stat_prefix")?).into_owned()))
            };
            listener.http.extend(prefixes(HTTP_CONNECTION_MANAGER));
            listener.tcp.extend(prefixes(TCP_PROXY));
            listener.has_sessions |=
                !filters().any(|filter| filter_of(filter, HTTP_CONNECTION_MANAGER).is_some());
        }
        listener
    }
}

/// What Envoy makes of a listener's address for the names of its statistics.
fn stat_name(listener: &Value) -> String {
    let Some(address) = listener.get("address") else {
        return String::new();
    };
    if let Some(path) = address.pointer("/pipe/path").and_then(Value::as_str) {
        return in_statistics(path).into_owned();
    }
    let host = address.pointer("/socket_address/address").and_then(Value::as_str);
    let port = address
        .pointer("/socket_address/port_value")
        .and_then(Value::as_u64);
    let (host, port) = (host.unwrap_or_default(), port.unwrap_or_default());
    let text = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    in_statistics(&text).into_owned()
}

fn clusters_of_tcp_proxy(proxy: &Value) -> impl Iterator<Item = String> {
    let weighted = proxy
        .pointer("/weighted_clusters/clusters")
        .and_then(Value::as_array);
    let weighted = weighted.into_iter().flatten().filter_map(|one| text(one, "name"));
    text(proxy, "cluster")
        .into_iter()
        .chain(weighted)
        .map(str::to_owned)
}

/// The configuration of a filter of this kind, if it is one: also where it stands in a `TypedStruct`.
fn filter_of<'v>(config: &'v Value, wanted: &str) -> Option<&'v Value> {
    let is = |kind: &str| kind.rsplit(['.', '/']).next() == Some(wanted);
    if is(kind(config)) {
        return Some(config);
    }
    let inner = config.get("value")?;
    is(text(config, "type_url")?).then_some(inner)
}

fn kind(value: &Value) -> &str {
    text(value, "@type").unwrap_or_default()
}

fn text<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value.get(key)?.as_str()
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
