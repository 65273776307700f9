//! What a drain did and what holds it up, on a real Envoy.
#![allow(clippy::indexing_slicing)] // JSON values

use std::{net::SocketAddr, process::Stdio, time::Duration};

use anyhow::{Context as _, Result};
use ebb_e2e::{
    api::{Client, drain_of, proto},
    bins,
    bootstrap::Bootstrap,
    client::{Failure, Response, http1, http2, websocket},
    ebb::Ebb,
    envoy::EnvoyOptions,
    process::spawn_bound_to_us,
    wait,
    world::World,
};
use ebb_proto::v1::{
    FilterHello, FilterReport, NodeBlocker, Phase, Policy, Protocol, StartDrainRequest,
    filter_service_client::FilterServiceClient,
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, process::Command, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

/// What no answer may hold: it stands in the path, the query and the headers of the requests.
const SECRET: &str = "hunter2";

fn named_route(bootstrap: &mut Bootstrap) -> Result<()> {
    let manager = bootstrap.connection_manager_mut("ingress")?;
    manager["route_config"]["virtual_hosts"][0]["routes"][0]["name"] = json!("shop");
    Ok(())
}

async fn world() -> Result<World> {
    let options = EnvoyOptions {
        edit: named_route,
        ..EnvoyOptions::default()
    };
    World::start_with(options, |options, folder| {
        options.state = Some(folder.join("state"))
    })
    .await
}

/// Starts a request of HTTP/1.1 that the upstream holds.
async fn hold(world: &World, address: SocketAddr) -> Result<JoinHandle<Result<Response, Failure>>> {
    let count = world.upstream.held() + 1;
    let held = tokio::spawn(async move {
        let mut connection = http1::Connection::open(address).await?;
        let headers = format!("x-secret: {SECRET}\r\ncookie: {SECRET}\r\n");
        connection
            .get_with(&format!("/hold/{SECRET}?{SECRET}"), &headers)
            .await
    });
    world.upstream.wait_held(count).await?;
    Ok(held)
}

/// Waits until so many requests are listed.
async fn listed(client: &mut Client, drain: &str, count: usize) -> Result<Vec<NodeBlocker>> {
    wait::eventually(format!("{count} blockers are listed"), wait::PATIENCE, || {
        let (mut client, drain) = (client.clone(), drain.to_owned());
        async move { Ok(Some(client.blockers(&drain, 0).await?).filter(|found| found.len() == count)) }
    })
    .await
}

fn age(found: &NodeBlocker) -> Duration {
    let age = found.blocker.as_ref().and_then(|blocker| blocker.age);
    age.and_then(|age| age.try_into().ok()).unwrap_or_default()
}

#[tokio::test]
async fn what_holds_a_drain_up_is_listed_without_its_content() -> Result<()> {
    let world = world().await?;
    let mut client = world.client().await?;
    assert!(client.blockers("", 0).await?.is_empty(), "nothing is in flight");

    let first = hold(&world, world.ingress()?).await?;
    let second = http2::Connection::open(world.ingress()?).await?;
    let pending = second.start("/hold").await?;
    world.upstream.wait_held(2).await?;
    let socket = websocket::open(world.ingress()?, "/ws").await?;
    let elsewhere = hold(&world, world.internal()?).await?;

    let upstream = world.upstream.address().to_string();
    let expected = [
        ("ingress", Protocol::Http1, "shop"),
        ("ingress", Protocol::Http2, "shop"),
        ("ingress", Protocol::Websocket, "shop"),
        ("internal", Protocol::Http1, ""),
    ];
    let found = listed(&mut client, "", expected.len()).await?;
    for (found, (listener, protocol, route)) in found.iter().zip(expected) {
        let blocker = found.blocker.clone().context("a blocker")?;
        let seen = (
            blocker.listener.as_str(),
            blocker.protocol(),
            blocker.route.as_str(),
        );
        assert_eq!(seen, (listener, protocol, route), "{found:?}");
        assert_eq!(
            (found.node.as_str(), blocker.upstream.as_str()),
            ("edge-1", upstream.as_str())
        );
    }
    assert!(
        found.windows(2).all(|pair| age(&pair[0]) >= age(&pair[1])),
        "oldest first: {found:?}"
    );
    let later = client.blockers("", 1).await?;
    assert_eq!(later.len(), 2, "one of each listener: {later:?}");
    assert!(
        age(&later[0]) > age(&found[0]),
        "it grows older: {found:?} {later:?}"
    );

    // Of a drain: what is in its scope.
    let drain = client.start(drain_of(&["ingress"])).await?;
    let found = listed(&mut client, &drain.id, 3).await?;
    assert!(
        found
            .iter()
            .all(|found| found.blocker.as_ref().is_some_and(|b| b.listener == "ingress"))
    );
    assert_eq!(
        client.blockers("none", 0).await.unwrap_err().code(),
        Code::NotFound
    );
    let status = client.blockers("", 101).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");

    // On the command line, for people and for programs.
    let text = world.ebb.cli(&["status", "--blockers"]).await?;
    assert_eq!(text.code, Some(0), "{text:?}");
    for part in ["OLDEST REQUESTS IN FLIGHT", "websocket", "shop", &upstream] {
        assert!(text.stdout.contains(part), "{part} in {text:?}");
    }
    let json = world
        .ebb
        .cli(&["status", "--blockers", "2", "-o", "json"])
        .await?;
    let object = json.json()?;
    let blockers = object["blockers"].as_array().context("a list of blockers")?;
    assert_eq!(blockers.len(), 3, "two of ingress, one of internal: {object}");
    assert_eq!(blockers[0]["protocol"], "h1", "{object}");
    assert!(blockers[0]["age_ms"].as_u64().is_some(), "{object}");

    let log = world.ebb.log();
    let said = [&text.stdout, &json.stdout, &format!("{found:?}"), &log];
    for said in said {
        assert!(!said.contains(SECRET) && !said.contains("/hold"), "{said}");
    }

    world.upstream.release_all();
    assert_eq!(first.await??.status, 200);
    assert_eq!(pending.response().await?.status, 200);
    assert_eq!(elsewhere.await??.status, 200);
    drop(socket);
    client
        .wait_for_phase(&drain.id, Phase::Drained, wait::PATIENCE)
        .await?;
    assert!(client.blockers(&drain.id, 0).await?.is_empty());
    Ok(())
}

/// A filter that is attached, live, and answers nothing.
fn mute() -> FilterReport {
    let hello = FilterHello {
        node_id: "edge-2".to_owned(),
        process: 1,
        epoch: 2,
        version: "0.0.0".to_owned(),
        report_interval: Some(proto(Duration::from_secs(60))),
        drain_report_interval: Some(proto(Duration::from_secs(60))),
        ..FilterHello::default()
    };
    FilterReport {
        hello: Some(hello),
        ..FilterReport::default()
    }
}

#[tokio::test]
async fn a_filter_that_does_not_answer_is_left_out() -> Result<()> {
    let world = world().await?;
    let mut client = world.client().await?;
    let held = hold(&world, world.ingress()?).await?;
    let mut filter = FilterServiceClient::new(client.channel());
    let (reports, outgoing) = mpsc::channel(4);
    reports.send(mute()).await?;
    let mut commands = filter.attach(ReceiverStream::new(outgoing)).await?.into_inner();
    wait::within("a first command comes", wait::PATIENCE, commands.message()).await??;

    let found = wait::within("the others are listed", wait::PATIENCE, client.blockers("", 0)).await??;
    let nodes: Vec<&str> = found.iter().map(|found| found.node.as_str()).collect();
    assert_eq!(nodes, ["edge-1"]);
    // It was asked: the command is the latest state, with the question.
    let asked = wait::within("it is asked", wait::PATIENCE, commands.message()).await??;
    assert_eq!(asked.context("a command")?.blockers, 10);
    world.upstream.release_all();
    assert_eq!(held.await??.status, 200);
    Ok(())
}

/// Whether a text is well-formed XML, by another's judgement.
async fn parses_as_xml(text: &str) -> Result<bool> {
    let mut command = Command::new(bins::python()?);
    command
        .args([
            "-c",
            "import sys, xml.dom.minidom as xml; xml.parseString(sys.stdin.buffer.read())",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = spawn_bound_to_us(&mut command)?;
    let mut input = child.stdin.take().context("its standard input")?;
    input.write_all(text.as_bytes()).await?;
    drop(input);
    Ok(wait::within("the parser ends", wait::PATIENCE, child.wait())
        .await??
        .success())
}

async fn report_json(ebb: &Ebb, id: &str) -> Result<Value> {
    let output = ebb.cli(&["report", id, "-o", "json"]).await?;
    assert_eq!(output.code, Some(0), "{output:?}");
    output.json()
}

#[tokio::test]
async fn the_report_of_a_drain_in_all_its_forms_and_over_a_restart() -> Result<()> {
    let mut world = world().await?;
    let mut client = world.client().await?;
    let held = [
        hold(&world, world.ingress()?).await?,
        hold(&world, world.ingress()?).await?,
    ];
    let id = client.start(drain_of(&["ingress"])).await?.id;
    client.wait_for_in_flight(&id, 2).await?;

    let running = report_json(&world.ebb, &id).await?;
    assert_eq!(
        (&running["outcome"], &running["phase"]),
        (&Value::Null, &json!("draining")),
        "{running}"
    );
    assert_eq!(
        running["timeline"]
            .as_array()
            .and_then(|points| points.last())
            .context("points")?["in_flight"],
        2
    );

    world.upstream.release_all();
    for held in held {
        assert_eq!(held.await??.status, 200);
    }
    client.wait_for_phase(&id, Phase::Drained, wait::PATIENCE).await?;

    let json = report_json(&world.ebb, &id).await?;
    assert_eq!(json["outcome"], "drained", "{json}");
    assert_eq!(
        (&json["evidence"], &json["lever"]),
        (&json!("filter"), &json!("filter")),
        "{json}"
    );
    assert_eq!(
        (&json["requests_finished"], &json["connections_told"]),
        (&json!(2), &json!(2)),
        "{json}"
    );
    assert_eq!(
        (&json["left_in_flight"], &json["unknown_reporters"]),
        (&json!(0), &json!(0)),
        "{json}"
    );
    let duration = json["duration_ms"].as_i64().context("a duration")?;
    let saved = json["saved_ms"].as_i64().context("what was saved")?;
    assert!((15_000 - duration - saved).abs() <= 1, "{json}");
    assert_eq!(
        (&json["last"]["node"], &json["last"]["listener"]),
        (&json!("edge-1"), &json!("ingress")),
        "{json}"
    );
    let last = json["last"]["at_ms"]
        .as_i64()
        .context("when the last one ended")?;
    // The quiet period comes after it.
    assert!(last > 0 && last + 200 <= duration, "{json}");

    let points = json["timeline"].as_array().context("a timeline")?;
    assert!((10..=500).contains(&points.len()), "{json}");
    let number = |point: &Value, key: &str| point[key].as_i64().unwrap_or(-1);
    assert!(
        points
            .windows(2)
            .all(|pair| number(&pair[0], "at_ms") <= number(&pair[1], "at_ms")),
        "{json}"
    );
    assert_eq!(
        points.iter().map(|point| number(point, "in_flight")).max(),
        Some(2),
        "{json}"
    );
    let mut phases: Vec<&str> = points
        .iter()
        .filter_map(|point| point["phase"].as_str())
        .collect();
    phases.dedup();
    assert_eq!(phases, ["draining", "quiet", "drained"], "{json}");
    assert_eq!(
        points.last().map(|point| number(point, "at_ms")),
        Some(duration),
        "{json}"
    );

    let text = world.ebb.cli(&["report", &id]).await?;
    assert_eq!(text.code, Some(0), "{text:?}");
    for part in [
        format!("drain {id} drained in "),
        "the filter's count in every worker".to_owned(),
        "finished        2 requests".to_owned(),
        "told to close   2 connections".to_owned(),
        "sooner than `sleep 15`".to_owned(),
        "|quiet".to_owned(),
    ] {
        assert!(text.stdout.contains(&part), "{part} in {}", text.stdout);
    }
    let svg = world.ebb.cli(&["report", &id, "-o", "svg"]).await?.stdout;
    assert!(svg.contains("drained at ") && svg.contains("sleep 15"), "{svg}");
    assert!(parses_as_xml(&svg).await?, "{svg}");

    let options = world.ebb.kill().await?;
    world.ebb = Ebb::start(options).await?;
    let after = report_json(&world.ebb, &id).await?;
    assert_eq!(after["timeline"], json["timeline"]);
    assert_eq!(after, json, "the report is as it was");
    let unknown = world.ebb.cli(&["report", "none"]).await?;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    Ok(())
}

#[tokio::test]
async fn a_drain_that_goes_on_after_a_restart_keeps_the_beginning_of_its_report() -> Result<()> {
    let mut world = world().await?;
    let mut client = world.client().await?;
    let held = hold(&world, world.ingress()?).await?;
    let policy = Policy {
        timeout: Some(proto(wait::PATIENCE * 4)),
        ..Policy::default()
    };
    let request = StartDrainRequest {
        policy: Some(policy),
        ..drain_of(&["ingress"])
    };
    let id = client.start(request).await?.id;
    client.wait_for_in_flight(&id, 1).await?;
    let before = client.report(&id).await?;

    let options = world.ebb.kill().await?;
    world.ebb = Ebb::start(options).await?;
    let mut client = world.client().await?;
    client.wait_for_in_flight(&id, 1).await?;
    world.upstream.release_all();
    assert_eq!(held.await??.status, 200);
    client.wait_for_phase(&id, Phase::Drained, wait::PATIENCE).await?;
    let report = client.report(&id).await?;
    assert_eq!(report.timeline.first(), before.timeline.first());
    assert_eq!(
        (report.requests_finished, report.connections_told),
        (1, 1),
        "{report:?}"
    );
    assert_eq!(report.last.map(|last| last.listener).as_deref(), Some("ingress"));
    Ok(())
}
