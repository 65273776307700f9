//! HTTP/3: the same counts, the same word to leave, no request lost. Envoy calls `on_log` for none of its streams.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    api::drain_of,
    bins::EnvoyVersion,
    bootstrap::Bootstrap,
    client::{
        Failure,
        http3::{Connection, Identity},
    },
    ebb::{Ebb, EbbOptions},
    envoy::{Envoy, EnvoyOptions},
    on_both_envoys,
    upstream::Upstream,
    vms::Vms,
    wait,
    world::{World, folder, wait_attached},
};
use ebb_proto::v1::{Phase, Protocol};
use serde_json::json;
use tokio::task::JoinSet;

on_both_envoys!(
    counts_rise_and_fall_with_the_streams,
    a_drain_says_goaway_and_a_request_in_flight_completes,
    load_over_a_drain_loses_nothing,
);

/// Makes `ingress` a listener of HTTP/3 alone.
fn speak_http3(bootstrap: &mut Bootstrap, identity: &Identity) -> Result<()> {
    let listeners = bootstrap.value_mut().pointer_mut("/static_resources/listeners/0");
    let listener = listeners.context("no listener")?;
    let merge = [
        ("/address/socket_address", "protocol", json!("UDP")),
        ("", "udp_listener_config", json!({ "quic_options": {} })),
        (
            "/filter_chains/0",
            "transport_socket",
            json!({
                "name": "envoy.transport_sockets.quic",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.quic.v3.QuicDownstreamTransport",
                    "downstream_tls_context": { "common_tls_context": { "tls_certificates": [{
                        "certificate_chain": { "inline_string": identity.certificate },
                        "private_key": { "inline_string": identity.key },
                    }] } },
                },
            }),
        ),
        (
            "/filter_chains/0/filters/0/typed_config",
            "codec_type",
            json!("HTTP3"),
        ),
    ];
    for (place, key, value) in merge {
        let place = listener
            .pointer_mut(place)
            .and_then(|place| place.as_object_mut());
        place.context("no such place")?.insert(key.to_owned(), value);
    }
    Ok(())
}

/// All parts, with `ingress` on HTTP/3.
async fn world(version: EnvoyVersion, concurrency: u32) -> Result<(World, Identity)> {
    let folder = folder()?;
    let upstream = Upstream::start().await?;
    let ebb = Ebb::start(EbbOptions::in_folder(folder.path())).await?;
    let identity = Identity::generate()?;
    let options = EnvoyOptions {
        version,
        concurrency,
        ..EnvoyOptions::default()
    };
    let mut bootstrap = options.bootstrap(ebb.socket(), upstream.address())?;
    speak_http3(&mut bootstrap, &identity)?;
    let envoy = Envoy::start_as(&options, bootstrap, folder.path()).await?;
    wait_attached(&mut ebb.client().await?, &options.node_id, concurrency).await?;
    let world = World {
        envoy,
        ebb,
        upstream,
        folder,
    };
    Ok((world, identity))
}

