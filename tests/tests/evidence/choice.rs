//! What a drain rests on when its policy says so, and that `auto` goes back to the filter once it can.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::Result;
use ebb_e2e::{api::proto, bootstrap::Bootstrap, envoy::EnvoyOptions, wait, world::World};
use ebb_proto::v1::{Drain, Evidence, Phase, Policy, StartDrainRequest};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, UnixStream},
    task::{JoinHandle, JoinSet},
};

use crate::{
    admin_found, drain_that, ended, goes_on_draining, hold, load_on,
    lost::{silence_its_worker, with_relay},
    stop, unix, warned, within,
};

/// Envoy's admin endpoint on a TCP port, as many have it: passes everything on to its socket.
async fn over_tcp(socket: &Path) -> Result<(SocketAddr, JoinHandle<()>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let (address, socket) = (listener.local_addr()?, socket.to_path_buf());
    let accepting = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let socket = socket.clone();
            connections.spawn(async move {
                // Whoever ends it, the other side sees it.
                if let Ok(mut admin) = UnixStream::connect(socket).await {
                    let _ = copy_bidirectional(&mut client, &mut admin).await;
                }
            });
        }
    });
    Ok((address, accepting))
}

fn by(evidence: Evidence, timeout: Duration) -> StartDrainRequest {
    let mut request = within(&["ingress"], timeout);
    request.policy.get_or_insert_with(Policy::default).evidence = evidence.into();
    request
}

#[tokio::test]
async fn evidence_admin_goes_by_envoys_own_count_over_a_socket_and_over_tcp() -> Result<()> {
    for tcp in [false, true] {
        let folder = ebb_e2e::world::folder()?;
        let socket = folder.path().join("admin.sock");
        let relayed = over_tcp(&socket).await?;
        let endpoint = if tcp { relayed.0.to_string() } else { unix(&socket) };
        let world = World::start_in(folder, EnvoyOptions::default(), |options, _| {
            options.admins = vec![endpoint];
        })
        .await?;
        admin_found(&world).await?;
        let mut client = world.client().await?;
        let load = load_on(&world)?;
        let held = hold(&world).await?;
        let id = client
            .start(by(Evidence::Admin, Duration::from_secs(90)))
            .await?
            .id;
        stop(load).await?;
        let drain = drain_that(&client, &id, "counts by the admin endpoint", |drain| {
            drain.in_flight == 1
        })
        .await?;
        assert_eq!(drain.evidence(), Evidence::Admin, "{drain:?}");
        goes_on_draining(&mut client, &id).await?;
        world.upstream.release_all();
        assert_eq!(held.await??.status, 200);
        let drain = ended(&client, &id, wait::PATIENCE).await?;
        assert_eq!(
            (drain.phase(), drain.evidence(), drain.in_flight),
            (Phase::Drained, Evidence::Admin, 0),
            "{drain:?}"
        );
        relayed.1.abort();
    }
    Ok(())
}

/// Envoy writes a colon as `_` in the names of its statistics.
fn with_a_colon(bootstrap: &mut Bootstrap) -> Result<()> {
    bootstrap.configure_plugin("ingress", "listener", &"in:gress".into())?;
    let manager = bootstrap.connection_manager_mut("ingress")?;
    manager["stat_prefix"] = "in:gress".into();
    Ok(())
}

#[tokio::test]
async fn a_stat_prefix_with_a_colon_is_found_in_the_statistics() -> Result<()> {
    let options = EnvoyOptions {
        edit: with_a_colon,
        ..EnvoyOptions::default()
    };
    let world = World::start_with(options, |options, folder| {
        options.admins = vec![unix(&folder.join("admin.sock"))];
    })
    .await?;
    admin_found(&world).await?;
    let mut client = world.client().await?;
    let held = hold(&world).await?;
    let mut request = by(Evidence::Admin, Duration::from_secs(90));
    request.scope.get_or_insert_default().listeners = vec!["in:gress".to_owned()];
    let id = client.start(request).await?.id;
    let counts = |drain: &Drain| drain.in_flight == 1 && drain.unknown_reporters.is_empty();
    drain_that(&client, &id, "counts by the admin endpoint", counts).await?;
    world.upstream.release_all();
    assert_eq!(held.await??.status, 200);
    let drain = ended(&client, &id, wait::PATIENCE).await?;
    assert_eq!(drain.phase(), Phase::Drained, "{drain:?}");
    assert!(drain.warnings.is_empty(), "{drain:?}");
    Ok(())
}

