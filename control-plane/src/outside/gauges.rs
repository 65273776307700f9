//! What an Envoy's gauges say at one moment, in one answer of its admin endpoint.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    core::reading::sum,
    supervisor::admin::{Admin, AdminError},
};

/// The gauges that are read, as a regular expression for `/stats`. Those of the admin endpoint's own listener are dropped.
const FILTER: &str = r"^(http|tcp)\..*\.downstream_cx_(active|tx_bytes_buffered)$|^listener\..*\.downstream_cx_active$|^cluster\..*\.upstream_rq_(pending_)?active$";

/// The `stat_prefix` of the admin endpoint's own listener and connections.
const ADMIN: &str = "admin";

/// Gauges, by name of what has them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Gauges {
    /// By name in the statistics of listeners: `stat_prefix`, or address and port.
    pub(super) connections: BTreeMap<String, u64>,
    /// By `stat_prefix` of HTTP connection managers.
    pub(super) http: BTreeMap<String, Http>,
    /// Bytes in buffers, by `stat_prefix` of TCP proxies.
    pub(super) tcp: BTreeMap<String, u64>,
    pub(super) clusters: BTreeMap<String, Cluster>,
}

/// Of one `stat_prefix`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Http {
    pub(super) connections: u64,
    /// Bytes that wait in Envoy for their client's socket.
    pub(super) buffered: u64,
}

/// Requests towards one cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cluster {
    pub(super) active: u64,
    pub(super) pending: u64,
}

impl Gauges {
    pub(super) async fn read(admin: &Admin) -> Result<Self, AdminError> {
        let mut gauges = Self::default();
        for (name, value) in admin.stats("Gauges", FILTER).await? {
            if let Some(value) = value {
                gauges.take(&name, value);
            }
        }
        Ok(gauges)
    }

    fn take(&mut self, name: &str, value: u64) {
        let Some((kind, rest)) = name.split_once('.') else {
            return;
        };
        let Some((prefix, gauge)) = rest.rsplit_once('.') else {
            return;
        };
        match (kind, gauge) {
            (_, _) if prefix == ADMIN || prefix.starts_with("admin.main_thread") => {}
            // Each worker's share is there as well.
            ("listener", "downstream_cx_active") if !is_of_a_worker(prefix) => {
                self.connections.insert(prefix.to_owned(), value);
            }
            ("http", "downstream_cx_active") => self.http(prefix).connections = value,
            ("http", "downstream_cx_tx_bytes_buffered") => self.http(prefix).buffered = value,
            ("tcp", "downstream_cx_tx_bytes_buffered") => {
                self.tcp.insert(prefix.to_owned(), value);
            }
            ("cluster", "upstream_rq_active") => self.cluster(prefix).active = value,
            ("cluster", "upstream_rq_pending_active") => self.cluster(prefix).pending = value,
            _ => {}
        }
    }

    fn http(&mut self, prefix: &str) -> &mut Http {
        self.http.entry(prefix.to_owned()).or_default()
    }

    fn cluster(&mut self, name: &str) -> &mut Cluster {
        self.clusters.entry(name.to_owned()).or_default()
    }

    /// Connections from clients that are no HTTP connections.
    pub(super) fn sessions(&self) -> u64 {
        let all = sum(self.connections.values().copied());
        let http = sum(self.http.values().map(|http| http.connections));
        // The gauges of several threads are not read at the same instant.
        all.saturating_sub(http)
    }

    /// Bytes for clients in Envoy's buffers: all of them, or those of some `stat_prefix`es.
    pub(super) fn buffered(&self, prefixes: Option<&BTreeSet<String>>) -> u64 {
        let wanted = |prefix: &String| prefixes.is_none_or(|prefixes| prefixes.contains(prefix));
        let http = self.http.iter().filter(|(prefix, _)| wanted(prefix));
        let http = http.map(|(_, http)| http.buffered);
        let tcp = self.tcp.iter().filter(|(prefix, _)| wanted(prefix));
        sum(http.chain(tcp.map(|(_, buffered)| *buffered)))
    }
}

fn is_of_a_worker(prefix: &str) -> bool {
    prefix
        .rsplit_once(".worker_")
        .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
}

#[cfg(test)]
impl Gauges {
    pub(super) fn of(stats: &[(&str, u64)]) -> Self {
        let mut gauges = Self::default();
        for (name, value) in stats {
            gauges.take(name, *value);
        }
        gauges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_what_is_no_http_connection() {
        let gauges = Gauges::of(&[
            ("listener.0.0.0.0_443.downstream_cx_active", 5),
            ("listener.0.0.0.0_443.worker_0.downstream_cx_active", 2),
            ("listener.0.0.0.0_443.worker_1.downstream_cx_active", 3),
            ("listener.db.downstream_cx_active", 2),
            ("listener.admin.downstream_cx_active", 7),
            ("listener.admin.main_thread.downstream_cx_active", 7),
            ("http.admin.downstream_cx_active", 7),
            ("http.ingress.v1.downstream_cx_active", 4),
        ]);
        assert_eq!(gauges.sessions(), 3);
        assert_eq!(
            Gauges::of(&[("http.a.downstream_cx_active", 1)]).sessions(),
            0,
            "read a moment apart"
        );
    }

    #[test]
    fn buffers_are_those_of_the_prefixes_that_are_asked_for() {
        let gauges = Gauges::of(&[
            ("http.admin.downstream_cx_tx_bytes_buffered", 100),
            ("http.a.downstream_cx_tx_bytes_buffered", 1),
            ("http.b.downstream_cx_tx_bytes_buffered", 2),
            ("tcp.c.downstream_cx_tx_bytes_buffered", 4),
        ]);
        assert_eq!(gauges.buffered(None), 7);
        let some = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(gauges.buffered(Some(&some(&["a", "c"]))), 5);
        assert_eq!(gauges.buffered(Some(&some(&[]))), 0);
    }
}
