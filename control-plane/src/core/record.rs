//! What outlives the control plane: one record per drain, in protobuf, so that a field can be added and an older
//! record still be read.

use std::time::SystemTime;

use ebb_proto::v1;

use super::{fleet::ReporterRecord, report::ReportRecord};

/// A drain of a shutdown: its `request_id` begins so, that the next run knows what a dead one left.
pub const OF_A_SHUTDOWN: &str = "ebb-shutdown/";

/// All that is kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// The drains.
    pub drains: Vec<Record>,
    /// Nodes whose Envoy was told to close, and not yet told to serve.
    pub levers: Vec<String>,
    /// The reporters.
    pub reporters: Vec<ReporterRecord>,
}

/// A record that was read and makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The drain; empty if it names none.
    pub id: String,
    /// In words, what is wrong with it.
    pub why: String,
}

/// A drain as it is kept in the durable store.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Record {
    /// The drain as it stood, or as it ended.
    #[prost(message, optional, tag = "1")]
    pub drain: Option<v1::Drain>,
    /// How long after its start its listeners began to close; unset = they have not.
    #[prost(message, optional, tag = "2")]
    pub closing_after: Option<prost_types::Duration>,
    /// Its place among all drains: a later one has a greater number.
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
    /// The reporters in its scope.
    #[prost(message, repeated, tag = "4")]
    pub members: Vec<MemberRecord>,
    /// Nodes of which only their Envoy tells something, by its admin endpoint.
    #[prost(string, repeated, tag = "5")]
    pub own_nodes: Vec<String>,
    /// What it did so far.
    #[prost(message, optional, tag = "10")]
    pub report: Option<ReportRecord>,
}

/// Whether a drain has ended, however it did.
#[must_use]
pub fn has_ended(drain: &v1::Drain) -> bool {
    matches!(
        drain.phase(),
        v1::Phase::Drained | v1::Phase::TimedOut | v1::Phase::Cancelled | v1::Phase::Cut
    )
}

impl Record {
    /// Ends and releases the drain of a shutdown whose run died. Whether that changed it.
    pub fn release(&mut self, now: SystemTime) -> bool {
        let Some(drain) = &mut self.drain else {
            return false;
        };
        if !drain.request_id.starts_with(OF_A_SHUTDOWN) {
            return false;
        }
        let ended = has_ended(drain);
        if ended && !drain.holding {
            return false;
        }
        if !ended {
            drain.set_phase(v1::Phase::Cancelled);
            let started = drain.started_at.and_then(|at| SystemTime::try_from(at).ok());
            let elapsed = started.and_then(|started| now.duration_since(started).ok());
            drain.elapsed = elapsed.and_then(|elapsed| elapsed.try_into().ok());
            drain.warnings.push("the `ebb run` that began it died".to_owned());
        }
        drain.holding = false;
        self.closing_after = None;
        self.members.clear();
        true
    }
}

/// A reporter in the scope of a drain.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MemberRecord {
    /// The VM's epoch.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Its node's id.
    #[prost(string, tag = "2")]
    pub node: String,
    /// Random number of its Envoy process.
    #[prost(uint64, tag = "3")]
    pub process: u64,
}
