//! Envoy's admin endpoint. Every call is bounded at [`CALL`] and none is needed for a drain to work.

use std::{
    collections::{BTreeMap, HashMap},
    io::ErrorKind,
    time::Duration,
};

use hyper::{Method, StatusCode, body::Bytes};
use serde::{Deserialize, de::DeserializeOwned};

use super::http;
use crate::{address::Address, core::admins::Requests};

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

impl AdminError {
    /// Whether no process listens there: its Envoy has ended, or has not begun.
    #[must_use]
    pub fn is_nobody(&self) -> bool {
        let Self::Http(http::HttpError::Connect(_, error)) = self else {
            return false;
        };
        matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound)
    }

    /// Whether its Envoy may have ended in the middle of the call.
    #[must_use]
    pub fn broke_off(&self) -> bool {
        matches!(self, Self::Http(http::HttpError::Broken(..)))
    }
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
    state: String,
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
        let counts = self.in_flight_by_listener().await?;
        Ok(counts.values().fold(0, |sum, count| sum.saturating_add(*count)))
    }

    /// Requests in flight by `stat_prefix`; those to the admin endpoint itself are not counted.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn in_flight_by_listener(&self) -> Result<BTreeMap<String, u64>, AdminError> {
        self.by_listener("Gauges", "downstream_rq_active").await
    }

    /// Requests ever answered by `stat_prefix`, as [`Admin::in_flight_by_listener`], without health probes: with those in
    /// flight they are all that ever began, but for what a client took back.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn answered_by_listener(&self) -> Result<BTreeMap<String, u64>, AdminError> {
        self.by_listener("Counters", "downstream_rq_completed").await
    }

    async fn by_listener(&self, kind: &str, suffix: &str) -> Result<BTreeMap<String, u64>, AdminError> {
        let stats = self.stats(kind, &format!(r"^http\..*\.{suffix}$")).await?;
        let by_prefix = stats.into_iter().filter_map(|(name, value)| {
            let prefix = name
                .strip_prefix("http.")?
                .strip_suffix(suffix)?
                .strip_suffix('.')?;
            (prefix != "admin").then(|| (prefix.to_owned(), value.unwrap_or(0)))
        });
        Ok(by_prefix.collect())
    }

    /// The statistics of a kind (`Gauges`, `Counters`) whose names a regular expression matches.
    ///
    /// # Errors
    /// [`AdminError`].
    pub(crate) async fn stats(
        &self,
        kind: &str,
        filter: &str,
    ) -> Result<Vec<(String, Option<u64>)>, AdminError> {
        let mut path = format!("/stats?format=json&type={kind}&filter=");
        for character in filter.chars() {
            match character {
                '\\' => path.push_str("%5C"),
                '^' => path.push_str("%5E"),
                '|' => path.push_str("%7C"),
                '$' => path.push_str("%24"),
                other => path.push(other),
            }
        }
        let stats: Stats = self.json("/stats", &path).await?;
        let named = stats.stats.into_iter();
        Ok(named.filter_map(|stat| Some((stat.name?, stat.value))).collect())
    }

    /// Whether this Envoy fails its health checks, because it was told to or because it is being stopped.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn fails_health(&self) -> Result<bool, AdminError> {
        let info: ServerInfo = self.json("/server_info", "/server_info").await?;
        Ok(info.state == "DRAINING")
    }

    /// Whose endpoint this is: `node.id`, and since when its process runs, in whole seconds.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn identity(&self) -> Result<(String, Duration), AdminError> {
        let info: ServerInfo = self.json("/server_info", "/server_info").await?;
        let seconds = info
            .uptime_current_epoch
            .trim_end_matches('s')
            .parse()
            .unwrap_or(0);
        Ok((info.node.id, Duration::from_secs(seconds)))
    }

    /// Requests in flight towards every upstream endpoint, by its address as `ip:port` or `unix:/path`, and by its host
    /// name as `name:port` where it has one.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn in_flight_by_endpoint(&self) -> Result<HashMap<String, u64>, AdminError> {
        let endpoints = self.requests_by_endpoint().await?.into_iter();
        Ok(endpoints
            .map(|(name, requests)| (name, requests.in_flight))
            .collect())
    }

    /// The same, with the requests ever begun towards each.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn requests_by_endpoint(&self) -> Result<HashMap<String, Requests>, AdminError> {
        let clusters: Clusters = self.json("/clusters", "/clusters?format=json").await?;
        let mut endpoints = HashMap::new();
        for host in clusters
            .cluster_statuses
            .iter()
            .flat_map(|cluster| &cluster.host_statuses)
        {
            let (active, total) = (host.stat("rq_active"), host.stat("rq_total"));
            for name in host.names() {
                let requests: &mut Requests = endpoints.entry(name).or_default();
                requests.in_flight = requests.in_flight.saturating_add(active);
                requests.begun = Some(requests.begun.unwrap_or(0).wrapping_add(total));
            }
        }
        Ok(endpoints)
    }

    /// Reads the JSON at a path; `name` is the path's, for people.
    ///
    /// # Errors
    /// [`AdminError`].
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        name: &'static str,
        path: &str,
    ) -> Result<T, AdminError> {
        let body = self.call(Method::GET, path).await?;
        serde_json::from_slice(&body).map_err(|error| AdminError::Unreadable(name, error))
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
    fn stat(&self, name: &str) -> u64 {
        let stat = self.stats.iter().find(|stat| stat.name == name);
        stat.and_then(|stat| stat.value.parse().ok()).unwrap_or(0)
    }

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

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
    };

    use super::*;

    /// Answers one request on a socket in a directory of its own, and gives its first line.
    async fn answering(answer: &'static str) -> (tempfile::TempDir, Admin, tokio::task::JoinHandle<String>) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("admin.sock");
        let listener = UnixListener::bind(&path).expect("bound");
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepted");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.expect("a request"));
            }
            stream.write_all(answer.as_bytes()).await.expect("answered");
            String::from_utf8_lossy(&request)
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned()
        });
        (directory, Admin(Address::Unix(path)), served)
    }

    #[tokio::test]
    async fn requests_in_flight_are_summed_without_those_to_the_admin() {
        let answer = "HTTP/1.1 200 OK\r\n\r\n{\"stats\":[{\"name\":\"http.admin.downstream_rq_active\",\"value\":1},\
                      {\"name\":\"http.ingress.downstream_rq_active\",\"value\":2},\
                      {\"name\":\"http.internal.downstream_rq_active\",\"value\":3},{\"histograms\":{}}]}";
        let (_directory, admin, served) = answering(answer).await;
        assert_eq!(admin.requests_in_flight().await.expect("answered"), 5);
        assert!(
            served
                .await
                .expect("served")
                .starts_with("GET /stats?format=json&type=Gauges&filter=")
        );
    }

    #[tokio::test]
    async fn requests_ever_begun_are_counters() {
        let answer = "HTTP/1.1 200 OK\r\n\r\n{\"stats\":[{\"name\":\"http.admin.downstream_rq_completed\",\"value\":9},\
                      {\"name\":\"http.a.b.downstream_rq_completed\",\"value\":2}]}";
        let (_directory, admin, served) = answering(answer).await;
        let begun = admin.answered_by_listener().await.expect("answered");
        assert_eq!(begun, BTreeMap::from([("a.b".to_owned(), 2)]));
        let path = "GET /stats?format=json&type=Counters&filter=%5Ehttp%5C..*%5C.downstream_rq_completed%24 ";
        assert!(served.await.expect("served").starts_with(path));
    }

    #[tokio::test]
    async fn endpoints_are_known_by_address_and_by_name() {
        let answer = r#"{"cluster_statuses":[{"name":"a","host_statuses":[
            {"address":{"socket_address":{"address":"127.0.0.1","port_value":80}},"hostname":"localhost",
             "stats":[{"name":"rq_active","type":"GAUGE","value":"7"},{"name":"cx_active","type":"GAUGE"}]},
            {"address":{"pipe":{"path":"/run/b.sock"}},"stats":[{"name":"rq_active","type":"GAUGE"}]}]},
            {"name":"b","host_statuses":[
            {"address":{"socket_address":{"address":"127.0.0.1","port_value":80}},
             "stats":[{"name":"rq_active","value":"1"},{"name":"rq_total","value":"5"}]}]},{"name":"empty"}]}"#;
        let (_directory, admin, _served) = answering(Box::leak(
            format!("HTTP/1.1 200 OK\r\n\r\n{answer}").into_boxed_str(),
        ))
        .await;
        let requests = admin.requests_by_endpoint().await.expect("answered");
        assert_eq!(
            requests.get("127.0.0.1:80").and_then(|requests| requests.begun),
            Some(5)
        );
        let counts: HashMap<_, _> = requests
            .into_iter()
            .map(|(name, requests)| (name, requests.in_flight))
            .collect();
        assert_eq!(
            counts.get("127.0.0.1:80"),
            Some(&8),
            "over all clusters: {counts:?}"
        );
        assert_eq!(counts.get("localhost:80"), Some(&7));
        assert_eq!(counts.get("unix:/run/b.sock"), Some(&0), "0 is left out by Envoy");
    }

    #[tokio::test]
    async fn commands_are_posted_and_a_refusal_is_an_error() {
        let (_directory, admin, served) = answering("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nOK\n").await;
        admin.stop_accepting().await.expect("answered");
        assert_eq!(served.await.expect("served"), "POST /drain_listeners HTTP/1.1");
        let (_directory, admin, served) = answering("HTTP/1.1 405 No\r\ncontent-length: 0\r\n\r\n").await;
        let error = admin.fail_health().await.expect_err("refused").to_string();
        assert_eq!(error, "admin: /healthcheck/fail answered 405 Method Not Allowed");
        assert_eq!(served.await.expect("served"), "POST /healthcheck/fail HTTP/1.1");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_is_not_waited_for() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("admin.sock");
        let _listener = UnixListener::bind(&path).expect("bound");
        let error = Admin(Address::Unix(path))
            .restore_health()
            .await
            .expect_err("no answer");
        assert!(error.to_string().ends_with("did not answer within 1s"), "{error}");
    }

    #[tokio::test]
    async fn nonsense_and_nobody_are_errors() {
        let (_directory, admin, _served) = answering("HTTP/1.1 200 OK\r\n\r\nhello").await;
        let error = admin.requests_in_flight().await.expect_err("no JSON").to_string();
        assert!(
            error.starts_with("admin: /stats answered what is not understood"),
            "{error}"
        );
        let (_directory, admin, _served) = answering("SSH-2.0-hello\r\n\r\n").await;
        assert!(admin.requests_in_flight().await.is_err());
        let directory = tempfile::tempdir().expect("temporary directory");
        let admin = Admin(Address::Unix(directory.path().join("nobody")));
        let error = admin.requests_in_flight().await.expect_err("nobody").to_string();
        assert!(error.contains("cannot connect to unix:"), "{error}");
    }
}
