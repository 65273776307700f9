//! What is done in a run, as data: drawn up front from a seed, and printed with every failure.
//!
//! A schedule is one world and several rounds in it. Times within a round are in milliseconds from its start.

mod draw;
mod faults;
mod text;

use ebb_e2e::bins::EnvoyVersion;

pub use self::faults::{Claim, Fault, Harmless};

/// A world, and what happens in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// What it was drawn from.
    pub seed: u64,
    /// Which processes there are.
    pub world: WorldPlan,
    /// One after the other.
    pub rounds: Vec<Round>,
}

/// Which processes there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorldPlan {
    /// One or two.
    pub envoys: Vec<EnvoyPlan>,
    /// Where the control plane keeps its state.
    pub state: State,
    /// Whether the filters reach the control plane through a relay, which can cut and silence them. Without it the control
    /// plane sees Envoy itself at the other end.
    pub relay: bool,
    /// Whether the filter is the build that traps when it is told to.
    pub trap: bool,
}

/// One Envoy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvoyPlan {
    /// Which binary.
    pub version: EnvoyVersion,
    /// Its workers.
    pub workers: u32,
    /// Its `node.id`, which two may share.
    pub node: &'static str,
    /// Where Ebb's filters stand.
    pub order: Order,
    /// Whether the control plane knows its admin endpoint.
    pub admin: bool,
    /// The longest pause between two attempts of its filters to reach the control plane; none = the default, 5 s.
    pub reconnect_max_ms: Option<u64>,
}

/// Where Ebb's filters stand in `http_filters`, as seen from ext_authz.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Before it, as the documentation says.
    First,
    /// After it.
    Last,
}

/// Where the control plane keeps its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// In memory.
    Memory,
    /// In a folder.
    Folder,
    /// On a disk of its own, which can be full, read-only or hanging.
    Disk,
}

/// Listeners that every Envoy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Listener {
    /// With Ebb's filters and ext_authz.
    Ingress,
    /// With Ebb's filters.
    Internal,
    /// As `Internal`, through TLS.
    Secure,
    /// HTTP without Ebb's filters.
    Plain,
    /// A `tcp_proxy`.
    Raw,
}

impl Listener {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Ingress,
        Self::Internal,
        Self::Secure,
        Self::Plain,
        Self::Raw,
    ];

    /// Its name in Envoy, in the filter's configuration, and as `stat_prefix`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Internal => "internal",
            Self::Secure => "secure",
            Self::Plain => "plain",
            Self::Raw => "raw",
        }
    }

    /// Whether Ebb's filters stand in it.
    #[must_use]
    pub fn has_filter(self) -> bool {
        matches!(self, Self::Ingress | Self::Internal | Self::Secure)
    }
}

/// Addresses of the upstream. Sessions of `tcp_proxy` have one of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The first.
    A,
    /// The second.
    B,
}

/// Some drains, with traffic and faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// At least one.
    pub drains: Vec<DrainPlan>,
    /// Each with a connection of its own.
    pub clients: Vec<ClientPlan>,
    /// In the order of their beginning.
    pub faults: Vec<FaultPlan>,
}

/// A drain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainPlan {
    /// When it is asked for.
    pub at: u64,
    /// Whether it is asked for only when the control plane is there again, if it is away then.
    pub waits: bool,
    /// By whom.
    pub via: Via,
    /// What it drains.
    pub scope: Scope,
    /// How.
    pub policy: Policy,
    /// When it is cancelled, if it runs then.
    pub cancel_at: Option<u64>,
    /// What is done right after it has ended as drained.
    pub then: Option<Stop>,
}

/// Who asks for a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// `ebb drain --wait -o json`.
    CommandLine,
    /// The API.
    Grpc,
}

/// What a drain covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    All,
    /// Every Envoy of this node id.
    Node(&'static str),
    /// A listener of every Envoy.
    Listener(Listener),
    /// A listener of every Envoy of this node id.
    ListenerOf(&'static str, Listener),
    /// What is in flight towards an upstream endpoint.
    Upstream(Endpoint),
}

/// Who has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The default.
    Auto,
    /// The filters alone.
    Filter,
    /// Envoy alone.
    Admin,
}

/// How a drain is done. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its deadline.
    pub timeout: u64,
    /// Its quiet period.
    pub quiet: u64,
    /// How long it goes on serving as before.
    pub announce: u64,
    /// Over how long it closes more and more.
    pub ramp: u64,
    /// Who has to tell.
    pub evidence: Evidence,
    /// Whether a missed deadline releases it.
    pub abort: bool,
}

/// An Envoy is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Which, by its place in [`WorldPlan::envoys`].
    pub envoy: usize,
    /// With SIGKILL, not SIGTERM.
    pub kill: bool,
}

/// A client with its connection; it opens another when it is told to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPlan {
    /// Which Envoy it talks to, by its place in [`WorldPlan::envoys`].
    pub envoy: usize,
    /// On which listener.
    pub listener: Listener,
    /// How. [`Listener::Raw`] has nothing but bytes.
    pub protocol: Protocol,
    /// How fast it reads.
    pub pace: Pace,
    /// One after the other; on [`Listener::Raw`], one session each.
    pub requests: Vec<RequestPlan>,
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with a window of that many bytes.
    Http2(u32),
}

/// How fast a client reads from its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As fast as it comes.
    Fast,
    /// Some bytes, then a pause in milliseconds; into a small buffer of the kernel.
    Slow(usize, u64),
}

/// A request or a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestPlan {
    /// When it is sent, unless the one before has not been answered by then.
    pub at: u64,
    /// How long ext_authz takes, where there is one.
    pub authz_ms: u64,
    /// How long the upstream takes.
    pub hold_ms: u64,
    /// Length of the answer's body.
    pub bytes: usize,
    /// Which upstream.
    pub endpoint: Endpoint,
}

/// A fault and when it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultPlan {
    /// When.
    pub at: u64,
    /// What.
    pub fault: Fault,
}
