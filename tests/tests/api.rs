//! The gRPC interface: codes, idempotency, watches, health, reflection, and who may connect.

use std::{os::unix::fs::PermissionsExt as _, process::Stdio, time::Duration};

use anyhow::{Context as _, Result};
use ebb_e2e::{
    api::{drain_of, proto},
    bins,
    client::http1,
    ebb::{Ebb, EbbOptions},
    envoy::EnvoyOptions,
    ports::Port,
    process::spawn_bound_to_us,
    wait,
    world::{World, folder},
};
use ebb_proto::v1::{
    FilterHello, FilterReport, ListenerCounts, Phase, Policy, Scope, StartDrainRequest,
    filter_service_client::FilterServiceClient,
};
use futures::StreamExt as _;
use tokio::{process::Command, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

#[tokio::test]
async fn unknown_listener_and_node_are_not_found_and_the_known_ones_are_named() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let mut client = world.client().await?;
    let status = client.start(drain_of(&["ingres"])).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    for word in ["ingres", "ingress", "internal"] {
        assert!(status.message().contains(word), "{status:?}");
    }
    let scope = Scope {
        nodes: vec!["edge-9".to_owned()],
        listeners: Vec::new(),
        ..Scope::default()
    };
    let request = StartDrainRequest {
        scope: Some(scope),
        ..StartDrainRequest::default()
    };
    let status = client.start(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    for word in ["edge-9", "edge-1"] {
        assert!(status.message().contains(word), "{status:?}");
    }
    for status in [
        client.drain("none").await.unwrap_err(),
        client.cancel("none").await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::NotFound, "{status:?}");
        assert!(status.message().contains("none"), "{status:?}");
    }
    assert_eq!(client.watch("none").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(client.drains().await?, [], "nothing was started");
    Ok(())
}

#[tokio::test]
async fn bad_policy_is_an_invalid_argument_that_names_the_field() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let mut client = world.client().await?;
    let negative = Some(prost_types::Duration {
        seconds: -1,
        nanos: 0,
    });
    let mixed = Some(prost_types::Duration {
        seconds: 1,
        nanos: -1,
    });
    let just_negative = Some(prost_types::Duration {
        seconds: 0,
        nanos: -1,
    });
    let short = Some(proto(Duration::from_millis(999)));
    let cases = [
        (
            "announce",
            Policy {
                announce: mixed,
                ..Policy::default()
            },
        ),
        (
            "quiet_period",
            Policy {
                quiet_period: negative,
                ..Policy::default()
            },
        ),
        (
            "timeout",
            Policy {
                timeout: negative,
                ..Policy::default()
            },
        ),
        (
            "announce",
            Policy {
                announce: just_negative,
                ..Policy::default()
            },
        ),
        (
            "ramp",
            Policy {
                ramp: negative,
                ..Policy::default()
            },
        ),
        (
            "lease",
            Policy {
                lease: short,
                ..Policy::default()
            },
        ),
        (
            "on_timeout",
            Policy {
                on_timeout: 99,
                ..Policy::default()
            },
        ),
    ];
    for (field, policy) in cases {
        let request = StartDrainRequest {
            policy: Some(policy),
            ..drain_of(&["ingress"])
        };
        let status = client.start(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status:?}");
        assert!(status.message().contains(field), "{field}: {status:?}");
    }
    let request = StartDrainRequest {
        request_id: "x".repeat(129),
        ..drain_of(&["ingress"])
    };
    let status = client.start(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().contains("request_id"), "{status:?}");
    Ok(())
}

#[tokio::test]
async fn start_is_idempotent_by_request_id() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let mut client = world.client().await?;
    let request = StartDrainRequest {
        request_id: "deploy-7".to_owned(),
        ..drain_of(&["ingress"])
    };
    let first = client.start(request.clone()).await?;
    let second = client.start(request).await?;
    assert_eq!(first.id, second.id);
    assert_eq!(client.drains().await?.len(), 1);
    let other = StartDrainRequest {
        request_id: "deploy-7".to_owned(),
        ..drain_of(&["internal"])
    };
    let status = client.start(other).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
    assert!(status.message().contains("request_id"), "{status:?}");
    Ok(())
}

#[tokio::test]
async fn watch_begins_with_the_current_state_and_ends_with_the_drain() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let mut client = world.client().await?;
    let address = world.ingress()?;
    let held = tokio::spawn(async move { http1::Connection::open(address).await?.get("/hold").await });
    world.upstream.wait_held(1).await?;
    let drain = client.start(drain_of(&["ingress"])).await?;
    client.wait_for_in_flight(&drain.id, 1).await?;

    let mut watch = client.watch(&drain.id).await?;
    let mut phases = Vec::new();
    let first = wait::within("the current state comes", wait::PATIENCE, watch.next()).await?;
    let first = first.context("the watch ended")??.drain.context("no drain")?;
    assert_eq!(
        (first.phase(), first.in_flight),
        (Phase::Draining, 1),
        "{first:?}"
    );
    world.upstream.release_all();
    while let Some(update) = wait::within("the watch ends", wait::PATIENCE, watch.next()).await? {
        let phase = update?.drain.context("no drain")?.phase();
        if phases.last() != Some(&phase) {
            phases.push(phase);
        }
    }
    assert_eq!(
        phases.iter().rev().take(2).collect::<Vec<_>>(),
        [&Phase::Drained, &Phase::Quiet],
        "{phases:?}"
    );
    assert_eq!(held.await??.status, 200);
    Ok(())
}