async fn counts_rise_and_fall_with_the_streams(version: EnvoyVersion) -> Result<()> {
    let folder = folder()?;
    let socket = folder.path().join("ebb.sock");
    let mut vms = Vms::listen(&socket)?;
    let upstream = Upstream::start().await?;
    let identity = Identity::generate()?;
    let options = EnvoyOptions {
        version,
        ..EnvoyOptions::default()
    };
    let mut bootstrap = options.bootstrap(&socket, upstream.address())?;
    bootstrap.configure_plugins("upstreams", &json!(true))?;
    speak_http3(&mut bootstrap, &identity)?;
    let envoy = Envoy::start_as(&options, bootstrap, folder.path()).await?;
    vms.attach(options.concurrency).await?;

    let address = envoy.address("ingress")?;
    let connection = Connection::open(address, &identity).await?;
    for path in ["/", "/status/404", "/reset/before", "/reset/after"] {
        // How it ends is of no matter.
        let _ = connection.get(path).await;
    }
    let first = connection.start("/hold").await?;
    let given_up = connection.start("/hold/after").await?;
    let other = Connection::open(address, &identity).await?;
    let cut = other.start("/hold").await?;
    upstream.wait_held(3).await?;
    assert_eq!(vms.in_flight("ingress").await?, 3);
    assert_eq!(envoy.downstream_rq_active("ingress").await?, 3);
    let blockers = vms.blockers(10).await?;
    ensure!(
        blockers.len() == 3
            && blockers
                .iter()
                .all(|blocker| blocker.protocol() == Protocol::Http3),
        "{blockers:?}"
    );

    drop(given_up);
    upstream.wait_held(2).await?;
    drop((cut, other));
    upstream.wait_held(1).await?;
    upstream.release_all();
    assert_eq!(first.response().await?.status, 200);
    let start = std::time::Instant::now();
    while vms.in_flight("ingress").await? > 0 {
        ensure!(start.elapsed() < wait::PATIENCE, "something has leaked");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    vms.wait_upstream("", 0).await?;
    vms.wait_upstream(&upstream.address().to_string(), 0).await?;
    assert_eq!(envoy.downstream_rq_active("ingress").await?, 0);
    assert!(!connection.told_to_leave(), "nothing drains");
    Ok(())
}

async fn a_drain_says_goaway_and_a_request_in_flight_completes(version: EnvoyVersion) -> Result<()> {
    let (world, identity) = world(version, 1).await?;
    let mut client = world.client().await?;
    let connection = Connection::open(world.ingress()?, &identity).await?;
    assert_eq!(connection.get("/").await?.status, 200);
    let held = connection.start("/hold").await?;
    world.upstream.wait_held(1).await?;
    assert!(!connection.told_to_leave(), "nothing drains yet");

    let drain = client.start(drain_of(&["ingress"])).await?;
    let first = connection.get("/").await?;
    assert_eq!((first.status.as_u16(), &first.body[..]), (200, &b"ok\n"[..]));
    assert_eq!(first.header("x-ebb-close"), None);
    connection.goaway(wait::PATIENCE).await?;
    assert_eq!(connection.closed(), None, "it stays for what is in flight");
    let waiting = client.wait_for_in_flight(&drain.id, 1).await?;
    assert_eq!(waiting.phase(), Phase::Draining);

    world.upstream.release_all();
    let held = held.response().await?;
    assert_eq!((held.status.as_u16(), &held.body[..]), (200, &b"released\n"[..]));
    client
        .wait_for_phase(&drain.id, Phase::Drained, wait::PATIENCE)
        .await?;

    // It goes on serving: whoever comes anew is served, and told to leave.
    let later = Connection::open(world.ingress()?, &identity).await?;
    assert_eq!(later.get("/").await?.status, 200);
    later.goaway(wait::PATIENCE).await?;

    client.cancel(&drain.id).await?;
    let back = Connection::open(world.ingress()?, &identity).await?;
    for _ in 0..3 {
        assert_eq!(back.get("/").await?.status, 200);
    }
    assert!(!back.told_to_leave(), "after cancel connections stay");
    Ok(())
}

#[derive(Default)]
struct Tally {
    requests: AtomicU64,
    told: AtomicU64,
    stop: AtomicBool,
}

/// One request at a time on one connection; a new one only when the server has said that the old one ends.
async fn client(address: std::net::SocketAddr, identity: Identity, tally: Arc<Tally>) -> Result<()> {
    while !tally.stop.load(Ordering::SeqCst) {
        let connection = Connection::open(address, &identity).await?;
        while !connection.told_to_leave() && !tally.stop.load(Ordering::SeqCst) {
            let pending = match connection.start("/delay/5").await {
                // The GOAWAY came in between, and the request was not sent.
                Err(Failure::NoResponse) if connection.told_to_leave() => break,
                pending => pending.context("a request could not be sent")?,
            };
            let response = pending.response().await.context("a request has failed")?;
            ensure!(response.status == 200, "{response:?}");
            tally.requests.fetch_add(1, Ordering::SeqCst);
        }
        tally
            .told
            .fetch_add(connection.told_to_leave().into(), Ordering::SeqCst);
    }
    Ok(())
}

async fn load_over_a_drain_loses_nothing(version: EnvoyVersion) -> Result<()> {
    let (world, identity) = world(version, 2).await?;
    let mut control = world.client().await?;
    let tally = Arc::new(Tally::default());
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        clients.spawn(client(world.ingress()?, identity.clone(), Arc::clone(&tally)));
    }
    let count = |counter: fn(&Tally) -> &AtomicU64, goal: u64| {
        let tally = Arc::clone(&tally);
        wait::until(format!("{goal} counted"), wait::PATIENCE, move || {
            let reached = counter(&tally).load(Ordering::SeqCst) >= goal;
            async move { Ok(reached) }
        })
    };
    count(|tally| &tally.requests, 200).await?;
    assert_eq!(tally.told.load(Ordering::SeqCst), 0, "nothing drains yet");
    let drain = control.start(drain_of(&["ingress"])).await?;
    count(|tally| &tally.told, 8).await?;
    tally.stop.store(true, Ordering::SeqCst);
    while let Some(ended) = wait::within("every client ends", wait::PATIENCE, clients.join_next()).await? {
        ended??;
    }
    control
        .wait_for_phase(&drain.id, Phase::Drained, wait::PATIENCE)
        .await?;
    Ok(())
}
