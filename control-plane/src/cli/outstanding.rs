//! What Envoys still owe their clients beyond the requests in flight, as every command shows it.

use ebb_proto::v1::{Drain, Outstanding, Phase};
use serde::Serialize;

use super::common::count;
use crate::core::outstanding;

/// Its JSON form is part of the stable command line. What is null cannot be seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct OutstandingView {
    tcp_sessions: Option<u64>,
    unsent_bytes: Option<u64>,
    unsent_clients: Option<u64>,
    upstream_requests: Option<u64>,
    unseen_nodes: u32,
}

impl From<&Outstanding> for OutstandingView {
    fn from(owed: &Outstanding) -> Self {
        Self {
            tcp_sessions: owed.tcp_sessions,
            unsent_bytes: owed.unsent_bytes,
            unsent_clients: owed.unsent_clients,
            upstream_requests: owed.upstream_requests,
            unseen_nodes: owed.unseen_nodes,
        }
    }
}

/// What a drain has outstanding, part by part; nothing if it has nothing.
pub(crate) fn owed(drain: &Drain) -> Vec<String> {
    drain.outstanding.iter().flat_map(outstanding::parts).collect()
}

/// What a drain waits for besides requests and reporters, part by part: what is owed, and that it lingers.
pub(crate) fn awaited(drain: &Drain) -> Vec<String> {
    let mut parts = owed(drain);
    let unseen = drain.outstanding.map_or(0, |owed| owed.unseen_nodes);
    if parts.is_empty() && unseen > 0 && drain.phase() == Phase::Quiet {
        parts.push(format!("clients of {}, unseen", count(unseen.into(), "node")));
    }
    parts
}
