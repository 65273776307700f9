//! That what the clients did was really seen by Envoy and by the upstream.

use anyhow::{Result, ensure};
use ebb_e2e::world::World;

use crate::mix::{Kind, LISTENERS, per_round};

/// Compares the counters of Envoy and the upstream with the number of cases of `rounds` rounds.
pub(crate) async fn check(world: &World, rounds: u64) -> Result<()> {
    let sent = |kinds: &[Kind]| rounds * kinds.iter().map(|&kind| per_round(kind)).sum::<u64>();
    let retries = 2 * sent(&[Kind::Retried]) + 3 * sent(&[Kind::RetriesExhausted]);
    let resets = [Kind::UpstreamResetsBefore, Kind::UpstreamResetsAfter];
    let client_resets = [Kind::ResetInRequest, Kind::ResetWaiting, Kind::ResetInResponse];
    let client_leaves = [Kind::CloseInRequest, Kind::CloseWaiting, Kind::CloseInResponse];
    let in_response = [Kind::CloseInResponse, Kind::ResetInResponse];
    let upgrades = sent(&[Kind::WebSocket, Kind::WebSocketReset]);
    let cluster = |name: &str| format!("cluster.upstream.{name}");
    for (names, at_least) in [
        (vec![cluster("upstream_rq_retry")], retries),
        (vec![cluster("upstream_rq_retry_success")], sent(&[Kind::Retried])),
        (
            vec![cluster("upstream_rq_retry_limit_exceeded")],
            sent(&[Kind::RetriesExhausted]),
        ),
        (vec![cluster("upstream_rq_timeout")], sent(&[Kind::RouteTimeout])),
        (
            vec![cluster("upstream_internal_redirect_succeeded_total")],
            sent(&[Kind::Redirected]),
        ),
        (
            vec![cluster("upstream_cx_destroy_remote_with_active_rq")],
            sent(&resets),
        ),
        // Those who left early may not have come so far.
        (
            vec![cluster("upstream_cx_destroy_local_with_active_rq")],
            sent(&in_response),
        ),
        (
            on_listeners("downstream_rq_rx_reset"),
            sent(&client_resets) + sent(&client_leaves),
        ),
        (on_listeners("downstream_cx_upgrades_total"), upgrades),
        (on_listeners("no_route"), sent(&[Kind::NoRoute])),
        (
            on_listeners("downstream_cx_protocol_error"),
            sent(&[Kind::Garbage]),
        ),
        (on_listeners("downstream_rq_4xx"), sent(&[Kind::NoRoute])),
        (
            on_listeners("downstream_rq_5xx"),
            sent(&[
                Kind::RouteTimeout,
                Kind::UpstreamResetsBefore,
                Kind::RetriesExhausted,
            ]),
        ),
        (on_listeners("downstream_rq_http2_total"), 1),
    ] {
        let mut seen = 0;
        for name in &names {
            seen += world.envoy.stat(name).await?.unwrap_or(0);
        }
        ensure!(
            seen >= at_least,
            "{names:?} is {seen}, and should be at least {at_least}"
        );
        println!("{names:?}: {seen} (at least {at_least})");
    }
    for (behaviour, more_than) in [
        ("upload", sent(&[Kind::Post])),
        ("hold", 0),
        ("retry", retries),
        ("redirect", sent(&[Kind::Redirected]) - 1),
        ("slow", sent(&in_response) - 1),
        ("ws", upgrades - 1),
    ] {
        let seen = world.upstream.requests_of(behaviour);
        ensure!(
            seen > more_than,
            "the upstream saw {seen} of /{behaviour}, and should have seen more than {more_than}"
        );
        println!("upstream: {seen} of /{behaviour}");
    }
    Ok(())
}

/// The name of a counter on each listener.
fn on_listeners(counter: &str) -> Vec<String> {
    let names = LISTENERS.map(|listener| format!("http.{listener}.{counter}"));
    names.into()
}
