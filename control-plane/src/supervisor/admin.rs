//! Envoy's admin endpoint. Every call is bounded at [`CALL`] and none is needed for a drain to work.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use hyper::{Method, StatusCode, body::Bytes};
use serde::Deserialize;

use super::http;
use crate::address::Address;

/// Bound of every call.
pub const CALL: Duration = Duration::from_secs(1);

/// An admin endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin(pub Address);

/// Why a call to an admin endpoint failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// No answer.
    #[error("admin: {0}")]
    Http(#[from] http::HttpError),
    /// It refused.
    #[error("admin: {0} answered {1}")]
    Status(String, StatusCode),
    /// It answered something else than Envoy does.
    #[error("admin: {0} answered what is not understood: {1}")]
    Unreadable(&'static str, serde_json::Error),
}

#[derive(Deserialize)]
struct Stats {
    stats: Vec<Stat>,
}

#[derive(Deserialize)]
struct Stat {
    // `histograms` has neither.
    name: Option<String>,
    value: Option<u64>,
}

#[derive(Deserialize)]
struct ServerInfo {
    node: Node,
    #[serde(default)]
    uptime_current_epoch: String,
}

#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    id: String,
}

#[derive(Deserialize)]
struct Clusters {
    #[serde(default)]
    cluster_statuses: Vec<Cluster>,
}

#[derive(Deserialize)]
struct Cluster {
    #[serde(default)]
    host_statuses: Vec<Host>,
}

#[derive(Deserialize)]
struct Host {
    address: HostAddress,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    stats: Vec<HostStat>,
}

#[derive(Deserialize)]
struct HostAddress {
    socket_address: Option<SocketAddress>,
    pipe: Option<Pipe>,
}

#[derive(Deserialize)]
struct SocketAddress {
    address: String,
    #[serde(default)]
    port_value: u16,
}

#[derive(Deserialize)]
struct Pipe {
    path: String,
}

#[derive(Deserialize)]
struct HostStat {
    name: String,
    // Envoy writes 64 bit numbers as text, and leaves 0 out.
    #[serde(default)]
    value: String,
}

impl Admin {
    /// Makes every health check of this Envoy fail; connections are closed as their requests end.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn fail_health(&self) -> Result<(), AdminError> {
        self.call(Method::POST, "/healthcheck/fail").await.map(drop)
    }

    /// Undoes [`Admin::fail_health`].
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn restore_health(&self) -> Result<(), AdminError> {
        self.call(Method::POST, "/healthcheck/ok").await.map(drop)
    }

    /// Closes the listening sockets; connections that are open stay. Cannot be undone.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn stop_accepting(&self) -> Result<(), AdminError> {
        self.call(Method::POST, "/drain_listeners").await.map(drop)
    }

    /// Requests in flight in this Envoy, over all of its listeners; those to the admin endpoint itself are not counted.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn requests_in_flight(&self) -> Result<u64, AdminError> {
        Ok(self.in_flight_by_listener().await?.values().sum())
    }

    /// Requests in flight by `stat_prefix`; those to the admin endpoint itself are not counted.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn in_flight_by_listener(&self) -> Result<BTreeMap<String, u64>, AdminError> {
        let path = "/stats?format=json&type=Gauges&filter=%5Ehttp%5C..*%5C.downstream_rq_active%24";
        let body = self.call(Method::GET, path).await?;
        let stats: Stats =
            serde_json::from_slice(&body).map_err(|error| AdminError::Unreadable("/stats", error))?;
        let by_prefix = stats.stats.into_iter().filter_map(|stat| {
            let name = stat.name?;
            let prefix = name.strip_prefix("http.")?.strip_suffix(".downstream_rq_active")?;
            (prefix != "admin").then(|| (prefix.to_owned(), stat.value.unwrap_or(0)))
        });
        Ok(by_prefix.collect())
    }

    /// Whose endpoint this is: `node.id`, and since when its process runs, in whole seconds.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn identity(&self) -> Result<(String, Duration), AdminError> {
        let body = self.call(Method::GET, "/server_info").await?;
        let info: ServerInfo =
            serde_json::from_slice(&body).map_err(|error| AdminError::Unreadable("/server_info", error))?;
        let seconds = info.uptime_current_epoch.trim_end_matches('s').parse().unwrap_or(0);
        Ok((info.node.id, Duration::from_secs(seconds)))
    }

    /// Requests in flight towards every upstream endpoint, by its address as `ip:port` or `unix:/path`, and by its host
    /// name as `name:port` where it has one.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn in_flight_by_endpoint(&self) -> Result<HashMap<String, u64>, AdminError> {
        let body = self.call(Method::GET, "/clusters?format=json").await?;
        let clusters: Clusters =
            serde_json::from_slice(&body).map_err(|error| AdminError::Unreadable("/clusters", error))?;
        let mut endpoints = HashMap::new();
        for host in clusters
            .cluster_statuses
            .iter()
            .flat_map(|cluster| &cluster.host_statuses)
        {
            let active = host.stats.iter().find(|stat| stat.name == "rq_active");
            let active = active
                .and_then(|stat| stat.value.parse::<u64>().ok())
                .unwrap_or(0);
            for name in host.names() {
                *endpoints.entry(name).or_insert(0) += active;
            }
        }
        Ok(endpoints)
    }

    async fn call(&self, method: Method, path: &str) -> Result<Bytes, AdminError> {
        let (status, body) = http::request(method, &self.0, path, CALL).await?;
        if status.is_success() {
            return Ok(body);
        }
        let path = path.split('?').next().unwrap_or(path);
        Err(AdminError::Status(path.to_owned(), status))
    }
}

impl Host {
    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        if let Some(socket) = &self.address.socket_address {
            let tcp = |host: &str| Address::Tcp {
                host: host.to_owned(),
                port: socket.port_value,
            };
            names.push(tcp(&socket.address).to_string());
            if !self.hostname.is_empty() && self.hostname != socket.address {
                names.push(tcp(&self.hostname).to_string());
            }
        }
        if let Some(pipe) = &self.address.pipe {
            names.push(format!("unix:{}", pipe.path));
        }
        names
    }
}
