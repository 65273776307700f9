//! What goes into the session and what comes out of it.

use ebb_proto::v1::FilterReport;

use crate::blockers::Inspection;
use crate::identity::Process;
use crate::request::Crossings;

/// What has happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// Time has passed, in the context that owns the stream.
    Tick,
    /// A stream is there, under this token.
    Opened {
        /// The host's name of the stream.
        token: u32,
        /// The Envoy process around this VM.
        process: Process,
    },
    /// The host has no stream to give: it does not know the cluster.
    OpenFailed,
    /// A message came down a stream.
    Received {
        /// The host's name of the stream.
        token: u32,
        /// An encoded `FilterCommand`.
        message: &'a [u8],
    },
    /// The host refused to send on a stream.
    SendFailed {
        /// The host's name of the stream.
        token: u32,
    },
    /// A stream has ended from the other side.
    Closed {
        /// The host's name of the stream.
        token: u32,
        /// gRPC status code.
        status: u32,
    },
    /// The VM is being taken down: the last of its root contexts goes, and nothing can come any more.
    Leaving,
    /// The context that owned the stream is gone, and the stream with it.
    OwnerGone,
    /// Counts have reached zero, or left it.
    Crossed(&'a Crossings),
    /// A listener was added or is gone.
    ListenersChanged,
}

/// What is to be done about it.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Open a stream, and answer with `Opened` or `OpenFailed`.
    Open {
        /// The cluster, as a serialized `GrpcService`.
        grpc_service: String,
        /// This VM, which takes its place among those of its process.
        epoch: u64,
    },
    /// Take this VM from those of its process: it has said goodbye.
    Leave {
        /// The VM.
        epoch: u64,
    },
    /// Send a report; answer with `SendFailed` if that cannot be done.
    Send {
        /// The host's name of the stream.
        token: u32,
        /// What to send.
        report: Box<FilterReport>,
        /// Requests to look at first; what is seen goes into the report.
        inspections: Vec<Inspection>,
    },
    /// Close a stream that the other side has ended, so that the host forgets it.
    Close {
        /// The host's name of the stream.
        token: u32,
    },
    /// Reset a stream.
    Cancel {
        /// The host's name of the stream.
        token: u32,
    },
    /// Write a log line.
    Log {
        /// How much it matters.
        level: Level,
        /// The line.
        text: String,
    },
}

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// For those who look for a fault.
    Debug,
    /// Good to know.
    Info,
    /// Something is not as it should be, and requests are served all the same.
    Warn,
    /// Something has to be mended.
    Error,
}
