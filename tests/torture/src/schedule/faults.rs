//! What can go wrong in a round.

/// Something that goes wrong, with how long it lasts in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The control plane is killed, and started again.
    ControlKilled(u64),
    /// The control plane is told to end, and started again.
    ControlTerminated(u64),
    /// The control plane stands still.
    ControlPaused(u64),
    /// An Envoy stands still.
    EnvoyPaused(usize, u64),
    /// An Envoy is killed, and started again after the round.
    EnvoyKilled(usize),
    /// An Envoy is told to end by somebody who does not wait, and started again after the round.
    EnvoyTerminated(usize),
    /// The streams of an Envoy's filters are cut, and cannot be made again for a while.
    StreamsCut(usize, u64),
    /// The streams of an Envoy's filters go silent, and speak again.
    StreamsSilent(usize, u64),
    /// A worker's VM of an Envoy dies.
    VmTrapped(usize),
    /// The disk of the state has no space.
    DiskFull(u64),
    /// The disk of the state is read-only when the control plane is killed and started again.
    DiskReadOnly(u64),
    /// Every write to the disk of the state hangs.
    DiskHangs(u64),
    /// Somebody attaches as a filter and lies.
    Stranger(Claim, u64),
    /// The control plane's wall clock is set by that many seconds, for good.
    ClockStep(i64),
    /// The control plane gets a signal that must do nothing.
    ControlSignalled(Harmless),
    /// A page of the state is overwritten, the one of that number, while the control plane is killed and started again.
    StateBroken(u64),
    /// So many connect to the control plane and say nothing.
    IdleConnections(usize, u64),
    /// So many watch everything that they can, and read nothing of it.
    Watchers(usize, u64),
}

/// A signal that `ebb serve` does not end by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harmless {
    /// `SIGHUP`.
    Hup,
    /// `SIGUSR1`.
    Usr1,
    /// `SIGUSR2`.
    Usr2,
}

/// What a lying filter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Claim {
    /// From another node, to be a VM of the first Envoy, with nothing in flight.
    EpochFromElsewhere,
    /// From the node of the first Envoy, to be a VM of it, with nothing in flight, and to have answered 2^63.
    Epoch,
    /// To be a VM of the first Envoy, and to leave.
    Goodbye,
    /// To be a further VM of its node, with nothing in flight, and to have answered everything that can be asked.
    AnswersUnasked,
    /// To be a further VM of its node, with more in flight than fits a sum.
    HugeCounts,
    /// Nothing that makes sense.
    Nonsense,
    /// To be a further VM of its node, with new listeners and upstreams in every report.
    FreshNames,
}

impl Fault {
    /// Every kind in words, in the order of [`Fault::kind`].
    pub const KINDS: [&str; 18] = [
        "control killed",
        "control terminated",
        "control paused",
        "envoy paused",
        "envoy killed",
        "streams cut",
        "streams silent",
        "vm trapped",
        "disk full",
        "disk read-only",
        "disk hangs",
        "stranger",
        "clock step",
        "envoy terminated",
        "control signalled",
        "state broken",
        "idle connections",
        "watchers",
    ];

    /// Which kind it is, as an index of [`Fault::KINDS`].
    #[must_use]
    pub fn kind(self) -> usize {
        match self {
            Self::ControlKilled(_) => 0,
            Self::ControlTerminated(_) => 1,
            Self::ControlPaused(_) => 2,
            Self::EnvoyPaused(..) => 3,
            Self::EnvoyKilled(_) => 4,
            Self::StreamsCut(..) => 5,
            Self::StreamsSilent(..) => 6,
            Self::VmTrapped(_) => 7,
            Self::DiskFull(_) => 8,
            Self::DiskReadOnly(_) => 9,
            Self::DiskHangs(_) => 10,
            Self::Stranger(..) => 11,
            Self::ClockStep(_) => 12,
            Self::EnvoyTerminated(_) => 13,
            Self::ControlSignalled(_) => 14,
            Self::StateBroken(_) => 15,
            Self::IdleConnections(..) => 16,
            Self::Watchers(..) => 17,
        }
    }

    /// Whether the state cannot be written for a while, or not be read.
    #[must_use]
    pub fn is_of_the_state(self) -> bool {
        matches!(
            self,
            Self::DiskFull(_) | Self::DiskReadOnly(_) | Self::DiskHangs(_) | Self::StateBroken(_)
        )
    }

    /// Whether it leaves somebody behind of whom nothing can prove that he is gone, so that drains wait for him.
    #[must_use]
    pub fn leaves_a_ghost(self) -> bool {
        matches!(
            self,
            Self::EnvoyKilled(_) | Self::EnvoyTerminated(_) | Self::VmTrapped(_) | Self::Stranger(..)
        )
    }
}