/// By the clock alone: it takes its whole time also where nothing is in flight, and says that this is what it rests on. What
/// is known to be in flight then keeps it from ending well.
#[tokio::test]
async fn evidence_delay_takes_its_time_and_says_so() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let mut client = world.client().await?;
    let load = load_on(&world)?;
    let delay = Duration::from_secs(2);
    stop(load).await?;
    let began = tokio::time::Instant::now();
    let id = client.start(by(Evidence::Delay, delay)).await?.id;
    let drain = ended(&client, &id, wait::PATIENCE).await?;
    assert_eq!(
        (drain.phase(), drain.evidence()),
        (Phase::Drained, Evidence::Delay),
        "{drain:?}"
    );
    assert!(began.elapsed() >= delay, "after {:?}", began.elapsed());
    let held = hold(&world).await?;
    let id = client.start(by(Evidence::Delay, delay)).await?.id;
    let drain = ended(&client, &id, wait::PATIENCE).await?;
    assert_eq!(
        (drain.phase(), drain.in_flight),
        (Phase::TimedOut, 1),
        "{drain:?}"
    );
    world.upstream.release_all();
    assert_eq!(held.await??.status, 200);
    Ok(())
}

#[tokio::test]
async fn auto_goes_back_to_the_filter_when_it_is_heard_again_and_says_both() -> Result<()> {
    let (world, relay) = with_relay(true).await?;
    let mut client = world.client().await?;
    let held = hold(&world).await?;
    let id = client
        .start(within(&["ingress"], Duration::from_secs(120)))
        .await?
        .id;
    client.wait_for_in_flight(&id, 1).await?;
    silence_its_worker(&client, &relay, &id).await?;
    drain_that(&client, &id, "goes by Envoy's own count", |drain| {
        drain.evidence() == Evidence::Admin && warned(drain, &["Envoy's own count"])
    })
    .await?;
    relay.silence_all(false);
    drain_that(&client, &id, "goes by the filter again", |drain| {
        drain.evidence() == Evidence::Filter && warned(drain, &["known again", "going by its count"])
    })
    .await?;
    world.upstream.release_all();
    assert_eq!(held.await??.status, 200);
    let drain = ended(&client, &id, wait::PATIENCE).await?;
    assert_eq!(
        (drain.phase(), drain.evidence()),
        (Phase::Drained, Evidence::Filter),
        "{drain:?}"
    );
    Ok(())
}

/// The file's `[drain]`, then the command line, each where the one before says nothing.
#[tokio::test]
async fn what_the_call_says_has_more_weight_than_the_file_and_that_more_than_the_default() -> Result<()> {
    let world = World::start_with(EnvoyOptions::default(), |options, folder| {
        let file = folder.join("ebb.toml");
        let written = std::fs::write(&file, "[drain]\nquiet_period = \"123ms\"\nlease = \"77s\"\n");
        options.config = written.ok().map(|()| file);
    })
    .await?;
    let output = world
        .ebb
        .cli(&[
            "drain",
            "--listener",
            "ingress",
            "--quiet-period",
            "45ms",
            "-o",
            "json",
            "--wait",
        ])
        .await?;
    assert_eq!(output.code, Some(0), "{output:?}");
    let id = output.json()?["drain_id"].as_str().unwrap_or_default().to_owned();
    let mut client = world.client().await?;
    let policy = client.drain(&id).await?.policy.unwrap_or_default();
    let [quiet, lease, timeout] = [45, 77_000, 30_000].map(|ms| Some(proto(Duration::from_millis(ms))));
    assert_eq!(
        (policy.quiet_period, policy.lease, policy.timeout),
        (quiet, lease, timeout)
    );
    let mut request = by(Evidence::Unspecified, Duration::from_secs(9));
    request.policy.get_or_insert_with(Policy::default).lease = Some(proto(Duration::from_secs(5)));
    let policy = client.start(request).await?.policy.unwrap_or_default();
    let [quiet, lease, timeout] = [123, 5000, 9000].map(|ms| Some(proto(Duration::from_millis(ms))));
    assert_eq!(
        (policy.quiet_period, policy.lease, policy.timeout),
        (quiet, lease, timeout)
    );
    Ok(())
}
