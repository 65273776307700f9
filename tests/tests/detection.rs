//! The figure that Ebb is measured by: from the last request's end to the end of `ebb drain --wait`.

use std::time::Duration;

use anyhow::Result;
use ebb_e2e::{client::http1, envoy::EnvoyOptions, wait, world::World};
use ebb_proto::v1::Phase;
use tokio::time::Instant;

const ROUNDS: usize = 20;
const QUIET_PERIOD: Duration = Duration::from_millis(200);
const MARGIN: Duration = Duration::from_millis(50);

/// One drain: from the last byte of the last response at the client to the end of the command.
async fn detection(world: &World) -> Result<Duration> {
    let mut client = world.client().await?;
    let address = world.ingress()?;
    let held = tokio::spawn(async move {
        let response = http1::Connection::open(address).await?.get("/hold").await?;
        Ok::<_, anyhow::Error>((response, Instant::now()))
    });
    world.upstream.wait_held(1).await?;
    let command = world
        .ebb
        .cli_start(&["drain", "--listener", "ingress", "--wait", "-o", "json"])?;
    let drain = wait::eventually("the drain waits for the request", wait::PATIENCE, || {
        let mut client = client.clone();
        async move {
            let drains = client.drains().await?;
            Ok(drains
                .into_iter()
                .find(|drain| drain.phase() == Phase::Draining && drain.in_flight == 1))
        }
    })
    .await?;
    world.upstream.release_all();
    let output = command.output().await?;
    let ended = Instant::now();
    let (response, last_end) = held.await??;
    assert_eq!(response.status, 200);
    assert_eq!(output.code, Some(0), "{output:?}");
    client.cancel(&drain.id).await?;
    Ok(ended.duration_since(last_end))
}

#[tokio::test]
async fn median_of_20_detections_is_within_quiet_period_and_50_ms() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let time = detection(&world).await?;
        // A drain never ends early: the request's end at the client is a moment later than at Envoy.
        assert!(
            time > QUIET_PERIOD - Duration::from_millis(20),
            "ended before the quiet period: {time:?}"
        );
        times.push(time);
    }
    times.sort_unstable();
    let median = (times[ROUNDS / 2 - 1] + times[ROUNDS / 2]) / 2;
    println!("from the last request's end to the end of `ebb drain --wait`: median {median:?} of {times:?}");
    assert!(median <= QUIET_PERIOD + MARGIN, "median {median:?} of {times:?}");
    Ok(())
}
