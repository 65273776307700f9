//! What a filter can still say when its VM goes: a goodbye, also when Envoy itself ends, unless that is killed.
#![allow(clippy::indexing_slicing)] // JSON values

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use ebb_e2e::{
    admin,
    api::{Client, proto},
    bins::EnvoyVersion,
    client::http1,
    ebb::{Ebb, EbbOptions},
    envoy::{Envoy, EnvoyOptions},
    fake_control::{Attached, FakeControl},
    on_both_envoys,
    relay::Relay,
    upstream::Upstream,
    wait,
    world::{World, folder, wait_attached},
};
use ebb_proto::v1::{FilterReport, Phase, Policy, StartDrainRequest};
use hyper::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

on_both_envoys!(
    with_the_last_listener_that_has_the_filter_every_vm_says_goodbye,
    at_its_own_end_every_vm_says_goodbye,
    when_it_is_killed_no_vm_says_goodbye,
    a_drain_ends_with_an_envoy_that_leaves,
    an_envoy_that_is_killed_and_nobody_saw_it_is_unknown_to_the_deadline,
);

/// Puts what Envoy's listeners are to be in the place of what they were.
fn listeners(folder: &Path, listeners: &[Value]) -> Result<()> {
    let mut resources = listeners.to_vec();
    for listener in &mut resources {
        listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
    }
    let new = folder.join("lds.new");
    fs::write(&new, json!({ "resources": resources }).to_string())?;
    fs::rename(new, folder.join("lds.json")).context("lds.json cannot be replaced")
}

async fn has_listeners(envoy: &Envoy, expected: usize) -> Result<()> {
    wait::until(
        format!("Envoy has {expected} listeners"),
        wait::PATIENCE,
        || async {
            let text = envoy.admin(Method::GET, "/listeners?format=json").await?;
            Ok(admin::listeners(&text)?.len() == expected)
        },
    )
    .await
}

/// What comes on a stream until it ends, in whatever way.
async fn to_the_end(mut stream: Attached) -> Result<Vec<FilterReport>> {
    let mut reports = Vec::new();
    let rest = async {
        while let Ok(Some(report)) = stream.reports.message().await {
            reports.push(report);
        }
    };
    wait::within("the stream ends", wait::PATIENCE, rest).await?;
    Ok(reports)
}

async fn with_the_last_listener_that_has_the_filter_every_vm_says_goodbye(
    version: EnvoyVersion,
) -> Result<()> {
    let folder = folder()?;
    let socket = folder.path().join("ebb.sock");
    let mut control = FakeControl::start(&socket)?;
    let upstream = Upstream::start().await?;
    let options = EnvoyOptions {
        version,
        args: &["--drain-time-s", "1"],
        ..EnvoyOptions::default()
    };
    let mut bootstrap = options.bootstrap(&socket, upstream.address())?;
    // One listener stays, without the filter.
    let filters = bootstrap.http_filters_mut("internal")?;
    filters.drain(..filters.len() - 1);
    let value = bootstrap.value_mut();
    let all = value["static_resources"]["listeners"].as_array_mut();
    let ingress = all.context("listeners")?.remove(0);
    let source = json!({ "path_config_source": { "path": folder.path().join("lds.json") } });
    value["dynamic_resources"] = json!({ "lds_config": source });
    listeners(folder.path(), &[])?;
    let envoy = Envoy::start_as(&options, bootstrap, folder.path()).await?;

    listeners(folder.path(), &[ingress])?;
    let mut streams = Vec::new();
    for _ in 0..=options.concurrency {
        streams.push(control.attached().await?);
    }
    has_listeners(&envoy, 2).await?;
    listeners(folder.path(), &[])?;
    for stream in streams {
        let reports = to_the_end(stream).await?;
        let last = reports.last().context("no report")?;
        assert!(last.goodbye, "{last:?}");
        assert!(reports.iter().filter(|report| report.goodbye).count() == 1);
    }
    Ok(())
}

