//! HAProxy as a TCP load balancer that asks every replica's `/ready`, and tries nothing twice.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
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

/// How often `/ready` is asked unless the caller says otherwise. One answer decides.
pub const CHECK_EVERY: Duration = Duration::from_millis(100);

/// One server behind the load balancer.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Where its traffic goes.
    pub address: SocketAddr,
    /// Where its `/ready` is: Ebb's or Envoy's.
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
        Self::start_checking(folder, servers, CHECK_EVERY, true)
    }

    /// As [`HaProxy::start`], asking `/ready` this often; whether the end of its log is printed when it is dropped.
    ///
    /// # Errors
    /// As [`HaProxy::start`].
    pub fn start_checking(
        folder: &Path,
        servers: &[Server],
        every: Duration,
        show_log: bool,
    ) -> Result<Self> {
        let port = Port::reserve()?;
        let socket = folder.join("haproxy.sock");
        let file = folder.join("haproxy.cfg");
        fs::write(&file, configuration(port.address(), &socket, servers, every))?;
        let process = Process::spawn(Spec {
            name: "haproxy".to_owned(),
            program: bins::haproxy()?,
            args: ["-db".into(), "-f".into(), file.into()].into(),
            env: Vec::new(),
            log: folder.join("haproxy.log"),
            show_log,
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

    /// Waits until so many servers are up, by its own word.
    ///
    /// # Errors
    /// When they are not in time, or HAProxy has ended.
    pub async fn wait_up(&mut self, count: usize) -> Result<()> {
        self.process.check_running()?;
        wait::until(
            format!("HAProxy calls {count} servers up"),
            wait::PATIENCE,
            || async {
                let up = self
                    .stats()
                    .await?
                    .into_iter()
                    .filter(|(_, status)| status == "UP");
                Ok(up.count() == count)
            },
        )
        .await
    }

    /// Sends a server, by its place among those given at the start, no further connections, whatever its health; those
    /// that it has go on. This is what a load balancer does that is told of a removal rather than finding out.
    ///
    /// # Errors
    /// When HAProxy does not answer, or refuses.
    pub async fn leave_out(&self, server: usize) -> Result<()> {
        self.set_state(server, "drain").await
    }

    /// Undoes [`HaProxy::leave_out`]: its health decides again.
    ///
    /// # Errors
    /// As [`HaProxy::leave_out`].
    pub async fn take_back(&self, server: usize) -> Result<()> {
        self.set_state(server, "ready").await
    }

    async fn set_state(&self, server: usize, state: &str) -> Result<()> {
        let answer = self
            .command(&format!("set server replicas/s{server} state {state}"))
            .await?;
        ensure!(
            answer.trim().is_empty(),
            "HAProxy does not set s{server} to {state}: {}",
            answer.trim()
        );
        Ok(())
    }

    /// Sends one command to the stats socket and returns the answer.
    async fn command(&self, command: &str) -> Result<String> {
        let asking = async {
            let mut stream = UnixStream::connect(&self.socket)
                .await
                .context("no stats socket")?;
            stream.write_all(format!("{command}\n").as_bytes()).await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            anyhow::Ok(text)
        };
        wait::within(format!("HAProxy answers `{command}`"), wait::PATIENCE, asking).await?
    }

    /// Every server with its status.
    async fn stats(&self) -> Result<Vec<(String, String)>> {
        // Only servers (4) of any proxy (-1), as comma-separated values under a line of their names.
        let text = self.command("show stat -1 4 -1").await?;
        let mut lines = text
            .trim_start_matches("# ")
            .lines()
            .filter(|line| !line.is_empty());
        let names: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
        let column = |line: &str, name: &str| {
            let place = names.iter().position(|candidate| *candidate == name);
            place
                .and_then(|place| line.split(',').nth(place))
                .unwrap_or_default()
                .to_owned()
        };
        Ok(lines
            .map(|line| (column(line, "svname"), column(line, "status")))
            .collect())
    }
}

/// Without `retries` and `redispatch` a connection that a server refuses is the client's failure.
fn configuration(address: SocketAddr, socket: &Path, servers: &[Server], every: Duration) -> String {
    let every = every.as_millis();
    let servers = servers.iter().enumerate().map(|(number, server)| {
        let Server { address, health } = server;
        format!(
            "  server s{number} {address} check addr {} port {} inter {every}ms fall 1 rise 1\n",
            health.ip(),
            health.port()
        )
    });
    format!(
        "global\n  stats socket {socket} mode 600 level admin\n\
         defaults\n  mode tcp\n  timeout connect 2s\n  timeout client 60s\n  timeout server 60s\n  timeout check 1s\n\
         frontend in\n  bind {address}\n  default_backend replicas\n\
         backend replicas\n  balance roundrobin\n  retries 0\n  option httpchk\n  \
         http-check send meth GET uri /ready ver HTTP/1.1 hdr Host lb\n{servers}",
        socket = socket.display(),
        servers = servers.collect::<String>(),
    )
}
