//! The clients of the benchmarks, checked against each other: a server cuts connections on purpose, and each client has
//! to see it. A client that hid a retry or a reset would make every table a lie.

mod server;

use std::collections::BTreeMap;

use anyhow::Result;
use ebb_bench::tools::{self, Outcome, Target};
use ebb_e2e::load::Protocol;

use self::server::{Manner, Server};

const CONNECTIONS: usize = 4;

fn target(server: &Server) -> Target {
    Target {
        address: server.address(),
        path: "/".to_owned(),
        connections: CONNECTIONS,
    }
}

fn count(outcome: &Outcome, kinds: &[&str]) -> u64 {
    kinds.iter().filter_map(|kind| outcome.failures.get(*kind)).sum()
}

/// What our own client calls what the server did, exactly as often as it did it.
fn expected(server: &Server) -> BTreeMap<String, u64> {
    let cuts = server.cuts();
    let silent = cuts.before + cuts.reset;
    let kinds = [
        ("closed without a response", silent),
        ("response cut short", cuts.within),
        ("server error", cuts.status),
    ];
    kinds.map(|(kind, count)| (kind.to_owned(), count)).into()
}

async fn our_client_sees_each_cut(protocol: Protocol) -> Result<()> {
    let server = Server::start(protocol, Manner::Cuts).await?;
    let outcome = tools::clients(protocol, &target(&server), 400).await?;
    assert_eq!(outcome.failures, expected(&server));
    assert!(outcome.failures.values().all(|count| *count > 0), "{outcome:?}");
    assert_eq!(outcome.responses + outcome.failed(), server.requests());
    Ok(())
}

#[tokio::test]
async fn our_client_sees_each_cut_over_http_1() -> Result<()> {
    our_client_sees_each_cut(Protocol::Http1).await
}

#[tokio::test]
async fn our_client_sees_each_cut_over_http_2() -> Result<()> {
    our_client_sees_each_cut(Protocol::Http2).await
}

#[tokio::test]
async fn wrk_sees_each_cut() -> Result<()> {
    let server = Server::start(Protocol::Http1, Manner::Cuts).await?;
    let outcome = tools::wrk(&target(&server), 1).await?;
    let cuts = server.cuts();
    // Of what was in flight when its time was up it says nothing.
    let unseen = CONNECTIONS as u64;
    let lost = cuts.before + cuts.within + cuts.reset;
    let seen = count(&outcome, &["read"]);
    assert!(
        seen > 0 && seen <= lost && seen + unseen >= lost,
        "{outcome:?} {cuts:?}"
    );
    let seen = count(&outcome, &["status"]);
    assert!(
        seen > 0 && seen <= cuts.status && seen + unseen >= cuts.status,
        "{outcome:?} {cuts:?}"
    );
    assert_eq!(
        outcome.failed(),
        count(&outcome, &["read", "status"]),
        "{outcome:?}"
    );
    Ok(())
}

/// A connection of `h2load` that was cut is not replaced: all that it had left to send has failed.
async fn h2load_sees_cuts(protocol: Protocol) -> Result<()> {
    let server = Server::start(protocol, Manner::Cuts).await?;
    let outcome = tools::h2load(protocol, &target(&server), 1000).await?;
    let cuts = server.cuts();
    let lost = count(&outcome, &["no response"]);
    assert!(
        lost > 0 && lost >= cuts.before + cuts.within + cuts.reset,
        "{outcome:?} {cuts:?}"
    );
    assert_eq!(count(&outcome, &["status"]), cuts.status, "{outcome:?}");
    assert_eq!(outcome.responses + lost, 1000, "{outcome:?}");
    Ok(())
}

#[tokio::test]
async fn h2load_sees_cuts_over_http_1() -> Result<()> {
    h2load_sees_cuts(Protocol::Http1).await
}

#[tokio::test]
async fn h2load_sees_cuts_over_http_2() -> Result<()> {
    h2load_sees_cuts(Protocol::Http2).await
}

async fn h2load_sees_each_status(protocol: Protocol) -> Result<()> {
    let server = Server::start(protocol, Manner::Statuses).await?;
    let outcome = tools::h2load(protocol, &target(&server), 1000).await?;
    assert_eq!(count(&outcome, &["status"]), server.cuts().status);
    assert_eq!(
        (outcome.failed(), outcome.responses),
        (server.cuts().status, 1000),
        "{outcome:?}"
    );
    assert!(outcome.failed() > 0);
    Ok(())
}

#[tokio::test]
async fn h2load_sees_each_status_over_http_1() -> Result<()> {
    h2load_sees_each_status(Protocol::Http1).await
}

#[tokio::test]
async fn h2load_sees_each_status_over_http_2() -> Result<()> {
    h2load_sees_each_status(Protocol::Http2).await
}

/// Whoever is told to go and goes has lost nothing.
#[tokio::test]
async fn every_client_comes_back_after_connection_close() -> Result<()> {
    let server = Server::start(Protocol::Http1, Manner::Leaves).await?;
    let outcome = tools::wrk(&target(&server), 1).await?;
    assert!(
        outcome.failures.is_empty() && outcome.responses > 0,
        "{outcome:?}"
    );
    assert!(
        server.connections() >= outcome.responses,
        "{} {outcome:?}",
        server.connections()
    );

    let server = Server::start(Protocol::Http1, Manner::Leaves).await?;
    let outcome = tools::h2load(Protocol::Http1, &target(&server), 200).await?;
    assert_eq!((outcome.failed(), outcome.responses), (0, 200), "{outcome:?}");
    assert!(server.connections() >= 200, "{}", server.connections());

    let server = Server::start(Protocol::Http1, Manner::Leaves).await?;
    let outcome = tools::clients(Protocol::Http1, &target(&server), 200).await?;
    assert!(outcome.failures.is_empty(), "{outcome:?}");
    assert_eq!(
        (server.connections(), server.requests()),
        (outcome.responses, outcome.responses)
    );
    Ok(())
}

/// Why the load of a closing Envoy over HTTP/2 is not `h2load`.
#[tokio::test]
async fn only_our_client_comes_back_after_a_goaway() -> Result<()> {
    let server = Server::start(Protocol::Http2, Manner::Leaves).await?;
    let outcome = tools::clients(Protocol::Http2, &target(&server), 200).await?;
    assert!(outcome.failures.is_empty(), "{outcome:?}");
    assert_eq!(
        (server.connections(), server.requests()),
        (outcome.responses, outcome.responses)
    );

    let server = Server::start(Protocol::Http2, Manner::Leaves).await?;
    let outcome = tools::h2load(Protocol::Http2, &target(&server), 200).await?;
    assert!(count(&outcome, &["no response"]) > 0, "{outcome:?}");
    Ok(())
}
