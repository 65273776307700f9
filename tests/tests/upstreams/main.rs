//! Attempts in flight per upstream endpoint: as a listener's plugin knows them, and as a cluster's does.
#![allow(clippy::indexing_slicing)] // JSON values

mod drain;
mod printed;
mod world;

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use ebb_e2e::{bins::EnvoyVersion, client::websocket, on_both_envoys, vms::Vms, wait};
use ebb_proto::v1::Directive;
use futures::SinkExt as _;
use tokio_tungstenite::tungstenite::Message;

use self::world::{Mode, World};

on_both_envoys!(
    listeners_know_an_endpoint_from_its_response_headers_on,
    listeners_count_the_last_of_several_tries,
    listeners_leave_an_answer_of_envoys_own_without_an_endpoint,
    clusters_know_an_endpoint_from_the_first_byte_on,
    clusters_count_every_try_where_it_goes,
    clusters_count_hedged_tries_side_by_side,
    clusters_count_alone_where_both_could,
    a_websocket_counts_until_it_closes,
    a_client_that_gives_up_leaves_nothing_behind,
    whoever_waits_for_an_endpoint_hears_at_once_and_nothing_closes,
    without_the_key_nothing_is_counted,
);

fn awaited(upstream: SocketAddr) -> Directive {
    Directive {
        lease: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        awaited: true,
        upstream: upstream.to_string(),
        ..Directive::default()
    }
}

async fn listeners_know_an_endpoint_from_its_response_headers_on(version: EnvoyVersion) -> Result<()> {
    let mut world = World::start(version, Mode::Listeners).await?;
    let (a, b) = (world.a.address(), world.b.address());
    let mut silent = world.send("/hold", "a").await?;
    world.a.wait_held(1).await?;
    assert_eq!((world.unassigned().await?, world.of(a).await?), (1, None));
    let mut answered = world.send("/hold/after", "b").await?;
    world.vms.wait_upstream(&b.to_string(), 1).await?;
    assert_eq!((world.unassigned().await?, world.of(a).await?), (1, None));

    world.a.release_all();
    world.b.release_all();
    assert_eq!(silent.response().await?.status, 200);
    assert_eq!(answered.response().await?.status, 200);
    for address in [a, b] {
        world.vms.wait_upstream(&address.to_string(), 0).await?;
        assert_eq!(world.of(address).await?, Some((0, 1)), "{address}");
    }
    assert_eq!(world.unassigned().await?, 0);
    Ok(())
}

async fn listeners_count_the_last_of_several_tries(version: EnvoyVersion) -> Result<()> {
    let mut world = World::start(version, Mode::Listeners).await?;
    let (b, dead) = (world.b.address(), world.dead.address());
    let mut connection = world.send("/hold/after", "both").await?;
    world.vms.wait_upstream(&b.to_string(), 1).await?;
    assert_eq!((world.unassigned().await?, world.of(dead).await?), (0, None));
    world.b.release_all();
    assert_eq!(connection.response().await?.status, 200);
    // Two tries, one endpoint, one attempt.
    assert_eq!(world.send("/retry/k/1", "b").await?.response().await?.status, 200);
    assert_eq!(world.b.requests_of("retry"), 2);
    world.vms.wait_upstream(&b.to_string(), 0).await?;
    assert_eq!(world.of(b).await?, Some((0, 2)));
    Ok(())
}

async fn listeners_leave_an_answer_of_envoys_own_without_an_endpoint(version: EnvoyVersion) -> Result<()> {
    let mut world = World::start(version, Mode::Listeners).await?;
    assert_eq!(world.send("/", "own").await?.response().await?.status, 200);
    world.vms.wait_upstream("", 0).await?;
    let answers = world.vms.ask(0).await?.into_iter();
    let counted: Vec<_> = answers.flat_map(|report| report.upstreams).collect();
    ensure!(
        counted.iter().all(|counts| counts.address.is_empty()),
        "no endpoint was tried: {counted:?}"
    );
    assert_eq!(world.vms.upstream("").await?, Some((0, 1)));
    Ok(())
}

async fn clusters_know_an_endpoint_from_the_first_byte_on(version: EnvoyVersion) -> Result<()> {
    let mut world = World::start(version, Mode::Clusters).await?;
    let (a, b) = (world.a.address(), world.b.address());
    let mut silent = world.send("/hold", "a").await?;
    world.a.wait_held(1).await?;
    assert_eq!((world.of(a).await?, world.of(b).await?), (Some((1, 1)), None));
    let mut uploading = world.connect().await?;
    uploading
        .send("POST /upload HTTP/1.1\r\nhost: a\r\nto: b\r\ncontent-length: 2\r\n\r\n1")
        .await?;
    world.vms.wait_upstream(&b.to_string(), 1).await?;
    assert_eq!(world.vms.upstream("").await?, None, "every endpoint is known");

    uploading.send("2").await?;
    assert_eq!(uploading.response().await?.status, 200);
    world.vms.wait_upstream(&b.to_string(), 0).await?;
    assert_eq!(world.of(a).await?, Some((1, 1)));
    world.a.release_all();
    assert_eq!(silent.response().await?.status, 200);
    world.vms.wait_upstream(&a.to_string(), 0).await?;
    assert_eq!(world.vms.in_flight("ingress").await?, 0);
    ensure!(
        !world.vms.has_more_streams(),
        "listeners and clusters share a VM per worker, and its stream"
    );
    Ok(())
}

