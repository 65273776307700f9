//! The raw figures of a fleet. Times are in milliseconds, memory in bytes, CPU in shares of one core.

use serde::{Deserialize, Serialize};

use crate::stats::percentile;

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fleet {
    /// One per number of filters and layout of connections.
    pub sizes: Vec<Size>,
}

/// So many filters, in one layout.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Size {
    /// Filters, each with a stream.
    pub streams: u64,
    /// Streams that share a connection.
    pub per_connection: u64,
    /// All of them attaching at once.
    pub attach: Attach,
    /// Private memory of the control plane before anybody attached.
    pub memory_empty: u64,
    /// With everybody attached, before the first drain.
    pub memory_attached: u64,
    /// With everybody attached, after the drains.
    pub memory_after: u64,
    /// While nothing happens.
    pub idle: Idle,
    /// The drains, one by one.
    pub drains: Vec<DrainRound>,
    /// While a drain waits for requests of everybody.
    pub load: Load,
    /// The control plane killed and started again.
    pub storm: Storm,
    /// The same filters on a gRPC server that does nothing.
    pub bare: Bare,
}

/// Everybody attaching at once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attach {
    /// Until the last filter had its first command.
    pub attached: f64,
    /// Until a view of the fleet showed all of them live.
    pub shown: f64,
    /// How long a call of `ListNodes` took after that, which asks everybody and waits for answers for a bounded time.
    pub listing: f64,
    /// Reporters that had answered in it.
    pub listed: u64,
    /// Attempts that found nobody to connect to.
    pub refused: u64,
}

/// Nothing happens but heartbeats.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Idle {
    /// For so long.
    pub millis: f64,
    /// CPU of the server.
    pub cpu: f64,
    /// Reports sent by all filters.
    pub reports: u64,
}

/// One drain of everything, with a request in flight on every filter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrainRound {
    /// Filters that were told.
    pub told: u64,
    /// From the call of StartDrain to the command, over the filters: median.
    pub told_p50: f64,
    /// The same: 99th percentile.
    pub told_p99: f64,
    /// The same: the last.
    pub told_max: f64,
    /// From the call of StartDrain to its answer.
    pub answered: f64,
    /// From the end of all requests to the event `drained`.
    pub drained: f64,
    /// From the last answer of a filter to the event `drained`.
    pub after_last_answer: f64,
    /// Commands that filters got from the call to the event.
    pub commands: u64,
    /// Reports that they sent meanwhile.
    pub reports: u64,
}

/// A drain that waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    /// For so long.
    pub millis: f64,
    /// Reports that the control plane was sent.
    pub reports: u64,
    /// CPU of the control plane.
    pub cpu: f64,
}

/// The control plane killed with a drain on, and started again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Storm {
    /// From its start to its first answer.
    pub up: f64,
    /// From its start until the last filter was attached and told of the drain again.
    pub back: f64,
    /// Filters that were told again.
    pub told: u64,
    /// Attempts that found nobody to connect to, from the kill until all were back.
    pub refused: u64,
    /// Streams opened beyond one per filter.
    pub extra: u64,
    /// Streams that ended in the time after that in which nothing should happen.
    pub unsettled: u64,
    /// From the end of all requests to the event `drained`, on the new control plane.
    pub drained: f64,
}

/// A gRPC server that does nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bare {
    /// Private memory before anybody attached.
    pub memory_empty: u64,
    /// With everybody attached.
    pub memory_attached: u64,
    /// While nothing happens but heartbeats.
    pub idle: Idle,
}

impl Size {
    /// The most important figures, in one line.
    #[must_use]
    pub fn in_words(&self) -> String {
        let told: Vec<f64> = self.drains.iter().map(|drain| drain.told_p99).collect();
        let drained: Vec<f64> = self.drains.iter().map(|drain| drain.drained).collect();
        let median = |of: &[f64]| percentile(of, 50.0).unwrap_or_default();
        format!(
            "fleet: attached in {:.0} ms, told in {:.0} ms (p99), drained {:.0} ms after the last request; a drain takes {:.0} \
             reports/s at {:.0}% of a core; idle {:.1}% (bare server {:.1}%); {:.1} KiB per stream, {:.1} after drains (bare \
             server {:.1}); back in {:.0} ms",
            self.attach.attached,
            median(&told),
            median(&drained),
            self.load.rate(),
            self.load.cpu * 100.0,
            self.idle.cpu * 100.0,
            self.bare.idle.cpu * 100.0,
            self.memory() / 1024.0,
            self.memory_later() / 1024.0,
            self.memory_bare() / 1024.0,
            self.storm.back,
        )
    }

    /// Private memory per stream, in bytes, once everybody has attached.
    #[must_use]
    pub fn memory(&self) -> f64 {
        self.per_stream(self.memory_attached, self.memory_empty)
    }

    /// The same after the drains.
    #[must_use]
    pub fn memory_later(&self) -> f64 {
        self.per_stream(self.memory_after, self.memory_empty)
    }

    /// The same of the bare server.
    #[must_use]
    pub fn memory_bare(&self) -> f64 {
        self.per_stream(self.bare.memory_attached, self.bare.memory_empty)
    }

    fn per_stream(&self, with: u64, without: u64) -> f64 {
        with.saturating_sub(without) as f64 / self.streams.max(1) as f64
    }
}

impl Load {
    /// Reports per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.reports as f64 / (self.millis / 1e3).max(f64::MIN_POSITIVE)
    }

    /// CPU time of a report, in microseconds.
    #[must_use]
    pub fn cpu_per_report(&self) -> f64 {
        self.cpu * self.millis * 1e3 / self.reports.max(1) as f64
    }
}
