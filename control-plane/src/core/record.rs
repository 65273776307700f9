//! What outlives the control plane: one record per drain, in protobuf, so that a field can be added and an older
//! record still be read.

use ebb_proto::v1;

use super::report::ReportRecord;

/// All that is kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// The drains.
    pub drains: Vec<Record>,
    /// Nodes whose Envoy was told to close, and not yet told to serve.
    pub levers: Vec<String>,
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
