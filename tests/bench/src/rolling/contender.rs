//! The ways to stop an Envoy and the app behind it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A way. Those that carry another product's name are emulations, written anew from a description of its loop; where that
/// is silent they do what is best for them. All but [`Contender::Plain`] stop Envoy first, wait for its end, and then the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contender {
    /// SIGTERM to both at once.
    Plain,
    /// What many entrypoints do: a drain, and then a fixed time is slept. Envoy's health checks are failed as well, which makes
    /// every response close its connection, rather than a share that grows over ten minutes, and tells the load balancer.
    FixedSleep,
    /// Envoy Gateway's loop over the number of connections, with a least time and a deadline. The least time is waited out, and
    /// the first question that counts is asked at its very end.
    EnvoyGateway,
    /// Contour's loop over the number of connections, which asks at once for the first time. It has no deadline, so the
    /// benchmark ends it.
    Contour,
    /// Istio's default. The load balancer is told at once, as Kubernetes takes a pod that ends out of its endpoints, and
    /// Envoy has the flags that Istio starts it with (the drain strategy `immediate`, 45 s).
    Istio,
    /// Istio with the loop over the number of connections that one can opt in to. It has no deadline, so the benchmark ends
    /// it. Told and started as [`Contender::Istio`].
    IstioZeroConnections,
    /// SIGTERM to `ebb run`.
    Ebb,
}

impl Contender {
    /// All of them, in the order in which they take turns.
    pub const ALL: [Self; 7] = [
        Self::Plain,
        Self::FixedSleep,
        Self::EnvoyGateway,
        Self::Contour,
        Self::Istio,
        Self::IstioZeroConnections,
        Self::Ebb,
    ];

    /// As few as a short run needs.
    pub const FEW: [Self; 4] = [Self::Plain, Self::FixedSleep, Self::EnvoyGateway, Self::Ebb];

    /// What tables and plots call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain SIGTERM",
            Self::FixedSleep => "drain, sleep 15 s",
            Self::EnvoyGateway => "Envoy Gateway (emulated)",
            Self::Contour => "Contour (emulated)",
            Self::Istio => "Istio (emulated)",
            Self::IstioZeroConnections => "Istio, opt-in (emulated)",
            Self::Ebb => "Ebb",
        }
    }

    /// What it does, in a sentence without its end.
    #[must_use]
    pub fn what(self) -> &'static str {
        match self {
            Self::Plain => "SIGTERM to Envoy and the app at once",
            Self::FixedSleep => {
                "`/healthcheck/fail` and `/drain_listeners?graceful`, 15 s of sleep, then Envoy and then the app are stopped"
            }
            Self::EnvoyGateway => {
                "`/healthcheck/fail`, each second the connections are counted; done at none once 10 s have passed, or at 60 s"
            }
            Self::Contour => {
                "`/healthcheck/fail`, each 5 s the connections are counted; done at none, without a deadline (cut at 60 s here)"
            }
            Self::Istio => {
                "taken out of the load balancer at once, `/drain_listeners?graceful` with the strategy `immediate`, 5 s of sleep"
            }
            Self::IstioZeroConnections => {
                "as Istio, and after the 5 s each second the connections are counted; done at none, without a deadline (cut at 60 s \
                 here; an Envoy that drains its listeners closes idle connections by itself as the 45 s of its drain time end)"
            }
            Self::Ebb => {
                "SIGTERM to `ebb run`: `/ready` fails for the announced time, connections are closed with their next response, and \
                 once the last request is done Envoy and then the app are stopped"
            }
        }
    }

    /// Whether the load balancer is told of the end, rather than finding it out by its health checks.
    #[must_use]
    pub fn is_announced(self) -> bool {
        matches!(self, Self::Istio | Self::IstioZeroConnections)
    }

    /// Flags of Envoy that belong to this way.
    #[must_use]
    pub fn envoy_flags(self) -> &'static [&'static str] {
        if self.is_announced() {
            &["--drain-strategy", "immediate", "--drain-time-s", "45"]
        } else {
            &[]
        }
    }
}

/// When loops that have no deadline of their own are ended.
const CUT: u64 = 60;

/// How a way waits until it stops Envoy; it does not for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Not a moment less than this.
    pub least: Duration,
    /// Then until there are no connections, asked this often; not at all for none.
    pub poll: Option<Poll>,
}

/// A loop over the number of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poll {
    /// Between two questions.
    pub every: Duration,
    /// Since the beginning of the stop, whatever the answers.
    pub deadline: Duration,
}

impl Contender {
    /// How it waits, all times divided by `divisor`; none for those that do not, or (Ebb) know by themselves.
    #[must_use]
    pub fn wait(self, divisor: u32) -> Option<Wait> {
        let time = |seconds| Duration::from_secs(seconds) / divisor.max(1);
        let wait = |least, every: Option<u64>| Wait {
            least: time(least),
            poll: every.map(|every| Poll {
                every: time(every),
                deadline: time(CUT),
            }),
        };
        match self {
            Self::Plain | Self::Ebb => None,
            Self::FixedSleep => Some(wait(15, None)),
            // Its own deadline is 60 s as well.
            Self::EnvoyGateway => Some(wait(10, Some(1))),
            Self::Contour => Some(wait(0, Some(5))),
            Self::Istio => Some(wait(5, None)),
            Self::IstioZeroConnections => Some(wait(5, Some(1))),
        }
    }
}
