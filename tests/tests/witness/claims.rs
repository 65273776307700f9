//! A hostile reporter: it takes no other's place, and its answers end nothing.

use std::time::Duration;

use anyhow::Result;
use ebb_e2e::{envoy::EnvoyOptions, wait, world::World};
use ebb_proto::v1::{FilterHello, FilterReport, ListenerCounts, filter_service_client::FilterServiceClient};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::{Waiting, answered, hold, only_drain};

fn claim(node: &str, epoch: u64) -> FilterReport {
    FilterReport {
        hello: Some(FilterHello {
            node_id: node.to_owned(),
            process: 1,
            epoch,
            version: "0".to_owned(),
            ..FilterHello::default()
        }),
        listeners: vec![ListenerCounts {
            name: "ingress".to_owned(),
            ..ListenerCounts::default()
        }],
        // Of asks that were never put.
        answers: 1 << 63,
        goodbye: true,
        ..FilterReport::default()
    }
}

#[tokio::test]
async fn whoever_claims_the_epoch_of_another_is_refused_and_its_drain_goes_on() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let held = hold(&world.upstream, world.ingress()?, 7).await?;
    let drain = Waiting::on(
        world
            .ebb
            .cli_start(&["drain", "--listener", "ingress", "--wait"])?,
    );
    let mut client = world.client().await?;
    only_drain(&client).await?;
    let nodes = client.nodes().await?;
    for reporter in &nodes[0].reporters {
        let epoch = u64::from_str_radix(&reporter.id, 16)?;
        for node in ["edge-9", "edge-1"] {
            let (reports, outgoing) = mpsc::channel(4);
            reports.send(claim(node, epoch)).await?;
            let mut filter = FilterServiceClient::new(client.channel());
            let mut commands = filter.attach(ReceiverStream::new(outgoing)).await?.into_inner();
            let refused = wait::within("the claim is refused", wait::PATIENCE, commands.message()).await?;
            let refused = refused.expect_err("no command");
            assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        }
    }
    drain.goes_on(&world.upstream, "claimed").await;
    assert!(world.ebb.log().contains("a filter's stream is refused"));
    world.upstream.release_all();
    answered(held).await?;
    assert_eq!(drain.ended().await?.code, Some(0));
    Ok(())
}

#[tokio::test]
async fn answers_to_what_was_never_asked_end_no_drain() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let client = world.client().await?;
    let (reports, outgoing) = mpsc::channel(64);
    let first = FilterReport {
        goodbye: false,
        ..claim("edge-9", 99)
    };
    reports.send(first.clone()).await?;
    let mut filter = FilterServiceClient::new(client.channel());
    let _commands = filter.attach(ReceiverStream::new(outgoing)).await?.into_inner();
    wait::until("it is attached", wait::PATIENCE, || {
        let mut client = client.clone();
        async move { Ok(client.nodes().await?.len() == 2) }
    })
    .await?;
    let drain = ["drain", "--node", "edge-9", "--wait", "--timeout", "1s"];
    let drain = Waiting::on(world.ebb.cli_start(&drain)?);
    only_drain(&client).await?;
    // It has not heard of the drain: what it says is of before, and no answer to it.
    while !drain.0.is_finished() {
        let late = FilterReport {
            hello: None,
            answers: 0,
            ..first.clone()
        };
        // A full queue will do: it is read as fast as it can be.
        let _ = reports.try_send(late);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ended = drain.ended().await?;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    Ok(())
}
