//! The harness itself: what the other tests rely on to see a failure does see it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use ebb_e2e::{
    client::{Failure, http1, raw, websocket},
    gateway::journal,
    load::{Load, Plan, Protocol},
    upstream::Upstream,
    wait,
};
use futures::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn http1_client_shows_reuse_and_close() -> Result<()> {
    let upstream = Upstream::start().await?;
    let mut connection = http1::Connection::open(upstream.address()).await?;
    assert!(!connection.get("/").await?.says_close());
    assert_eq!(connection.get("/status/404").await?.status, 404);
    assert_eq!(connection.get("/slow/3/1").await?.body, "chunk\nchunk\nchunk\n");
    assert!(!connection.closed_within(Duration::from_millis(50)).await);
    assert!(connection.get("/close").await?.says_close());
    assert!(connection.closed_within(wait::PATIENCE).await);
    assert_eq!(connection.get("/").await.unwrap_err(), Failure::NoResponse);
    Ok(())
}

#[tokio::test]
async fn http1_client_tells_a_reset_before_from_one_after_the_headers() -> Result<()> {
    let upstream = Upstream::start().await?;
    let mut connection = http1::Connection::open(upstream.address()).await?;
    assert_eq!(
        connection.get("/reset/before").await.unwrap_err(),
        Failure::NoResponse
    );
    let mut connection = http1::Connection::open(upstream.address()).await?;
    assert_eq!(
        connection.get("/reset/after").await.unwrap_err(),
        Failure::Truncated
    );
    Ok(())
}

#[tokio::test]
async fn upstream_holds_and_releases_and_forgets_a_client_that_left() -> Result<()> {
    let upstream = Upstream::start().await?;
    let request = b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n";
    raw::send_and_reset(upstream.address(), request, Duration::from_millis(20)).await?;
    wait::until("the first request comes", wait::PATIENCE, || async {
        Ok(upstream.requests() == 1)
    })
    .await?;
    upstream.wait_held(0).await?;
    let mut connection = http1::Connection::open(upstream.address()).await?;
    let held = tokio::spawn(async move { connection.get("/hold").await });
    upstream.wait_held(1).await?;
    upstream.release_all();
    assert_eq!(held.await??.body, "released\n");
    upstream.wait_held(0).await
}

#[tokio::test]
async fn upstream_fails_as_often_as_asked_and_redirects() -> Result<()> {
    let upstream = Upstream::start().await?;
    let mut connection = http1::Connection::open(upstream.address()).await?;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(connection.get("/retry/a/2").await?.status.as_u16());
    }
    assert_eq!(statuses, [503, 503, 200]);
    let redirect = connection.get("/redirect?to=/status/204").await?;
    assert_eq!(redirect.header("location"), Some("http://ebb.test/status/204"));
    Ok(())
}

#[tokio::test]
async fn upstream_echoes_over_websocket() -> Result<()> {
    let upstream = Upstream::start().await?;
    let mut socket = websocket::open(upstream.address(), "/ws").await?;
    socket.send(Message::text("hello")).await?;
    let echo = wait::within("the echo comes", wait::PATIENCE, socket.next()).await?;
    assert_eq!(echo.transpose()?, Some(Message::text("hello")));
    Ok(())
}

fn plan(upstream: &Upstream, path: &str) -> Plan {
    Plan {
        address: upstream.address(),
        protocol: Protocol::Http1,
        clients: 2,
        interval: Duration::from_millis(5),
        path: path.to_owned(),
    }
}

