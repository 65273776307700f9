//! What an Envoy still owes its clients beyond the requests in flight, as it is seen from outside of its filters: TCP
//! sessions, bytes that no client's kernel has acknowledged, and calls to upstreams that Envoy makes on its own account.

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
    /// This, with what `before` owed where it cannot be seen any more: evidence that is lost is no reason to end.
    pub(super) fn or_as_before(self, before: Self) -> Self {
        Self {
            tcp: self.tcp.or(before.tcp.filter(|sessions| *sessions > 0)),
            unsent: self.unsent.or(before.unsent.filter(|unsent| unsent.bytes() > 0)),
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
