//! A control plane that is slow, silent, stopped or lying: no request fails for it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    api::{drain_of, proto},
    bootstrap::Bootstrap,
    client::http1,
    envoy::{Envoy, EnvoyOptions},
    fake_control::{Attached, FakeControl},
    load::{Load, Plan, Protocol},
    upstream::Upstream,
    wait,
    world::{World, folder},
};
use ebb_proto::v1::{Directive, FilterCommand, Phase, Policy, StartDrainRequest};
use tempfile::TempDir;
use tonic::Status;

async fn with_fake(
    edit: fn(&mut Bootstrap) -> Result<()>,
) -> Result<(Envoy, FakeControl, Upstream, TempDir)> {
    let folder = folder()?;
    let socket = folder.path().join("ebb.sock");
    let control = FakeControl::start(&socket)?;
    let upstream = Upstream::start().await?;
    let options = EnvoyOptions {
        edit,
        ..EnvoyOptions::default()
    };
    let envoy = Envoy::start(&options, folder.path(), &socket, upstream.address()).await?;
    Ok((envoy, control, upstream, folder))
}

fn load_on(envoy: &Envoy) -> Result<Load> {
    let mut plans = Vec::new();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let interval = Duration::from_millis(5);
        plans.push(Plan {
            address: envoy.address("ingress")?,
            protocol,
            clients: 4,
            interval,
            path: "/".to_owned(),
        });
    }
    Ok(Load::start(&plans))
}

async fn assert_no_failure(load: Load) -> Result<()> {
    load.wait_for_requests(200).await?;
    let tally = load.stop().await;
    assert_eq!(tally.failed(), 0, "{tally:?}");
    Ok(())
}

#[tokio::test]
async fn vm_whose_stream_ended_as_announced_is_back_before_one_whose_stream_was_lost() -> Result<()> {
    let (_envoy, mut control, _upstream, _folder) = with_fake(|bootstrap| {
        // Far apart: at once, or after three seconds at least. Only a stream that has lived as long counts as a
        // good one, hence the second report.
        bootstrap.configure_plugins("reconnect_min", &"3s".into())?;
        bootstrap.configure_plugins("reconnect_max", &"6s".into())?;
        bootstrap.configure_plugins("report_interval", &"3500ms".into())
    })
    .await?;
    let (mut lost, mut announced) = (control.attached().await?, control.attached().await?);
    let (lost_epoch, announced_epoch) = (epoch(&mut lost).await?, epoch(&mut announced).await?);
    for stream in [&mut lost, &mut announced] {
        wait::within("a second report comes", wait::PATIENCE, stream.reports.message()).await??;
    }
    lost.end(Status::unavailable("lost")).await;
    announced
        .send(FilterCommand {
            going_away: true,
            ..FilterCommand::default()
        })
        .await?;
    announced.end(Status::unavailable("going away")).await;

    let mut first = control.attached().await?;
    assert_eq!(
        epoch(&mut first).await?,
        announced_epoch,
        "the VM that was told comes back at once"
    );
    let mut second = control.attached().await?;
    assert_eq!(
        epoch(&mut second).await?,
        lost_epoch,
        "the other one comes back after its backoff"
    );
    Ok(())
}

async fn epoch(stream: &mut Attached) -> Result<u64> {
    let report = wait::within("a first report comes", wait::PATIENCE, stream.reports.message()).await??;
    let hello = report
        .and_then(|report| report.hello)
        .context("the first report has no hello")?;
    Ok(hello.epoch)
}

#[tokio::test]
async fn control_plane_that_never_reads_or_speaks_fails_no_request() -> Result<()> {
    let (envoy, mut control, _upstream, _folder) =
        with_fake(|bootstrap| bootstrap.configure_plugins("report_interval", &"10ms".into())).await?;
    let _streams = [control.attached().await?, control.attached().await?];
    assert_no_failure(load_on(&envoy)?).await
}

#[tokio::test]
async fn control_plane_that_lies_fails_no_request_and_drains_nothing_else() -> Result<()> {
    let (mut envoy, mut control, _upstream, _folder) = with_fake(|_| Ok(())).await?;
    let streams = [control.attached().await?, control.attached().await?];
    let load = load_on(&envoy)?;
    let far = prost_types::Duration {
        seconds: i64::MAX,
        nanos: i32::MAX,
    };
    let back = prost_types::Duration {
        seconds: i64::MIN,
        nanos: i32::MIN,
    };
    let directive = |listener: &str, ramp, elapsed, lease| Directive {
        listener: listener.to_owned(),
        ramp: Some(ramp),
        elapsed: Some(elapsed),
        lease: Some(lease),
        awaited: true,
        ..Default::default()
    };
    let lies = [
        FilterCommand {
            generation: u64::MAX,
            ask: u64::MAX,
            ..FilterCommand::default()
        },
        FilterCommand {
            directives: vec![directive("nowhere", far, back, far)],
            ..FilterCommand::default()
        },
        FilterCommand {
            directives: vec![directive("", back, far, back); 500],
            ..FilterCommand::default()
        },
        FilterCommand {
            generation: 1,
            directives: vec![directive("internal", far, far, far)],
            ..Default::default()
        },
    ];
    for stream in &streams {
        for lie in &lies {
            stream.send(lie.clone()).await?;
        }
    }
    load.wait_for_requests(200).await?;
    let mut ingress = http1::Connection::open(envoy.address("ingress")?).await?;
    assert!(
        !ingress.get("/").await?.says_close(),
        "the last word is on `internal` alone"
    );
    assert_no_failure(load).await?;
    envoy.process().check_running()
}

/// Stopped, it holds its connections and says nothing, as on a machine that has hung.
#[tokio::test]
async fn control_plane_stopped_while_draining_fails_no_request_and_ends_nothing_early() -> Result<()> {
    let world = World::start(EnvoyOptions::default()).await?;
    let mut client = world.client().await?;
    let address = world.ingress()?;
    let held = tokio::spawn(async move { http1::Connection::open(address).await?.get("/hold").await });
    world.upstream.wait_held(1).await?;
    let load = load_on(&world.envoy)?;
    let policy = Policy {
        timeout: Some(proto(Duration::from_secs(120))),
        ..Policy::default()
    };
    let drain = client
        .start(StartDrainRequest {
            policy: Some(policy),
            ..drain_of(&["ingress"])
        })
        .await?;
    client
        .wait_for_phase(&drain.id, Phase::Draining, wait::PATIENCE)
        .await?;

    world.ebb.pause()?;
    load.wait_for_requests(500).await?;
    let mut ingress = http1::Connection::open(address).await?;
    ensure!(
        ingress.get("/").await?.says_close(),
        "the filter keeps its last state"
    );
    world.ebb.resume()?;
    assert_no_failure(load).await?;
    let still = client.drain(&drain.id).await?;
    assert_eq!(still.phase(), Phase::Draining, "a request is held: {still:?}");
    world.upstream.release_all();
    assert_eq!(held.await??.status, 200);
    client
        .wait_for_phase(&drain.id, Phase::Drained, wait::PATIENCE)
        .await?;
    Ok(())
}
