//! Clients that were idle when a drain began: told while the drain waits for them, if that is wanted.

use std::time::Duration;

use anyhow::Result;
use ebb_e2e::{client::http1, envoy::EnvoyOptions, wait, world::World};

use super::{Waiting, only_drain};

#[tokio::test]
async fn an_idle_client_is_told_within_the_time_that_the_policy_gives_it() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let mut idle = http1::Connection::open(world.ingress()?).await?;
    assert!(!idle.get("/").await?.says_close());
    let drain = [
        "drain",
        "--listener",
        "ingress",
        "--wait",
        "--idle",
        "3s",
        "-o",
        "json",
    ];
    let drain = Waiting::on(world.ebb.cli_start(&drain)?);
    let mut client = world.client().await?;
    let id = only_drain(&client).await?.id;
    wait::until("nothing is in flight for a while", wait::PATIENCE, || {
        let mut client = client.clone();
        let id = id.clone();
        async move {
            let elapsed = client.drain(&id).await?.elapsed.unwrap_or_default();
            Ok(elapsed.seconds >= 1)
        }
    })
    .await?;
    // A quiet period alone would have ended it by now, and whoever stops Envoy then would cut the next request.
    assert!(
        !drain.0.is_finished(),
        "the drain has ended before its client could be told"
    );
    assert!(idle.get("/").await?.says_close());
    assert!(idle.closed_within(wait::PATIENCE).await);
    let ended = drain.ended().await?;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let elapsed = client
        .drain(&id)
        .await?
        .elapsed
        .and_then(|elapsed| Duration::try_from(elapsed).ok());
    assert!(elapsed >= Some(Duration::from_secs(3)), "{elapsed:?}");
    let report = client.report(&id).await?;
    assert_eq!(
        (report.connections_told, report.idle_connections_told),
        (1, 1),
        "{report:?}"
    );
    Ok(())
}