#[tokio::test]
async fn unix_socket_is_for_its_owner_alone() -> Result<()> {
    let folder = folder()?;
    let ebb = Ebb::start(EbbOptions::in_folder(folder.path())).await?;
    let mode = std::fs::metadata(ebb.socket())?.permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    Ok(())
}

#[tokio::test]
async fn loopback_tcp_is_served_beside_the_socket_on_request() -> Result<()> {
    let folder = folder()?;
    let port = Port::reserve()?;
    let address = port.address().to_string();
    let options = EbbOptions {
        listen_also: Some(address.clone()),
        ..EbbOptions::in_folder(folder.path())
    };
    let ebb = Ebb::start(options).await?;
    let status = ebb.cli(&["status", "--endpoint", &address, "-o", "json"]).await?;
    assert_eq!(status.code, Some(0), "{status:?}");
    assert_eq!(status.json()?["nodes"], serde_json::json!([]), "{status:?}");
    Ok(())
}

#[tokio::test]
async fn tcp_beyond_loopback_is_refused_without_insecure() -> Result<()> {
    let folder = folder()?;
    let socket = folder.path().join("ebb.sock");
    let args = ["serve", "--listen", "0.0.0.0:0", "--state", ""];
    let output = ebb_e2e::cli::start(&socket, &args)?.output().await?;
    assert!(output.code.is_some_and(|code| code != 0), "{output:?}");
    assert!(output.stderr.contains("--insecure"), "{output:?}");
    Ok(())
}

/// A filter as the control plane sees one.
fn hello() -> FilterReport {
    let hello = FilterHello {
        node_id: "edge-1".to_owned(),
        process: 1,
        epoch: 2,
        version: "0.0.0".to_owned(),
        report_interval: Some(proto(Duration::from_secs(5))),
        drain_report_interval: Some(proto(Duration::from_millis(500))),
        ..FilterHello::default()
    };
    let listeners = vec![ListenerCounts {
        name: "ingress".to_owned(),
        ..ListenerCounts::default()
    }];
    FilterReport {
        hello: Some(hello),
        listeners,
        ..FilterReport::default()
    }
}

#[tokio::test]
async fn sigterm_tells_every_filter_to_reconnect_and_ends_cleanly() -> Result<()> {
    let folder = folder()?;
    let ebb = Ebb::start(EbbOptions::in_folder(folder.path())).await?;
    let mut filter = FilterServiceClient::new(ebb.client().await?.channel());
    let (reports, outgoing) = mpsc::channel(4);
    reports.send(hello()).await?;
    let mut commands = filter.attach(ReceiverStream::new(outgoing)).await?.into_inner();
    let first = wait::within("a first command comes", wait::PATIENCE, commands.next()).await?;
    assert!(!first.context("the stream ended")??.going_away);

    let socket = ebb.socket().to_path_buf();
    let terminating = tokio::spawn(ebb.terminate());
    let mut told = false;
    let end = loop {
        match wait::within("the stream ends", wait::PATIENCE, commands.next()).await? {
            Some(Ok(command)) => told |= command.going_away,
            Some(Err(status)) => break Some(status.code()),
            None => break None,
        }
    };
    assert!(told, "going_away comes before the end");
    assert_eq!(end, Some(Code::Unavailable));
    terminating.await??;
    assert!(!socket.exists(), "the socket is gone after a clean end");
    Ok(())
}

#[tokio::test]
async fn health_and_reflection_and_a_whole_drain_by_a_python_client_that_knows_only_reflection() -> Result<()>
{
    let world = World::start(EnvoyOptions::default()).await?;
    let address = world.ingress()?;
    let held = tokio::spawn(async move { http1::Connection::open(address).await?.get("/hold").await });
    world.upstream.wait_held(1).await?;
    let mut command = Command::new(bins::python()?);
    command
        .arg(bins::repository().join("tests/python/reflection_client.py"))
        .arg(format!("unix:{}", world.ebb.socket().display()))
        .arg("ingress")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = spawn_bound_to_us(&mut command)?;
    let bound = Duration::from_secs(60);
    let output = wait::within("the Python client ends", bound, child.wait_with_output()).await??;
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{stdout}{stderr}");
    let seen: serde_json::Value = serde_json::from_str(&stdout).context("the Python client prints JSON")?;
    let expected = serde_json::json!({
        "health": "SERVING",
        "services": ["ebb.v1.DrainService", "ebb.v1.FilterService", "ebb.v1.FleetService", "ebb.v1.ProcessService"],
        "nodes": ["edge-1"],
        "phases": ["PHASE_DRAINING", "PHASE_CANCELLED"],
        "in_flight": 1,
    });
    assert_eq!(seen, expected);
    world.upstream.release_all();
    assert_eq!(held.await??.status, 200);
    Ok(())
}