async fn clusters_count_every_try_where_it_goes(version: EnvoyVersion) -> Result<()> {
    let mut world = World::start(version, Mode::Clusters).await?;
    let (b, dead) = (world.b.address(), world.dead.address());
    let mut connection = world.send("/hold", "both").await?;
    world.b.wait_held(1).await?;
    assert_eq!(world.of(dead).await?, Some((0, 1)), "the try that failed");
    assert_eq!(world.of(b).await?, Some((1, 1)), "the try that is held");
    assert_eq!(world.vms.in_flight("ingress").await?, 1);
    world.b.release_all();
    assert_eq!(connection.response().await?.status, 200);
    assert_eq!(world.send("/retry/k/2", "b").await?.response().await?.status, 200);
    world.vms.wait_upstream(&b.to_string(), 0).await?;
    assert_eq!(
        world.of(b).await?,
        Some((0, 1 + 3)),
        "two tries failed and the third did not"
    );
    Ok(())
}

async fn clusters_count_hedged_tries_side_by_side(version: EnvoyVersion) -> Result<()> {
    let mut world = World::start(version, Mode::Clusters).await?;
    let b = world.b.address();
    let mut connection = world.send("/hold", "hedge").await?;
    world.b.wait_held(2).await?;
    assert_eq!(world.of(b).await?, Some((2, 2)));
    assert_eq!(world.vms.in_flight("ingress").await?, 1);
    world.b.release_all();
    assert_eq!(connection.response().await?.status, 200);
    world.vms.wait_upstream(&b.to_string(), 0).await
}

async fn clusters_count_alone_where_both_could(version: EnvoyVersion) -> Result<()> {
    let mut world = World::start(version, Mode::Both).await?;
    let a = world.a.address();
    let mut silent = world.send("/hold", "a").await?;
    let mut answered = world.send("/hold/after", "a").await?;
    world.a.wait_held(2).await?;
    assert_eq!(world.of(a).await?, Some((2, 2)), "nothing counts twice");
    assert_eq!(world.vms.upstream("").await?, None);
    world.a.release_all();
    assert_eq!(silent.response().await?.status, 200);
    assert_eq!(answered.response().await?.status, 200);
    world.vms.wait_upstream(&a.to_string(), 0).await
}

async fn a_websocket_counts_until_it_closes(version: EnvoyVersion) -> Result<()> {
    for mode in [Mode::Listeners, Mode::Clusters] {
        let mut world = World::start(version, mode).await?;
        let a = world.a.address();
        let mut socket = websocket::open(world.envoy.address("ingress")?, "/ws").await?;
        world.vms.wait_upstream(&a.to_string(), 1).await?;
        socket.send(Message::text("hello")).await?;
        assert_eq!(world.of(a).await?, Some((1, 1)), "{mode:?}");
        socket.close(None).await?;
        drop(socket);
        world.vms.wait_upstream(&a.to_string(), 0).await?;
    }
    Ok(())
}

async fn a_client_that_gives_up_leaves_nothing_behind(version: EnvoyVersion) -> Result<()> {
    for mode in [Mode::Listeners, Mode::Clusters] {
        let mut world = World::start(version, mode).await?;
        let a = world.a.address();
        let given_up = [
            world.send("/hold", "a").await?,
            world.send("/hold/after", "a").await?,
        ];
        world.a.wait_held(2).await?;
        drop(given_up);
        world.a.wait_held(0).await?;
        world.vms.wait_upstream(&a.to_string(), 0).await?;
        world.vms.wait_upstream("", 0).await?;
        assert_eq!(world.vms.in_flight("ingress").await?, 0, "{mode:?}");
    }
    Ok(())
}

/// Without such an event, the next report would come after an hour.
async fn whoever_waits_for_an_endpoint_hears_at_once_and_nothing_closes(version: EnvoyVersion) -> Result<()> {
    for mode in [Mode::Listeners, Mode::Clusters] {
        let mut world = World::start(version, mode).await?;
        let (a, b) = (world.a.address(), world.b.address());
        world.vms.command(vec![awaited(a)]).await?;
        let mut held = world.send("/hold/after", "a").await?;
        world.a.wait_held(1).await?;
        unasked(&mut world.vms, a, 1).await?;
        let mut other = world.send("/", "b").await?;
        let response = other.response().await?;
        ensure!(!response.says_close(), "{:?}", response.headers);
        world.vms.wait_upstream(&b.to_string(), 0).await?;
        world.a.release_all();
        let response = held.response().await?;
        ensure!(!response.says_close(), "{:?}", response.headers);
        unasked(&mut world.vms, a, 0).await?;
    }
    Ok(())
}

/// Waits until a VM reports by itself that so many attempts are in flight towards an endpoint.
async fn unasked(vms: &mut Vms, address: SocketAddr, in_flight: u64) -> Result<()> {
    let reported = async {
        loop {
            let report = vms.unasked().await?;
            let found = report
                .upstreams
                .iter()
                .find(|counts| counts.address == address.to_string());
            if found.is_some_and(|counts| counts.in_flight == in_flight) {
                return Ok(());
            }
        }
    };
    let what = format!("a report of {in_flight} in flight towards {address}");
    wait::within(what, wait::PATIENCE, reported).await?
}

async fn without_the_key_nothing_is_counted(version: EnvoyVersion) -> Result<()> {
    let mut world = World::start(version, Mode::Nobody).await?;
    let mut held = world.send("/hold/after", "a").await?;
    world.a.wait_held(1).await?;
    let reports = world.vms.ask(0).await?;
    assert!(
        reports
            .iter()
            .all(|report| report.upstreams.is_empty() && !report.counts_upstreams),
        "{reports:?}"
    );
    assert_eq!(world.vms.in_flight("ingress").await?, 1);
    world.a.release_all();
    assert_eq!(held.response().await?.status, 200);
    Ok(())
}