async fn at_its_own_end_every_vm_says_goodbye(version: EnvoyVersion) -> Result<()> {
    let folder = folder()?;
    let socket = folder.path().join("ebb.sock");
    let mut control = FakeControl::start(&socket)?;
    let upstream = Upstream::start().await?;
    let options = EnvoyOptions {
        version,
        concurrency: 2,
        ..EnvoyOptions::default()
    };
    let mut envoy = Envoy::start(&options, folder.path(), &socket, upstream.address()).await?;
    let mut streams = Vec::new();
    for _ in 0..=options.concurrency {
        streams.push(control.attached().await?);
    }
    let mut held = http1::Connection::open(envoy.address("ingress")?).await?;
    held.send("GET /hold HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    upstream.wait_held(1).await?;
    envoy.process().signal(Signal::TERM)?;
    let mut begun = 0;
    for stream in streams {
        let reports = to_the_end(stream).await?;
        let last = reports.last().context("no report")?;
        assert!(last.goodbye, "{reports:?}");
        // Envoy has cut them by then.
        assert!(
            last.listeners.iter().all(|listener| listener.in_flight == 0),
            "{last:?}"
        );
        begun += last
            .listeners
            .iter()
            .map(|listener| listener.started)
            .sum::<u64>();
    }
    assert_eq!(begun, 1, "the last counts are told");
    Ok(())
}

async fn when_it_is_killed_no_vm_says_goodbye(version: EnvoyVersion) -> Result<()> {
    let folder = folder()?;
    let socket = folder.path().join("ebb.sock");
    let mut control = FakeControl::start(&socket)?;
    let upstream = Upstream::start().await?;
    let options = EnvoyOptions {
        version,
        ..EnvoyOptions::default()
    };
    let mut envoy = Envoy::start(&options, folder.path(), &socket, upstream.address()).await?;
    let mut streams = Vec::new();
    for _ in 0..=options.concurrency {
        streams.push(control.attached().await?);
    }
    envoy.process().signal(Signal::KILL)?;
    for stream in streams {
        let reports = to_the_end(stream).await?;
        assert!(reports.iter().all(|report| !report.goodbye), "{reports:?}");
    }
    Ok(())
}

/// A world with a drain that a request holds up, with a deadline far away if that is not to be reached.
/// A drain of everything that a request holds up.
async fn draining(world: &World, deadline: Duration) -> Result<(Client, String)> {
    let mut held = http1::Connection::open(world.ingress()?).await?;
    held.send("GET /hold HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    world.upstream.wait_held(1).await?;
    let mut client = world.client().await?;
    let request = StartDrainRequest {
        policy: Some(Policy {
            timeout: Some(proto(deadline)),
            ..Policy::default()
        }),
        ..StartDrainRequest::default()
    };
    let id = client.start(request).await?.id;
    client.wait_for_in_flight(&id, 1).await?;
    // Envoy is to cut it, not the test.
    tokio::spawn(async move { held.response().await });
    Ok((client, id))
}

async fn a_drain_ends_with_an_envoy_that_leaves(version: EnvoyVersion) -> Result<()> {
    let options = EnvoyOptions {
        version,
        concurrency: 2,
        ..EnvoyOptions::default()
    };
    let mut world = World::start(options).await?;
    let (mut client, id) = draining(&world, Duration::from_secs(600)).await?;
    world.envoy.process().signal(Signal::TERM)?;
    let drain = client.wait_for_phase(&id, Phase::Cut, wait::PATIENCE).await?;
    assert_eq!((drain.cut, drain.unknown_reporters.len()), (1, 0), "{drain:?}");
    assert_eq!(drain.listeners[0].requests_during_drain, 1, "{drain:?}");
    assert!(client.nodes().await?.is_empty(), "it has left");
    Ok(())
}

async fn an_envoy_that_is_killed_and_nobody_saw_it_is_unknown_to_the_deadline(
    version: EnvoyVersion,
) -> Result<()> {
    let options = EnvoyOptions {
        version,
        ..EnvoyOptions::default()
    };
    // The control plane sees the process at the other end of a Unix socket, and this one just passes the streams on.
    let folder = folder()?;
    let ebb = Ebb::start(EbbOptions::in_folder(folder.path())).await?;
    let socket = folder.path().join("relay.sock");
    let _relay = Relay::start(&socket, ebb.socket())?;
    let upstream = Upstream::start().await?;
    let envoy = Envoy::start(&options, folder.path(), &socket, upstream.address()).await?;
    let mut world = World {
        envoy,
        ebb,
        upstream,
        folder,
    };
    wait_attached(&mut world.client().await?, &options.node_id, 1).await?;
    let (mut client, id) = draining(&world, Duration::from_secs(3)).await?;
    world.envoy.process().signal(Signal::KILL)?;
    let drain = client
        .wait_for_phase(&id, Phase::TimedOut, wait::PATIENCE)
        .await?;
    assert_eq!(drain.unknown_reporters.len(), 2, "{drain:?}");
    assert!(
        drain.unknown_reporters[0].reason.contains("stream closed"),
        "{drain:?}"
    );
    Ok(())
}
