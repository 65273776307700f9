//! What happens to the control plane, and what the core wants done about it.

use std::time::SystemTime;

use ebb_proto::v1;

use super::{
    admins::Reading,
    fleet::{Epoch, Peer, ReporterRecord, StreamId},
    outstanding::Outstanding,
    record::Record,
};

/// What happens to the control plane.
#[derive(Debug)]
pub enum Event {
    /// A filter opened a stream; its first report carries a hello.
    Attached {
        /// The stream.
        stream: StreamId,
        /// Who it is.
        hello: v1::FilterHello,
        /// Where it speaks from; `None` = the system does not tell.
        peer: Option<Peer>,
        /// Its first counts.
        report: v1::FilterReport,
    },
    /// A report came.
    Reported {
        /// The stream.
        stream: StreamId,
        /// The counts.
        report: v1::FilterReport,
    },
    /// A stream ended.
    Detached {
        /// The stream.
        stream: StreamId,
    },
    /// A stream says what is not remembered of anybody, and is to end.
    Refused {
        /// The stream.
        stream: StreamId,
        /// Why, in words.
        why: String,
    },
    /// An Envoy process was seen to end: nothing of it can be in flight any more.
    ProcessEnded {
        /// Its random number, as its filters give it.
        process: u64,
    },
    /// An admin endpoint was found, or found again.
    AdminFound {
        /// Where it is.
        address: String,
        /// Whose it is.
        node: String,
        /// Since when its process runs, to the second.
        started: SystemTime,
    },
    /// An admin endpoint that is configured was looked at.
    AdminHeard {
        /// Where it is.
        address: String,
        /// Whether it answered; why not, in words.
        result: Result<(), String>,
    },
    /// An Envoy answered for itself, or did not.
    AdminAnswered {
        /// The node.
        node: String,
        /// The ask that this answers.
        ask: u64,
        /// What it said; else why not, in words.
        reading: Result<Reading, String>,
    },
    /// [`Effect::AskOutstanding`] was carried out.
    OutstandingTold {
        /// The node.
        node: String,
        /// The ask that this answers.
        ask: u64,
        /// What was seen.
        outstanding: Outstanding,
    },
    /// [`Effect::PullLever`] was carried out, or was not.
    LeverDone {
        /// The node.
        node: String,
        /// Which way.
        close: bool,
        /// Why not, in words.
        result: Result<(), String>,
    },
    /// Time passed.
    Tick,
}

/// What the core wants done, in this order: what is to be stored is stored before anything is sent.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Keep this, durably, in place of what was kept of the same drain.
    Store(Box<Record>),
    /// Drop what was kept of this drain.
    Forget(String),
    /// Tell a filter.
    Send {
        /// Its stream.
        stream: StreamId,
        /// What it has to do: the whole state.
        command: v1::FilterCommand,
    },
    /// End a stream that another of the same VM has replaced.
    End(StreamId),
    /// End a stream that is refused.
    Refuse {
        /// The stream.
        stream: StreamId,
        /// Why, in words.
        why: String,
    },
    /// Keep these reporters, durably, and drop those.
    KeepFleet {
        /// In place of what was kept of the same.
        put: Vec<ReporterRecord>,
        /// Those that are gone.
        gone: Vec<Epoch>,
    },
    /// A drain looks different now.
    DrainChanged {
        /// Its id.
        id: String,
        /// Whether its phase changed, and not just a count.
        phase: bool,
    },
    /// Ask a node's Envoy what is in flight. [`Event::AdminAnswered`] follows, within a bound.
    AskAdmin {
        /// The node.
        node: String,
        /// The number to answer with.
        ask: u64,
        /// Whether upstream endpoints are wanted as well.
        upstreams: bool,
    },
    /// Look at what a node's Envoy owes its clients. [`Event::OutstandingTold`] follows, within a bound.
    AskOutstanding {
        /// The node.
        node: String,
        /// The number to answer with; of no other question.
        ask: u64,
        /// The listeners that count; empty = all.
        listeners: Vec<String>,
    },
    /// Ask this admin endpoint from here on when a node's is asked.
    UseAdmin {
        /// The node.
        node: String,
        /// Where it is.
        address: String,
    },
    /// Have a node's Envoy close its connections by itself, or serve again. [`Event::LeverDone`] follows, within a bound.
    PullLever {
        /// The node.
        node: String,
        /// Which way.
        close: bool,
    },
    /// Keep, durably, that a node's Envoy was told to close, or that this is undone.
    KeepLever {
        /// The node.
        node: String,
        /// Which way.
        pulled: bool,
    },
    /// Several Envoys that are alive say that they are this node, and have for a while.
    Twins(String),
    /// Somebody came, went, or counts otherwise.
    FleetChanged,
    /// Everybody live has answered this ask, or is no longer live.
    Answered(u64),
}
