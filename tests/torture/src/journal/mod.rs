//! What was seen in one round, by parties that are not Ebb: the upstream, the clients, and whoever did what the schedule
//! says. Only [`Drain`] holds Ebb's own word, which is what is judged.

mod timeline;

use std::time::Duration;

use crate::schedule::{DrainPlan, Endpoint, Fault, Listener, State, WorldPlan};

/// A moment: time since the run began, by the monotonic clock of this process.
pub type Moment = Duration;

/// Everything seen in one round.
#[derive(Clone, Debug)]
pub struct Journal {
    /// Where it was.
    pub world: WorldPlan,
    /// In no order.
    pub requests: Vec<Request>,
    /// As in the round's plan.
    pub drains: Vec<Drain>,
    /// What was done, or could not be.
    pub faults: Vec<FaultSeen>,
    /// When the control plane was not there.
    pub outages: Vec<Outage>,
    /// Envoys that ended.
    pub ends: Vec<EnvoyEnd>,
    /// When this machine itself stood still.
    pub stalls: Vec<Stall>,
    /// After every drain was released.
    pub probes: Vec<Probe>,
}

/// A request, or a session of `tcp_proxy`.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its number, unique in the run.
    pub id: u64,
    /// The Envoy that it was sent to.
    pub envoy: usize,
    /// The listener.
    pub listener: Listener,
    /// The upstream that it is for.
    pub endpoint: Endpoint,
    /// When its connection was made.
    pub connected: Moment,
    /// When it was sent.
    pub sent: Moment,
    /// When its client had the whole answer, or none any more.
    pub done: Moment,
    /// What its client got.
    pub answer: Answer,
    /// While the upstream held it; none = it never came there.
    pub upstream: Option<Span>,
    /// While ext_authz held it; none = it never came there.
    pub authz: Option<Span>,
}

/// What a client got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Every byte.
    Whole {
        /// And the word that this connection closes.
        closing: bool,
    },
    /// Not that: in words.
    Failed(String),
}

/// A time in which somebody held a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it came.
    pub began: Moment,
    /// When the last byte of the answer was the kernel's, or it was cut; none = it is held yet.
    pub ended: Option<Moment>,
    /// Whether it ended by the loss of its connection.
    pub cut: bool,
}

impl Span {
    /// Whether the request is held at that moment.
    #[must_use]
    pub fn holds_at(&self, at: Moment) -> bool {
        self.began <= at && self.ended.is_none_or(|ended| ended > at)
    }
}

/// A drain, as it was asked for and as it went.
#[derive(Clone, Debug)]
pub struct Drain {
    /// What was asked for.
    pub plan: DrainPlan,
    /// When.
    pub asked: Moment,
    /// Whether it began.
    pub start: Start,
    /// How it ended, and when that was first seen.
    pub end: Option<(Moment, Outcome)>,
    /// The earliest moment at which it may have ended, by the time that Ebb says it took.
    pub earliest_end: Option<Moment>,
    /// The command line's end: when, its exit code, and the outcome in what it wrote.
    pub exit: Option<(Moment, Option<i32>, String)>,
    /// When a cancel during it was confirmed.
    pub cancelled: Option<Moment>,
    /// When the control plane, being there, did not know it any more.
    pub lost: Option<Moment>,
}

/// How the asking for a drain went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// It began, at the latest then.
    Accepted(Moment),
    /// The control plane said no, in words.
    Refused(Moment, String),
    /// There was no control plane.
    Nobody(String),
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// Everything is done.
    Drained,
    /// The deadline came first.
    TimedOut,
    /// Somebody cancelled it.
    Cancelled,
    /// An Envoy ended with requests in flight.
    Cut,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Drained, Self::TimedOut, Self::Cancelled, Self::Cut];

    /// As the command line writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Cut => "cut",
        }
    }

    /// What the command line exits with.
    #[must_use]
    pub fn exit_code(self) -> i32 {
        match self {
            Self::Drained => 0,
            Self::TimedOut => 3,
            Self::Cancelled => 4,
            Self::Cut => 6,
        }
    }
}

/// A fault that was done.
#[derive(Clone, Debug)]
pub struct FaultSeen {
    /// What.
    pub fault: Fault,
    /// From when.
    pub from: Moment,
    /// Until when it was undone, as far as it is.
    pub until: Moment,
    /// Why it was not done after all.
    pub skipped: Option<String>,
}

/// A time without a control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// How it was away.
    pub away: Away,
    /// When it was killed, told to end, or stopped.
    pub from: Moment,
    /// When it answered again, or went on.
    pub until: Moment,
}

/// How a control plane is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Away {
    /// It ended, and another process came after it.
    Ended,
    /// It stood still.
    Paused,
}

/// An Envoy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnvoyEnd {
    /// Which.
    pub envoy: usize,
    /// When it was told to.
    pub at: Moment,
    /// Why.
    pub why: Why,
}

/// Why an Envoy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A fault.
    Fault,
    /// This drain, by its place in [`Journal::drains`], had ended as drained.
    After(usize),
}

/// This machine stood still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// When a sleeper should have woken.
    pub at: Moment,
    /// How late it woke.
    pub length: Duration,
}

/// A request after every drain was released.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The Envoy.
    pub envoy: usize,
    /// The listener.
    pub listener: Listener,
    /// When it was sent.
    pub at: Moment,
    /// What its client got.
    pub answer: Answer,
}

impl Journal {
    /// How long the machine stood still between two moments.
    #[must_use]
    pub fn stalled(&self, from: Moment, until: Moment) -> Duration {
        let overlap = |stall: &Stall| {
            let (begins, ends) = (stall.at.max(from), (stall.at + stall.length).min(until));
            ends.saturating_sub(begins)
        };
        self.stalls.iter().map(overlap).sum()
    }

    /// Whether a fault of some kind was done.
    #[must_use]
    pub fn had(&self, which: fn(Fault) -> bool) -> bool {
        let mut faults = self.faults.iter();
        faults.any(|seen| seen.skipped.is_none() && which(seen.fault))
    }

    /// Whether nothing kept the control plane from writing down what it must know after a restart.
    #[must_use]
    pub fn could_be_kept(&self) -> bool {
        self.world.state != State::Memory && !self.had(Fault::is_of_the_state)
    }

    /// Whether the control plane of that moment may know of nobody but whom it has heard: it came after another, and
    /// nothing is written down.
    #[must_use]
    pub fn forgot(&self, at: Moment) -> bool {
        let mut outages = self.outages.iter();
        !self.could_be_kept() && outages.any(|outage| outage.away == Away::Ended && outage.from < at)
    }
}
