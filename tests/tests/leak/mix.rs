//! What is sent: every way in which a request can end, in fixed shares and random order.

use ebb_e2e::load::Protocol::{self, Http1, Http2};
use fastrand::Rng;

use Kind::*;

/// How a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// 200.
    Plain,
    /// 200 to a request with a body.
    Post,
    /// Two requests in one write, both answered with 200.
    Pipelined,
    /// 404: no route.
    NoRoute,
    /// The client closes in the middle of its request's body.
    CloseInRequest,
    /// The client resets in the middle of its request's body.
    ResetInRequest,
    /// The client closes while it waits for the response.
    CloseWaiting,
    /// The client resets while it waits for the response.
    ResetWaiting,
    /// The client closes in the middle of the response's body.
    CloseInResponse,
    /// The client resets in the middle of the response's body.
    ResetInResponse,
    /// The client's connection breaks with several streams in flight.
    LoseConnection,
    /// 504: the route's timeout.
    RouteTimeout,
    /// 503: the upstream resets before its response.
    UpstreamResetsBefore,
    /// A response cut short: the upstream resets after its headers.
    UpstreamResetsAfter,
    /// 200 after two retries.
    Retried,
    /// 503 after the last retry.
    RetriesExhausted,
    /// 200 after Envoy followed a redirect itself.
    Redirected,
    /// A WebSocket opened, used and closed.
    WebSocket,
    /// A WebSocket opened, used and reset by the client.
    WebSocketReset,
    /// No Host: 400 over HTTP/1, and over HTTP/2, where Envoy's codec sees it first, a refused stream.
    NoHost,
    /// HTTP/1.0: 426 on `ingress`, 200 on `internal`.
    Http10,
    /// 400: no HTTP.
    Garbage,
}

/// The listeners, as the tests number them.
pub(crate) const LISTENERS: [&str; 2] = ["ingress", "internal"];

/// Requests of each kind in a round, on each listener.
const SHARES: &[(Kind, Protocol, usize)] = &[
    (Plain, Http1, 65),
    (Plain, Http2, 70),
    (Post, Http1, 20),
    (Post, Http2, 20),
    (Pipelined, Http1, 10),
    (NoRoute, Http1, 20),
    (NoRoute, Http2, 20),
    (CloseInRequest, Http1, 12),
    (ResetInRequest, Http1, 13),
    (ResetInRequest, Http2, 20),
    (CloseWaiting, Http1, 12),
    (ResetWaiting, Http1, 13),
    (ResetWaiting, Http2, 20),
    (CloseInResponse, Http1, 12),
    (ResetInResponse, Http1, 13),
    (ResetInResponse, Http2, 20),
    (LoseConnection, Http2, 5),
    (RouteTimeout, Http1, 8),
    (RouteTimeout, Http2, 7),
    (UpstreamResetsBefore, Http1, 10),
    (UpstreamResetsBefore, Http2, 10),
    (UpstreamResetsAfter, Http1, 10),
    (UpstreamResetsAfter, Http2, 10),
    (Retried, Http1, 10),
    (Retried, Http2, 10),
    (RetriesExhausted, Http1, 5),
    (RetriesExhausted, Http2, 5),
    (Redirected, Http1, 10),
    (Redirected, Http2, 10),
    (WebSocket, Http1, 10),
    (WebSocketReset, Http1, 5),
    (NoHost, Http1, 5),
    (NoHost, Http2, 5),
    (Http10, Http1, 3),
    (Garbage, Http1, 2),
];

/// One thing to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// What.
    pub(crate) kind: Kind,
    /// How.
    pub(crate) protocol: Protocol,
    /// Where: an index into [`LISTENERS`].
    pub(crate) listener: usize,
}

/// All cases of a round, shuffled.
pub(crate) fn round(rng: &mut Rng) -> Vec<Case> {
    let mut cases = Vec::new();
    for listener in 0..LISTENERS.len() {
        for &(kind, protocol, number) in SHARES {
            let case = Case {
                kind,
                protocol,
                listener,
            };
            cases.extend(std::iter::repeat_n(case, number));
        }
    }
    rng.shuffle(&mut cases);
    cases
}

/// Cases of one kind in a round, on both listeners and by all protocols.
pub(crate) fn per_round(kind: Kind) -> u64 {
    let shares = SHARES.iter().filter(|share| share.0 == kind);
    (shares.map(|share| share.2).sum::<usize>() * LISTENERS.len()) as u64
}
