//! What a client sees on the wire while a listener drains.

use std::time::Duration;

use anyhow::Result;
use ebb_e2e::{
    api::drain_of,
    bins::EnvoyVersion,
    client::{Response, frames::Goaway, http1, http2},
    envoy::EnvoyOptions,
    on_both_envoys, wait,
    world::World,
};
use ebb_proto::v1::Phase;

/// Enough for a close that was already on its way to arrive; only used where none may come.
const GRACE: Duration = Duration::from_millis(200);

on_both_envoys!(
    http1_first_response_after_start_closes_and_reuse_is_back_after_cancel,
    http1_other_listener_keeps_its_connections,
    http1_upstreams_own_close_never_closes_downstream,
    http1_request_in_flight_at_the_start_completes_and_closes,
    http2_goaway_is_graceful_and_a_2_s_request_completes,
    http2_other_listener_hears_no_goaway,
);

async fn world(version: EnvoyVersion) -> Result<World> {
    World::start(EnvoyOptions {
        version,
        ..EnvoyOptions::default()
    })
    .await
}

/// A response that no drain has touched: nothing of the filter's mark, and the connection stays.
fn assert_untouched(response: &Response) {
    assert_eq!(response.status, 200);
    assert!(
        !response.says_close(),
        "the connection should stay: {:?}",
        response.headers
    );
    assert_no_mark(response);
}

/// The mark is between the filter and the closer; no client sees it.
fn assert_no_mark(response: &Response) {
    assert_eq!(response.header("x-ebb-close"), None, "{:?}", response.headers);
}

async fn http1_first_response_after_start_closes_and_reuse_is_back_after_cancel(
    version: EnvoyVersion,
) -> Result<()> {
    let world = world(version).await?;
    let mut client = world.client().await?;
    let mut connection = http1::Connection::open(world.ingress()?).await?;
    for _ in 0..3 {
        assert_untouched(&connection.get("/").await?);
    }

    let drain = client.start(drain_of(&["ingress"])).await?;
    let first = connection.get("/").await?;
    assert_eq!((first.status.as_u16(), &first.body[..]), (200, &b"ok\n"[..]));
    assert!(
        first.says_close(),
        "the first response after StartDrain: {:?}",
        first.headers
    );
    assert_no_mark(&first);
    assert!(
        connection.closed_within(wait::PATIENCE).await,
        "Envoy closes the connection"
    );
    assert_eq!(connection.requests(), 4, "all requests were on one connection");

    // It goes on serving: whoever comes anew is served, and told to leave.
    let mut later = http1::Connection::open(world.ingress()?).await?;
    assert!(later.get("/").await?.says_close());

    client.cancel(&drain.id).await?;
    let mut connection = http1::Connection::open(world.ingress()?).await?;
    for _ in 0..3 {
        assert_untouched(&connection.get("/").await?);
    }
    assert!(
        !connection.closed_within(GRACE).await,
        "after cancel connections stay"
    );
    Ok(())
}

async fn http1_other_listener_keeps_its_connections(version: EnvoyVersion) -> Result<()> {
    let world = world(version).await?;
    let mut client = world.client().await?;
    let mut internal = http1::Connection::open(world.internal()?).await?;
    assert_untouched(&internal.get("/").await?);

    let drain = client.start(drain_of(&["ingress"])).await?;
    let mut ingress = http1::Connection::open(world.ingress()?).await?;
    assert!(ingress.get("/").await?.says_close(), "the drain is on");
    for _ in 0..3 {
        assert_untouched(&internal.get("/").await?);
    }
    client
        .wait_for_phase(&drain.id, Phase::Drained, wait::PATIENCE)
        .await?;
    assert_untouched(&internal.get("/").await?);
    assert!(
        !internal.closed_within(GRACE).await,
        "`internal` keeps its connection"
    );
    assert_eq!(internal.requests(), 5, "all requests were on one connection");
    Ok(())
}

