//! HAProxy as a TCP load balancer that asks every replica's `/ready`.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::{
    bins,
    ports::Port,
    process::{Process, Spec},
    wait,
};

/// How often `/ready` is asked. One answer decides.
pub const CHECK_EVERY: Duration = Duration::from_millis(100);

/// One server behind the load balancer.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Where its traffic goes.
    pub address: SocketAddr,
    /// Where its `/ready` is.
    pub health: SocketAddr,
}

/// A running HAProxy; dropping it kills it.
#[derive(Debug)]
pub struct HaProxy {
    process: Process,
    port: Port,
    socket: PathBuf,
}

impl HaProxy {
    /// Starts it with its files in `folder`.
    ///
    /// # Errors
    /// When it is not there or cannot be started.
    pub fn start(folder: &Path, servers: &[Server]) -> Result<Self> {
        let port = Port::reserve()?;
        let socket = folder.join("lb.sock");
        let mut lines: Vec<String> = servers
            .iter()
            .enumerate()
            .map(|(index, server)| {
                let (address, health) = (server.address, server.health.port());
                let every = CHECK_EVERY.as_millis();
                format!("  server s{index} {address} check port {health} inter {every}ms fall 1 rise 1")
            })
            .collect();
        lines.push(String::new());
        let configuration = format!(
            "global\n  stats socket {socket} mode 600\n\
             defaults\n  mode tcp\n  timeout connect 2s\n  timeout client 60s\n  timeout server 60s\n  timeout check 1s\n\
             frontend in\n  bind {address}\n  default_backend replicas\n\
             backend replicas\n  balance roundrobin\n  option redispatch 1\n  retries 3\n  option httpchk\n  \
             http-check send meth GET uri /ready ver HTTP/1.1 hdr Host lb\n{servers}",
            socket = socket.display(),
            address = port.address(),
            servers = lines.join("\n"),
        );
        let file = folder.join("haproxy.cfg");
        fs::write(&file, configuration)?;
        let process = Process::spawn(Spec {
            name: "haproxy".to_owned(),
            program: bins::haproxy()?,
            args: ["-db".into(), "-f".into(), file.into()].into(),
            env: Vec::new(),
            log: folder.join("haproxy.log"),
            show_log: true,
        })?;
        Ok(Self {
            process,
            port,
            socket,
        })
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Waits until so many servers are up.
    ///
    /// # Errors
    /// When they are not in time, or HAProxy has ended.
    pub async fn wait_up(&mut self, count: usize) -> Result<()> {
        self.process.check_running()?;
        wait::until(format!("{count} servers are up"), wait::PATIENCE, || async {
            let mut stream = UnixStream::connect(&self.socket)
                .await
                .context("no stats socket")?;
            stream.write_all(b"show stat\n").await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            let up = text
                .lines()
                .filter(|line| line.starts_with("replicas,s") && line.contains(",UP,"));
            Ok(up.count() == count)
        })
        .await
    }
}
