//! A real Envoy, and what it serves from; dropped, nothing of it is left.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use ebb::{
    core::outstanding::Outstanding,
    outside::{Look, look},
};
use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt::set_socket_recv_buffer_size};
use serde_json::{Value, json};

/// The bound for what takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Envoy {
    child: Child,
    directory: tempfile::TempDir,
}

/// Both Envoys that are supported: `ENVOY_BIN` else `dist/envoy`, and `ENVOY_BIN_1_37` else the one that the build fetches.
pub(crate) fn binaries() -> [PathBuf; 2] {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let find = |variable: &str, path: &str| {
        std::env::var_os(variable).map_or_else(|| repository.join(path), PathBuf::from)
    };
    [
        find("ENVOY_BIN", "dist/envoy"),
        find("ENVOY_BIN_1_37", ".cache/envoy-1.37.0/bin/envoy"),
    ]
}

/// Asks until there is an answer.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(value) = probe() {
            return value;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("waited {PATIENCE:?} in vain: {what}");
}

impl Envoy {
    /// Starts it with these listeners and clusters, and waits until it serves.
    pub(crate) fn start(binary: &Path, listeners: &[Value], clusters: &[Value]) -> Self {
        let (directory, path) = configuration(listeners, clusters);
        let log = std::fs::File::create(directory.path().join("log")).expect("log");
        let child = Command::new(binary)
            .arg("-c")
            .arg(&path)
            .args(["--use-dynamic-base-id", "--concurrency", "2", "-l", "warning"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}: `make build` fetches it", binary.display()));
        let mut envoy = Self { child, directory };
        eventually("Envoy serves", || {
            if let Ok(Some(status)) = envoy.child.try_wait() {
                panic!("Envoy has ended: {status}");
            }
            envoy
                .ask("GET", "/ready")
                .filter(|answer| answer.contains("LIVE"))
        });
        envoy
    }

    /// Whether it takes this configuration.
    pub(crate) fn accepts(binary: &Path, listeners: &[Value], clusters: &[Value]) -> bool {
        let (_directory, path) = configuration(listeners, clusters);
        let mut validate = Command::new(binary);
        validate.args(["--mode", "validate", "-l", "off", "-c"]).arg(path);
        let output = validate.stdin(Stdio::null()).output();
        output.expect("Envoy runs").status.success()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn admin(&self) -> ebb::supervisor::admin::Admin {
        ebb::supervisor::admin::Admin(ebb::address::Address::Unix(self.socket()))
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("admin.sock")
    }

    /// What its admin endpoint answers; `None` while nobody does.
    pub(crate) fn ask(&self, method: &str, path: &str) -> Option<String> {
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// A counter or gauge.
    pub(crate) fn stat(&self, name: &str) -> u64 {
        let answer = self.ask("GET", "/stats").expect("an answer");
        let value = answer
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value
            .unwrap_or_else(|| panic!("no {name}"))
            .trim()
            .parse()
            .expect("a number")
    }

    /// Where a listener accepts.
    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        let answer = self.ask("GET", "/listeners").expect("an answer");
        let line = answer
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{listener}::")));
        line.expect("there").parse().expect("an address")
    }

    pub(crate) fn connect(&self, listener: &str) -> TcpStream {
        let stream = TcpStream::connect(self.address(listener)).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream
    }

    /// A client whose kernel takes but a few kilobytes.
    pub(crate) fn connect_narrowly(&self, listener: &str) -> TcpStream {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        set_socket_recv_buffer_size(&socket, 4096).expect("set");
        connect(&socket, &self.address(listener)).expect("connected");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream
    }
}

/// Looks until it is as wanted.
pub(crate) async fn sees(what: &str, at: &Look, wanted: impl Fn(&Outstanding) -> bool) -> Outstanding {
    let start = Instant::now();
    let mut last = Outstanding::default();
    while start.elapsed() < PATIENCE {
        last = look(at.clone()).await;
        if wanted(&last) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited {PATIENCE:?} in vain: {what}; the last look: {last:?}");
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.path().join("log"));
            eprintln!("--- Envoy's log\n{}", log.unwrap_or_default());
        }
    }
}

fn configuration(listeners: &[Value], clusters: &[Value]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let config = json!({
        "node": { "id": "edge", "cluster": "tests" },
        "admin": { "address": { "pipe": { "path": directory.path().join("admin.sock") } } },
        "static_resources": { "listeners": listeners, "clusters": clusters },
    });
    let path = directory.path().join("envoy.json");
    std::fs::write(&path, config.to_string()).expect("configuration");
    (directory, path)
}

pub(crate) fn listener(name: &str, chains: Value) -> Value {
    json!({ "name": name, "stat_prefix": name, "filter_chains": chains,
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } } })
}

/// A filter chain that routes all to the cluster `up`; `more` is added to the route, and `manager` to the manager.
pub(crate) fn http(prefix: &str, more: &Value, manager: &Value) -> Value {
    let mut route = json!({ "cluster": "up" });
    merge(&mut route, more);
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": prefix,
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": route }] }] },
        "http_filters": [{ "name": "router", "typed_config":
            { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } }],
    });
    merge(&mut config, manager);
    json!({ "filters": [{ "name": "http", "typed_config": config }] })
}

pub(crate) fn tcp(prefix: &str, cluster: &str) -> Value {
    json!({ "filters": [{ "name": "tcp", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": prefix, "cluster": cluster,
    } }] })
}

pub(crate) fn cluster(name: &str, address: SocketAddr, more: &Value) -> Value {
    let endpoint = json!({ "address": { "socket_address":
        { "address": address.ip().to_string(), "port_value": address.port() } } });
    let mut cluster = json!({ "name": name, "connect_timeout": "5s", "load_assignment": {
        "cluster_name": name, "endpoints": [{ "lb_endpoints": [{ "endpoint": endpoint }] }] } });
    merge(&mut cluster, more);
    cluster
}

fn merge(into: &mut Value, more: &Value) {
    let (Some(into), Some(more)) = (into.as_object_mut(), more.as_object()) else {
        return;
    };
    into.extend(more.clone());
}

/// Serves every connection in a thread of its own until the test ends.
pub(crate) fn serve(each: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let each = each.clone();
            std::thread::spawn(move || each(stream));
        }
    });
    address
}

/// Sends back what it gets.
pub(crate) fn echo(mut stream: TcpStream) {
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut chunk) {
        if stream.write_all(chunk.get(..read).unwrap_or_default()).is_err() {
            return;
        }
    }
}

/// Answers each request with so many bytes as its path says.
pub(crate) fn answer(mut stream: TcpStream) {
    while let Some(path) = head(&mut stream) {
        let length: usize = path.trim_start_matches('/').parse().unwrap_or(2);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        if stream.write_all(head.as_bytes()).is_err() || stream.write_all(&vec![b'x'; length]).is_err() {
            return;
        }
    }
}

/// Reads the head of a request, which has no body, and gives its path; `None` at the end.
pub(crate) fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    head.split(' ').nth(1).map(str::to_owned)
}