#[tokio::test]
async fn load_counts_each_kind_of_failure() -> Result<()> {
    let upstream = Upstream::start().await?;
    for (path, failure) in [
        ("/reset/before", Failure::NoResponse),
        ("/reset/after", Failure::Truncated),
        ("/status/503", Failure::ServerError),
    ] {
        let load = Load::start(&[plan(&upstream, path)]);
        load.wait_for_requests(10).await?;
        let tally = load.stop().await;
        assert_eq!(
            tally.failures.get(&failure),
            Some(&tally.requests),
            "{path}: {tally:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn load_counts_a_connection_that_was_closed_without_a_word() -> Result<()> {
    let upstream = Upstream::start().await?;
    let load = Load::start(&[plan(&upstream, "/")]);
    load.wait_for_requests(10).await?;
    assert_eq!(load.tally().failed(), 0);
    drop(upstream);
    load.wait_for_requests(10).await?;
    let failures = load.stop().await.failures;
    assert_eq!(
        failures.get(&Failure::NoResponse),
        Some(&2),
        "both clients had an open connection: {failures:?}"
    );
    assert!(failures.contains_key(&Failure::Connect), "{failures:?}");
    Ok(())
}

#[tokio::test]
async fn load_leaves_a_connection_that_was_announced_to_close_without_a_failure() -> Result<()> {
    let upstream = Upstream::start().await?;
    let load = Load::start(&[plan(&upstream, "/close")]);
    load.wait_for_requests(10).await?;
    let tally = load.stop().await;
    assert_eq!(
        (tally.failed(), tally.told_to_leave),
        (0, tally.requests),
        "{tally:?}"
    );
    Ok(())
}

/// An HTTP/2 server that says GOAWAY after ten requests on a connection, and answers all of them. It notes the most
/// requests that it had at a time on one.
async fn http2_that_leaves(most: Arc<AtomicUsize>) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(ten_requests(stream, Arc::clone(&most)));
        }
    });
    Ok(address)
}

async fn ten_requests(stream: TcpStream, most: Arc<AtomicUsize>) -> Result<()> {
    let mut connection = h2::server::handshake(stream).await?;
    let (mut requests, under_way) = (0, Arc::new(AtomicUsize::new(0)));
    while let Some(request) = connection.accept().await {
        let (_, mut respond) = request?;
        most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let under_way = Arc::clone(&under_way);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(3)).await;
            under_way.fetch_sub(1, Ordering::SeqCst);
            respond.send_response(http::Response::new(()), true)
        });
        requests += 1;
        if requests == 10 {
            connection.graceful_shutdown();
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_with_several_streams_follows_a_goaway_without_a_failure() -> Result<()> {
    let most = Arc::default();
    let plan = Plan {
        address: http2_that_leaves(Arc::clone(&most)).await?,
        protocol: Protocol::Http2,
        clients: 2,
        interval: Duration::ZERO,
        path: "/".to_owned(),
    };
    let load = Load::start_streams(&[plan], 4);
    load.wait_for_requests(500).await?;
    let tally = load.stop().await;
    assert_eq!(tally.failed(), 0, "{tally:?}");
    assert!(tally.told_to_leave > 10, "{tally:?}");
    assert!(tally.connections >= tally.told_to_leave, "{tally:?}");
    assert_eq!(most.load(Ordering::SeqCst), 4);
    Ok(())
}

#[tokio::test]
async fn upstream_tells_when_it_last_answered_and_draws_delays() -> Result<()> {
    let upstream = Upstream::start().await?;
    assert_eq!(upstream.last_answer(), None);
    let mut connection = http1::Connection::open(upstream.address()).await?;
    for path in ["/mix/1/2/3/0", "/mix/1/2/3/1"] {
        let before = journal::now();
        connection.get(path).await?;
        let last = upstream.last_answer().unwrap_or_default();
        let delay = Duration::from_millis(if path.ends_with('1') { 2 } else { 1 });
        assert!(last >= before + delay.as_nanos() as u64 && last <= journal::now());
    }
    // A request that is given up is not answered.
    let last = upstream.last_answer();
    let request = b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n";
    raw::send_and_reset(upstream.address(), request, Duration::from_millis(20)).await?;
    upstream.wait_held(0).await?;
    assert_eq!(upstream.last_answer(), last);
    Ok(())
}