async fn http1_upstreams_own_close_never_closes_downstream(version: EnvoyVersion) -> Result<()> {
    let world = world(version).await?;
    let mut client = world.client().await?;
    let mut ingress = http1::Connection::open(world.ingress()?).await?;
    let mut internal = http1::Connection::open(world.internal()?).await?;
    for _ in 0..3 {
        assert_untouched(&ingress.get("/close").await?);
        assert_untouched(&internal.get("/close").await?);
    }
    client.start(drain_of(&["ingress"])).await?;
    assert!(ingress.get("/close").await?.says_close(), "the drain is on");
    for _ in 0..3 {
        assert_untouched(&internal.get("/close").await?);
    }
    assert!(!internal.closed_within(GRACE).await);
    Ok(())
}

async fn http1_request_in_flight_at_the_start_completes_and_closes(version: EnvoyVersion) -> Result<()> {
    let world = world(version).await?;
    let mut client = world.client().await?;
    let mut connection = http1::Connection::open(world.ingress()?).await?;
    let held = tokio::spawn(async move {
        let response = connection.get("/hold").await;
        (response, connection.closed_within(wait::PATIENCE).await)
    });
    world.upstream.wait_held(1).await?;
    let drain = client.start(drain_of(&["ingress"])).await?;
    let waiting = client.wait_for_in_flight(&drain.id, 1).await?;
    assert_eq!(waiting.phase(), Phase::Draining);
    world.upstream.release_all();
    let (response, closed) = held.await?;
    let response = response?;
    assert_eq!(
        (response.status.as_u16(), &response.body[..]),
        (200, &b"released\n"[..])
    );
    assert!(response.says_close() && closed, "{:?}", response.headers);
    client
        .wait_for_phase(&drain.id, Phase::Drained, wait::PATIENCE)
        .await?;
    Ok(())
}

async fn http2_goaway_is_graceful_and_a_2_s_request_completes(version: EnvoyVersion) -> Result<()> {
    let world = world(version).await?;
    let mut client = world.client().await?;
    let connection = http2::Connection::open(world.ingress()?).await?;
    assert_untouched(&connection.get("/").await?);
    let before = world.upstream.requests();
    let slow = connection.start("/delay/2000").await?;
    wait::until("the slow request is upstream", wait::PATIENCE, || async {
        Ok(world.upstream.requests() == before + 1)
    })
    .await?;
    assert_eq!(connection.goaways(), [], "nothing drains yet");

    let drain = client.start(drain_of(&["ingress"])).await?;
    let first = connection.get("/").await?;
    assert_eq!((first.status.as_u16(), &first.body[..]), (200, &b"ok\n"[..]));
    assert_no_mark(&first);
    let graceful = Goaway {
        last_stream: 0x7fff_ffff,
        code: 0,
    };
    assert_eq!(connection.goaway(wait::PATIENCE).await?, graceful);

    let slow = slow.response().await?;
    assert_eq!((slow.status.as_u16(), &slow.body[..]), (200, &b"delayed\n"[..]));
    assert_no_mark(&slow);
    client
        .wait_for_phase(&drain.id, Phase::Drained, wait::PATIENCE)
        .await?;
    assert!(
        connection.goaways().iter().all(|goaway| goaway.code == 0),
        "{:?}",
        connection.goaways()
    );
    Ok(())
}

async fn http2_other_listener_hears_no_goaway(version: EnvoyVersion) -> Result<()> {
    let world = world(version).await?;
    let mut client = world.client().await?;
    let internal = http2::Connection::open(world.internal()?).await?;
    assert_untouched(&internal.get("/").await?);
    let drain = client.start(drain_of(&["ingress"])).await?;
    let ingress = http2::Connection::open(world.ingress()?).await?;
    ingress.get("/").await?;
    ingress.goaway(wait::PATIENCE).await?;
    for _ in 0..3 {
        assert_untouched(&internal.get("/").await?);
    }
    client
        .wait_for_phase(&drain.id, Phase::Drained, wait::PATIENCE)
        .await?;
    assert_untouched(&internal.get("/").await?);
    assert_eq!(internal.goaways(), []);
    assert!(!internal.is_closed());
    Ok(())
}
