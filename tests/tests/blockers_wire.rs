//! The oldest requests in flight, as the filter lists them when it is asked.
#![allow(clippy::indexing_slicing)] // JSON values

use std::time::Duration;

use anyhow::{Context as _, Result};
use ebb_e2e::{
    bins::EnvoyVersion,
    bootstrap::Bootstrap,
    client::{http1, http2, websocket},
    envoy::{Envoy, EnvoyOptions},
    on_both_envoys,
    upstream::Upstream,
    vms::Vms,
    wait,
    world::folder,
};
use ebb_proto::v1::{Blocker, Directive, Protocol};
use futures::SinkExt as _;
use serde_json::json;
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Message;

on_both_envoys!(
    the_oldest_requests_are_listed_with_what_envoy_knows_of_them,
    without_an_upstream_there_is_none,
    grpc_is_told_from_before_the_drain_only_if_that_is_switched_on,
    nothing_of_a_request_leaves_the_filter,
    a_path_leaves_it_only_where_that_is_switched_on,
    serving_makes_no_hostcall,
);

struct World {
    envoy: Envoy,
    vms: Vms,
    upstream: Upstream,
    _folder: TempDir,
}

/// An Envoy whose VMs talk to the test.
async fn world(version: EnvoyVersion, edit: fn(&mut Bootstrap) -> Result<()>) -> Result<World> {
    let folder = folder()?;
    let socket = folder.path().join("ebb.sock");
    let mut vms = Vms::listen(&socket)?;
    let upstream = Upstream::start().await?;
    let options = EnvoyOptions {
        version,
        edit,
        ..EnvoyOptions::default()
    };
    let envoy = Envoy::start(&options, folder.path(), &socket, upstream.address()).await?;
    vms.attach(options.concurrency).await?;
    Ok(World {
        envoy,
        vms,
        upstream,
        _folder: folder,
    })
}

fn named_route(bootstrap: &mut Bootstrap) -> Result<()> {
    let manager = bootstrap.connection_manager_mut("ingress")?;
    manager["route_config"]["virtual_hosts"][0]["routes"][0]["name"] = json!("shop");
    Ok(())
}

fn age(blocker: &Blocker) -> Duration {
    let age = blocker.age.unwrap_or_default();
    Duration::try_from(age).unwrap_or_default()
}

/// A request of gRPC, as far as Envoy can tell.
fn grpc(path: &str) -> Result<http::Request<()>> {
    let head = http::Request::post(format!("http://ebb.test{path}"))
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers");
    head.body(()).context("a request")
}

