//! What an Envoy still owes its clients beyond the requests in flight, as it is seen from outside of its filters: TCP
//! sessions, bytes that no client's kernel has acknowledged, and calls to upstreams that Envoy makes on its own account.

use ebb_proto::v1;

/// What one Envoy has outstanding in the scope of a drain. `None` = it cannot be seen here, which is not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outstanding {
    /// Downstream TCP sessions, which are no HTTP connections.
    pub tcp: Option<u64>,
    /// Responses that Envoy has finished and clients have not yet received.
    pub unsent: Option<Unsent>,
    /// Requests to upstreams, active or pending, of all clusters but Ebb's own: mirrors, access logs, side calls.
    pub upstream: Option<u64>,
}

/// Bytes that were written for clients and not yet acknowledged by their kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsent {
    /// In Envoy's own buffers.
    pub buffered: u64,
    /// In the send queues of its sockets.
    pub queued: u64,
    /// The connections of which the send queues hold some.
    pub clients: u64,
}

impl Outstanding {
    /// This, with what `before` owed where it cannot be seen any more: evidence that is lost is no reason to end. An Envoy that
    /// tells the rest and no buffers has sent what was just in them; whether that has arrived is not seen.
    pub(super) fn or_as_before(self, before: Self) -> Self {
        let envoy_tells = self.tcp.is_some() || self.upstream.is_some();
        let is_lost = |unsent: &Unsent| unsent.queued > 0 || unsent.buffered > 0 && !envoy_tells;
        Self {
            tcp: self.tcp.or(before.tcp.filter(|sessions| *sessions > 0)),
            unsent: self.unsent.or(before.unsent.filter(is_lost)),
            upstream: self.upstream.or(before.upstream.filter(|requests| *requests > 0)),
        }
    }
}

impl Unsent {
    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.buffered.saturating_add(self.queued)
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            buffered: self.buffered.saturating_add(other.buffered),
            queued: self.queued.saturating_add(other.queued),
            clients: self.clients.saturating_add(other.clients),
        }
    }
}

/// What is owed, part by part: `2 TCP sessions`, `37 kB towards 1 client`, `1 upstream request`.
pub fn parts(owed: &v1::Outstanding) -> Vec<String> {
    let some = |count: Option<u64>| count.filter(|count| *count > 0);
    let sessions = some(owed.tcp_sessions).map(|sessions| counted(sessions, "TCP session"));
    let unsent = some(owed.unsent_bytes).map(|bytes| match some(owed.unsent_clients) {
        Some(clients) => format!("{} towards {}", size(bytes), counted(clients, "client")),
        None => format!("{} towards clients", size(bytes)),
    });
    let upstream = some(owed.upstream_requests).map(|requests| counted(requests, "upstream request"));
    [sessions, unsent, upstream].into_iter().flatten().collect()
}

fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// `512 bytes`, `37 kB`, `23 MB`: never less than it is.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => counted(bytes, "byte"),
        1_000..1_000_000 => format!("{} kB", bytes.div_ceil(1_000)),
        _ => format!("{} MB", bytes.div_ceil(1_000_000)),
    }
}

#[cfg(test)]
impl Outstanding {
    /// An Envoy that can be seen, and owes nothing.
    pub(crate) const SETTLED: Self = Self {
        tcp: Some(0),
        unsent: Some(Unsent {
            buffered: 0,
            queued: 0,
            clients: 0,
        }),
        upstream: Some(0),
    };

    /// An Envoy that still owes one client these bytes.
    pub(crate) fn queued(bytes: u64) -> Self {
        Self {
            unsent: Some(Unsent {
                queued: bytes,
                clients: 1,
                ..Unsent::default()
            }),
            ..Self::SETTLED
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_owed_is_told_and_what_is_not_known_is_not() {
        let mut owed = v1::Outstanding {
            tcp_sessions: Some(2),
            unsent_bytes: Some(37_394),
            unsent_clients: Some(1),
            upstream_requests: Some(1),
            unseen_nodes: 0,
        };
        assert_eq!(
            parts(&owed),
            ["2 TCP sessions", "38 kB towards 1 client", "1 upstream request"]
        );
        (owed.tcp_sessions, owed.upstream_requests) = (Some(0), None);
        (owed.unsent_bytes, owed.unsent_clients) = (Some(1), Some(0));
        assert_eq!(parts(&owed), ["1 byte towards clients"]);
        assert!(parts(&v1::Outstanding::default()).is_empty());
        assert_eq!([999, 1_000, 24_000_001].map(size), ["999 bytes", "1 kB", "25 MB"]);
    }
}
