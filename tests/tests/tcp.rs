//! Raw TCP sessions: what serves them is not stopped under them, and their listener can be drained by name.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    bins::EnvoyVersion,
    bootstrap::Bootstrap,
    cli,
    gateway::{Gateway, setup::Setup},
    ports::Port,
    upstream::Upstream,
    world::folder,
};
use ebb_proto::v1::ProcessState;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Exchanges that take several times as long as a stop without them.
const ROUNDS: usize = 40;

/// Between two of them.
const PAUSE: Duration = Duration::from_millis(25);

/// A server that sends back what it gets.
struct Echo {
    address: std::net::SocketAddr,
    accepting: JoinHandle<()>,
}

impl Echo {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(async move {
            let mut sessions = tokio::task::JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                sessions.spawn(async move {
                    let (mut read, mut write) = stream.split();
                    // A client that leaves is no event.
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        Ok(Self { address, accepting })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Adds the listener `db`, which passes raw TCP on to the cluster `sessions`.
fn add_tcp(bootstrap: &mut Bootstrap, port: u16) -> Result<()> {
    let listeners = bootstrap.value_mut().pointer_mut("/static_resources/listeners");
    let listeners = listeners.and_then(Value::as_array_mut).context("no listeners")?;
    listeners.push(json!({
        "name": "db", "stat_prefix": "db",
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": port } },
        "filter_chains": [{ "filters": [{ "name": "tcp", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "db_tcp", "cluster": "sessions",
        } }] }],
    }));
    Ok(())
}

async fn exchange(session: &mut TcpStream) -> Result<()> {
    session.write_all(b"ping").await?;
    let mut echoed = [0; 4];
    session
        .read_exact(&mut echoed)
        .await
        .context("the session is cut")?;
    ensure!(&echoed == b"ping");
    Ok(())
}

/// Uses a session for a while; each exchange has to succeed.
async fn goes_on(session: &mut TcpStream) -> Result<()> {
    for round in 0..ROUNDS {
        exchange(session)
            .await
            .with_context(|| format!("round {round}"))?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// A gateway with the listener `db` beside its own.
struct Site {
    gateway: Gateway,
    port: Port,
    _echo: Echo,
    _upstream: Upstream,
    _folder: TempDir,
}

impl Site {
    async fn start() -> Result<Self> {
        let folder = folder()?;
        let (upstream, echo, port) = (Upstream::start().await?, Echo::start().await?, Port::reserve()?);
        let policy_engine = Path::new(env!("CARGO_BIN_EXE_policy-engine"));
        let mut setup = Setup::new(
            folder.path(),
            EnvoyVersion::V1_40,
            upstream.address(),
            policy_engine,
        )?;
        add_tcp(&mut setup.envoy, port.address().port())?;
        setup.envoy.add_cluster("sessions", echo.address)?;
        setup.set(&["drain", "timeout"], "60s")?;
        setup.set(&["shutdown", "grace_period"], "90s")?;
        Ok(Self {
            gateway: Gateway::start(setup).await?,
            port,
            _echo: echo,
            _upstream: upstream,
            _folder: folder,
        })
    }

    async fn session(&self) -> Result<TcpStream> {
        let mut session = TcpStream::connect(self.port.address()).await?;
        exchange(&mut session).await?;
        Ok(session)
    }
}

#[tokio::test]
async fn ebb_run_stops_an_envoy_when_its_last_session_has_ended() -> Result<()> {
    let mut site = Site::start().await?;
    let mut session = site.session().await?;
    site.gateway.signal(Signal::TERM)?;
    site.gateway.in_state("router", ProcessState::Draining).await?;
    goes_on(&mut session).await?;
    drop(session);
    ensure!(site.gateway.ended().await?.success());
    let log = site.gateway.log();
    ensure!(
        !log.contains("not in time") && !log.contains("timed out"),
        "{log}"
    );
    Ok(())
}

#[tokio::test]
async fn a_tcp_listener_is_drained_by_its_name() -> Result<()> {
    let site = Site::start().await?;
    let mut session = site.session().await?;
    let socket = site.gateway.setup().socket();
    for name in ["db", "db_tcp"] {
        let drain = [
            "drain",
            "--listener",
            name,
            "--timeout",
            "60s",
            "--wait",
            "-o",
            "json",
        ];
        let waiting = cli::start(&socket, &drain)?;
        let ended = tokio::spawn(waiting.output());
        goes_on(&mut session).await?;
        ensure!(
            !ended.is_finished(),
            "{name}: a session is left: {:?}",
            ended.await?
        );
        drop(session);
        let output = ended.await??;
        ensure!(
            output.code == Some(0) && output.json()?["outcome"] == "drained",
            "{output:?}"
        );
        session = site.session().await?;
    }
    let unknown = cli::start(&socket, &["drain", "--listener", "dbx"])?
        .output()
        .await?;
    ensure!(
        unknown.code == Some(1) && unknown.stderr.contains("known: db, db_tcp, ingress, internal"),
        "{unknown:?}"
    );
    Ok(())
}