async fn the_oldest_requests_are_listed_with_what_envoy_knows_of_them(version: EnvoyVersion) -> Result<()> {
    let mut world = world(version, named_route).await?;
    let (ingress, internal) = (world.envoy.address("ingress")?, world.envoy.address("internal")?);
    let host = world.upstream.address().to_string();
    assert!(world.vms.blockers(10).await?.is_empty(), "nothing is in flight");

    let mut first = http1::Connection::open(ingress).await?;
    first.send("GET /hold HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    world.upstream.wait_held(1).await?;
    let second = http2::Connection::open(ingress).await?;
    let held = second.start("/hold").await?;
    world.upstream.wait_held(2).await?;
    let mut socket = websocket::open(ingress, "/ws").await?;
    let mut third = http1::Connection::open(internal).await?;
    third.send("GET /hold HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    world.upstream.wait_held(3).await?;

    let blocker = |listener: &str, protocol: Protocol, route: &str| Blocker {
        listener: listener.to_owned(),
        age: None,
        protocol: protocol.into(),
        route: route.to_owned(),
        upstream: host.clone(),
        path: String::new(),
    };
    let expected = [
        blocker("ingress", Protocol::Http1, "shop"),
        blocker("ingress", Protocol::Http2, "shop"),
        blocker("ingress", Protocol::Websocket, "shop"),
        blocker("internal", Protocol::Http1, ""),
    ];
    let found = world.vms.blockers(10).await?;
    let without_age: Vec<Blocker> = found
        .iter()
        .map(|blocker| Blocker {
            age: None,
            ..blocker.clone()
        })
        .collect();
    assert_eq!(without_age, expected);
    assert!(
        found[..3].windows(2).all(|pair| age(&pair[0]) >= age(&pair[1])),
        "{found:?}"
    );
    assert!(
        found
            .iter()
            .all(|blocker| (Duration::from_micros(1)..wait::PATIENCE * 3).contains(&age(blocker))),
        "{found:?}"
    );

    let oldest = world.vms.blockers(1).await?;
    let listed: Vec<(&str, Protocol)> = oldest
        .iter()
        .map(|blocker| (blocker.listener.as_str(), blocker.protocol()))
        .collect();
    assert_eq!(
        listed,
        [("ingress", Protocol::Http1), ("internal", Protocol::Http1)]
    );
    let later = world.vms.blockers(1).await?;
    assert!(age(&later[0]) > age(&oldest[0]), "{oldest:?} {later:?}");
    assert!(world.vms.blockers(0).await?.is_empty(), "nobody wants them");

    // What has been looked at goes on as if nothing had been.
    world.upstream.release_all();
    assert_eq!(&first.response().await?.body[..], b"released\n");
    assert_eq!(&held.response().await?.body[..], b"released\n");
    assert_eq!(&third.response().await?.body[..], b"released\n");
    socket.send(Message::text("still there")).await?;
    let left = wait_for_blockers(&mut world.vms, 1).await?;
    assert_eq!(left[0].protocol(), Protocol::Websocket);
    drop(socket);
    wait_for_blockers(&mut world.vms, 0).await?;
    Ok(())
}

async fn wait_for_blockers(vms: &mut Vms, count: usize) -> Result<Vec<Blocker>> {
    let start = std::time::Instant::now();
    loop {
        let found = vms.blockers(10).await?;
        if found.len() == count {
            return Ok(found);
        }
        anyhow::ensure!(
            start.elapsed() < wait::PATIENCE,
            "waited in vain: {count} blockers, not {found:?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn without_an_upstream_there_is_none(version: EnvoyVersion) -> Result<()> {
    // A filter that waits for the body of the request before anything goes upstream.
    let mut world = world(version, |bootstrap| {
        let filters = bootstrap.http_filters_mut("ingress")?;
        let router = filters.len() - 1;
        let buffer = json!({
            "name": "buffer",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer",
                "max_request_bytes": 1000,
            },
        });
        filters.insert(router, buffer);
        Ok(())
    })
    .await?;
    let mut connection = http1::Connection::open(world.envoy.address("ingress")?).await?;
    connection
        .send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n1")
        .await?;
    let found = wait_for_blockers(&mut world.vms, 1).await?;
    assert_eq!(
        (found[0].protocol(), found[0].upstream.as_str()),
        (Protocol::Http1, "")
    );
    connection.send("2").await?;
    assert_eq!(connection.response().await?.status, 200);
    Ok(())
}

async fn grpc_is_told_from_before_the_drain_only_if_that_is_switched_on(version: EnvoyVersion) -> Result<()> {
    let mut world = world(version, |bootstrap| {
        bootstrap.configure_plugin("internal", "detect_grpc", &json!(true))
    })
    .await?;
    let ingress = http2::Connection::open(world.envoy.address("ingress")?).await?;
    let internal = http2::Connection::open(world.envoy.address("internal")?).await?;
    let mut streams = vec![
        ingress.send(grpc("/hold/after")?, false).await?,
        internal.send(grpc("/hold/after")?, false).await?,
    ];
    world.upstream.wait_held(2).await?;
    let drain = Directive {
        lease: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..Directive::default()
    };
    world.vms.command(vec![drain]).await?;
    let late = http2::Connection::open(world.envoy.address("ingress")?).await?;
    streams.push(late.send(grpc("/hold/after")?, false).await?);
    world.upstream.wait_held(3).await?;
    let found = world.vms.blockers(10).await?;
    let listed: Vec<(&str, Protocol)> = found
        .iter()
        .map(|blocker| (blocker.listener.as_str(), blocker.protocol()))
        .collect();
    assert_eq!(
        listed,
        [
            ("ingress", Protocol::Http2),
            ("ingress", Protocol::Grpc),
            ("internal", Protocol::Grpc)
        ]
    );
    Ok(())
}

async fn nothing_of_a_request_leaves_the_filter(version: EnvoyVersion) -> Result<()> {
    let mut world = world(version, |bootstrap| {
        bootstrap.configure_plugins("detect_grpc", &json!(true))?;
        bootstrap.configure_plugin("ingress", "upstreams", &json!(true))
    })
    .await?;
    let mut connection = http1::Connection::open(world.envoy.address("ingress")?).await?;
    connection
        .send(
            "POST /hold?secret=secret HTTP/1.1\r\nhost: secret.test\r\ncookie: secret\r\nupgrade: secret\r\n\
             content-type: application/secret\r\nx-request-id: secret\r\ncontent-length: 6\r\n\r\nsecret",
        )
        .await?;
    world.upstream.wait_held(1).await?;
    let reports = world.vms.ask(100).await?;
    assert_eq!(
        reports.iter().map(|report| report.blockers.len()).sum::<usize>(),
        1
    );
    for report in reports {
        assert!(!format!("{report:?}").contains("secret"), "{report:?}");
    }
    Ok(())
}

async fn a_path_leaves_it_only_where_that_is_switched_on(version: EnvoyVersion) -> Result<()> {
    let mut world = world(version, |bootstrap| {
        bootstrap.configure_plugin("ingress", "blocker_paths", &json!(true))
    })
    .await?;
    let mut connections = Vec::new();
    for listener in ["ingress", "internal"] {
        let mut connection = http1::Connection::open(world.envoy.address(listener)?).await?;
        connection
            .send("GET /hold?token=secret HTTP/1.1\r\nhost: a\r\n\r\n")
            .await?;
        connections.push(connection);
    }
    world.upstream.wait_held(2).await?;
    let reports = world.vms.ask(100).await?;
    assert!(!format!("{reports:?}").contains("secret"), "{reports:?}");
    let found = reports.iter().flat_map(|report| &report.blockers);
    let listed: Vec<(&str, &str)> = found
        .map(|blocker| (blocker.listener.as_str(), blocker.path.as_str()))
        .collect();
    assert_eq!(listed, [("ingress", "/hold"), ("internal", "")]);
    // Where it is off there is no path anywhere.
    for mut report in reports {
        report.blockers.retain(|blocker| blocker.listener == "internal");
        assert!(!format!("{report:?}").contains("hold"), "{report:?}");
    }
    Ok(())
}

/// Envoy logs every call into the VM and every call out of it, if it is told to.
async fn serving_makes_no_hostcall(version: EnvoyVersion) -> Result<()> {
    let mut world = world(version, |bootstrap| {
        bootstrap.configure_plugins("report_interval", &json!("1h"))
    })
    .await?;
    world
        .envoy
        .admin(hyper::Method::POST, "/logging?wasm=trace")
        .await?;
    let mut connection = http1::Connection::open(world.envoy.address("ingress")?).await?;
    for path in ["/", "/hold/after", "/"] {
        connection
            .send(&format!(
                "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"
            ))
            .await?;
        if path != "/" {
            world.upstream.wait_held(1).await?;
            world.upstream.release_all();
        }
        assert_eq!(connection.response().await?.status, 200);
    }
    // The next ask comes after the end of the last request, in the same VM.
    let log = wait::eventually(
        "the last request has ended in the log",
        wait::PATIENCE,
        || async {
            let log = world.envoy.log();
            let ends = log
                .lines()
                .filter(|line| line.contains("proxy_on_delete"))
                .filter(|line| line.contains("[host->vm]"))
                .count();
            Ok((ends >= 3).then_some(log))
        },
    )
    .await?;
    // A tick belongs to the stream and not to a request, and comes when it comes.
    let mut into: Vec<&str> = lines(&log, "[host->vm] ");
    into.retain(|line| !line.starts_with("proxy_on_tick"));
    let expected = [
        "proxy_on_context_create",
        "proxy_on_request_headers",
        "proxy_on_response_headers",
        "proxy_on_delete",
    ];
    for call in expected {
        let calls = into.iter().filter(|line| line.starts_with(call)).count();
        assert_eq!(calls, 3, "{call} in {into:?}");
    }
    // And the memory for its answer.
    assert_eq!(into.len(), 13, "{into:?}");
    let mut hostcalls = lines(&log, "[vm->host] ");
    // What a tick does, which looks at the clock, reports and sets its next time.
    let of_ticks = [
        "clock_time_get",
        "proxy_grpc_",
        "proxy_set_tick_period_milliseconds",
    ];
    hostcalls.retain(|call| !of_ticks.iter().any(|of_tick| call.contains(of_tick)));
    // Once for each listener in each VM: which port it has.
    assert!(
        matches!(hostcalls[..], [port] if port.contains("proxy_get_property")),
        "{hostcalls:?}"
    );
    // That the log would tell.
    world.vms.ask(0).await?;
    assert!(!lines(&world.envoy.log(), "[vm->host] ").is_empty());
    Ok(())
}

/// What follows `marker` in the lines of a log that begin a call.
fn lines<'a>(log: &'a str, marker: &str) -> Vec<&'a str> {
    log.lines()
        .filter_map(|line| Some(line.split_once(marker)?.1))
        .collect()
}
