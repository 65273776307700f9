//! What a drain rests on, and what closes: the filter, or Envoy by itself, and what happens when either is lost.

mod admin;
mod beside;
mod choice;
mod lost;

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Result;
use ebb_e2e::{
    api::{Client, drain_of, proto},
    client::{Failure, Response, http1},
    load::{Load, Plan, Protocol},
    wait,
    world::World,
};
use ebb_proto::v1::{Drain, Phase, Policy, StartDrainRequest};
use tokio::task::JoinHandle;

/// How long a drain is looked at that must not end.
const LOOK: Duration = Duration::from_secs(2);

fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// A drain of the listeners, or of whole nodes if there is none, with this deadline.
fn within(listeners: &[&str], timeout: Duration) -> StartDrainRequest {
    let timeout = Some(proto(timeout));
    StartDrainRequest {
        policy: Some(Policy {
            timeout,
            ..Policy::default()
        }),
        ..drain_of(listeners)
    }
}

/// Load on both listeners, which ends well or fails the test.
fn load_on(world: &World) -> Result<Load> {
    Ok(load_at(&[world.ingress()?, world.internal()?]))
}

/// The same on `internal` alone.
fn load_on_internal(world: &World) -> Result<Load> {
    Ok(load_at(&[world.internal()?]))
}

fn load_at(addresses: &[SocketAddr]) -> Load {
    let mut plans = Vec::new();
    for address in addresses {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            plans.push(Plan {
                address: *address,
                protocol,
                clients: 2,
                interval: Duration::from_millis(10),
                path: "/delay/5".to_owned(),
            });
        }
    }
    Load::start(&plans)
}

async fn stop(load: Load) -> Result<()> {
    load.wait_for_requests(50).await?;
    let tally = load.stop().await;
    assert_eq!(tally.failed(), 0, "{tally:?}");
    Ok(())
}

type Held = JoinHandle<Result<Response, Failure>>;

/// A request on `ingress` that the upstream holds.
async fn hold(world: &World) -> Result<Held> {
    let (address, count) = (world.ingress()?, world.upstream.held() + 1);
    let held = tokio::spawn(async move { http1::Connection::open(address).await?.get("/hold").await });
    world.upstream.wait_held(count).await?;
    Ok(held)
}

async fn ended(client: &Client, id: &str, bound: Duration) -> Result<Drain> {
    wait::eventually(format!("drain {id} ends"), bound, || {
        let mut client = client.clone();
        async move {
            let drain = client.drain(id).await?;
            let running = matches!(drain.phase(), Phase::Announced | Phase::Draining | Phase::Quiet);
            Ok((!running).then_some(drain))
        }
    })
    .await
}

async fn drain_that(
    client: &Client,
    id: &str,
    what: &str,
    holds: impl Fn(&Drain) -> bool + Copy,
) -> Result<Drain> {
    wait::eventually(format!("drain {id}: {what}"), wait::PATIENCE, || {
        let mut client = client.clone();
        async move { Ok(Some(client.drain(id).await?).filter(holds)) }
    })
    .await
}

/// Fails if a drain does anything but wait for a while.
async fn goes_on_draining(client: &mut Client, id: &str) -> Result<()> {
    let until = tokio::time::Instant::now() + LOOK;
    while tokio::time::Instant::now() < until {
        let drain = client.drain(id).await?;
        assert!(
            matches!(drain.phase(), Phase::Draining | Phase::Quiet),
            "{drain:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn warned(drain: &Drain, words: &[&str]) -> bool {
    let has_all = |warning: &String| words.iter().all(|word| warning.contains(word));
    drain.warnings.iter().any(has_all)
}

/// Whether a connection is told to close, and closed.
async fn closes(world: &World) -> Result<bool> {
    let mut connection = http1::Connection::open(world.ingress()?).await?;
    let told = connection.get("/").await?.says_close();
    Ok(told && connection.closed_within(wait::PATIENCE).await)
}

async fn serves(world: &World) -> Result<()> {
    wait::until("connections are kept again", wait::PATIENCE, || async {
        let mut connection = http1::Connection::open(world.ingress()?).await?;
        let first = connection.get("/").await?;
        Ok(!first.says_close() && connection.get("/").await.is_ok_and(|second| !second.says_close()))
    })
    .await
}

/// Waits until the control plane knows whose admin endpoint it has.
async fn admin_found(world: &World) -> Result<()> {
    wait::until("the admin endpoint is found", wait::PATIENCE, || async {
        Ok(world.ebb.log().contains("admin endpoint found"))
    })
    .await
}
