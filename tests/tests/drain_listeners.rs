//! What Envoy does on `POST /drain_listeners`, which `ebb run` sends before it signals Envoy; see `docs/envoy-notes.md`.

use std::time::Duration;

use anyhow::Result;
use ebb_e2e::{bins::EnvoyVersion, client::http1, envoy::EnvoyOptions, wait, world::World};
use hyper::Method;
use tokio::{net::TcpStream, time::Instant};

/// Envoy's `--drain-time-s`, 600 s unless it is told otherwise. With 15 s or less 1.40 closes no idle connection.
const DRAIN_TIME: Duration = Duration::from_secs(16);

/// How far Envoy, on a busy machine, may be from it.
const SLACK: Duration = Duration::from_secs(6);

/// What open connections see of it.
#[derive(Debug)]
struct Seen {
    /// When a response first said that its connection is closed.
    told: Option<Duration>,
    /// When the idle connection was closed.
    idle_closed: Option<Duration>,
}

async fn closed_listeners(version: EnvoyVersion) -> Result<Seen> {
    let world = World::start(EnvoyOptions {
        version,
        args: &["--drain-time-s", "16"],
        ..EnvoyOptions::default()
    })
    .await?;
    let address = world.ingress()?;
    let mut idle = http1::Connection::open(address).await?;
    assert_eq!(idle.get("/").await?.status, 200);
    let mut busy = Vec::new();
    for _ in 0..4 {
        let mut connection = http1::Connection::open(address).await?;
        assert_eq!(connection.get("/").await?.status, 200);
        busy.push(connection);
    }
    let began = Instant::now();
    world.envoy.admin(Method::POST, "/drain_listeners").await?;
    wait::until("nobody accepts any more", wait::PATIENCE, || async {
        Ok(TcpStream::connect(address).await.is_err())
    })
    .await?;
    let watching = tokio::spawn(async move {
        let closed = idle.closed_within(DRAIN_TIME + SLACK).await;
        closed.then(|| began.elapsed())
    });
    // Whoever is told leaves; the others go on.
    let mut told = None;
    while began.elapsed() < DRAIN_TIME + SLACK && !busy.is_empty() {
        for mut connection in std::mem::take(&mut busy) {
            let Ok(response) = connection.get("/").await else {
                // Closed by then, as an idle one is.
                continue;
            };
            assert_eq!(response.status, 200, "requests on open connections are served");
            if response.says_close() {
                told.get_or_insert(began.elapsed());
            } else {
                busy.push(connection);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let idle_closed = watching.await?;
    println!("{version:?}: told after {told:?}, idle closed after {idle_closed:?}");
    Ok(Seen { told, idle_closed })
}

#[tokio::test]
async fn since_1_40_listeners_that_are_closed_begin_a_drain_sequence() -> Result<()> {
    let (new, old) = tokio::join!(
        closed_listeners(EnvoyVersion::V1_40),
        closed_listeners(EnvoyVersion::V1_37)
    );
    let (new, old) = (new?, old?);
    // By chance, which grows with the time; the idle connection near its end.
    assert!(new.told.is_some_and(|after| after < DRAIN_TIME), "{new:?}");
    assert!(
        new.idle_closed.is_some_and(|after| after > DRAIN_TIME / 2),
        "{new:?}"
    );
    assert!(old.told.is_none() && old.idle_closed.is_none(), "{old:?}");
    Ok(())
}
