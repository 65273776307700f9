//! What a run leaves for its successor, should it die: which processes it had, and whether a shutdown was on. And, as a pure
//! state machine, how the successor stops what is still alive of them, before it starts anything.
//!
//! ```text
//!   Waiting --dependants gone--> Draining --quiet, or its time is over--> Signalled --stop timeout--> Killed
//!                 '------------- no admin, or never in traffic ------------^    '-------- exited --------'--> Gone
//! ```
//! The wait for traffic ends with the shutdown that the dead run had begun, as far as it had come; every process still has
//! its own stop timeout. Told to stop itself, the successor has its own grace period for that: waits end so early that every
//! process has its stop timeout, and what is left at its end is killed.

use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;

use super::tell::short;
use crate::core::policy::from_wire;

/// The longest time that a configuration may name; what was kept longer makes no sense, and would overflow.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// The variable in the environment of a process by which a successor finds it, also if the run died before it could keep its
/// pid: see [`mark`].
pub const MARK: &str = "EBB_RUN";

/// What [`MARK`] is in a process of this run.
#[must_use]
pub fn mark(run: &str, process: &str) -> String {
    format!("{run}:{process}")
}

/// What a run keeps of itself in the durable store.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RunRecord {
    /// The boot of the system: pids and start times mean nothing in another.
    #[prost(string, tag = "1")]
    pub boot: String,
    /// Every process that it starts, in the order of its configuration.
    #[prost(message, repeated, tag = "2")]
    pub processes: Vec<ProcessRecord>,
    /// The shutdown, once it has begun.
    #[prost(message, optional, tag = "3")]
    pub shutdown: Option<ShutdownRecord>,
    /// Its own, which marks its processes: see [`mark`]. Empty: they are not marked.
    #[prost(string, tag = "4")]
    pub id: String,
}

/// A process of a run.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProcessRecord {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its pid, which is its process group too; 0 while it is not alive.
    #[prost(uint32, tag = "2")]
    pub pid: u32,
    /// When it was started, in ticks since the boot: with the pid, that is this process and no other.
    #[prost(uint64, tag = "3")]
    pub started: u64,
    /// Names of those that stop only after it.
    #[prost(string, repeated, tag = "4")]
    pub depends_on: Vec<String>,
    /// The number of the signal that tells it to stop.
    #[prost(int32, tag = "5")]
    pub stop_signal: i32,
    /// From that signal to SIGKILL.
    #[prost(message, optional, tag = "6")]
    pub stop_timeout: Option<prost_types::Duration>,
    /// The admin endpoint of a proxy, as `unix:/path` or `host:port`; empty = none.
    #[prost(string, tag = "7")]
    pub admin: String,
    /// How long its requests are waited for.
    #[prost(message, optional, tag = "8")]
    pub drain_timeout: Option<prost_types::Duration>,
}

/// A shutdown that has begun.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ShutdownRecord {
    /// When.
    #[prost(message, optional, tag = "1")]
    pub began: Option<prost_types::Timestamp>,
    /// When it was to be over.
    #[prost(message, optional, tag = "2")]
    pub deadline: Option<prost_types::Timestamp>,
    /// Why, in words.
    #[prost(string, tag = "3")]
    pub why: String,
}

impl ShutdownRecord {
    /// What it had left to wait for requests, for a successor that finds it now.
    #[must_use]
    pub fn left(&self, now: SystemTime) -> Duration {
        let deadline = self.deadline.and_then(|at| SystemTime::try_from(at).ok());
        let left = deadline.and_then(|at| at.duration_since(now).ok());
        left.unwrap_or_default().min(LONGEST)
    }

    /// What to say of a shutdown that did not come to its end, by a successor that finds it now. A shutdown ends within its
    /// grace period, so whoever killed it did not give it that.
    #[must_use]
    pub fn cut_short(&self, now: SystemTime) -> String {
        let time = |wire: &Option<prost_types::Timestamp>| SystemTime::try_from((*wire)?).ok();
        let (began, deadline) = (time(&self.began), time(&self.deadline));
        let since = |began: SystemTime| now.duration_since(began).ok();
        let grace = began
            .zip(deadline)
            .and_then(|(began, end)| end.duration_since(began).ok());
        let after = began
            .and_then(since)
            .filter(|after| grace.is_none_or(|grace| *after < grace));
        let when = after.map_or_else(
            || "before its time was over".to_owned(),
            |after| format!("at most {} after it began", short(after)),
        );
        let grace = grace.map_or_else(String::new, |grace| format!(" ({})", short(grace)));
        format!(
            "the shutdown of the last run was killed {when}: the orchestrator's time is shorter than the grace period{grace}. \
             Raise the first (terminationGracePeriodSeconds in Kubernetes, stop_grace_period in Compose, TimeoutStopSec in \
             systemd) or lower the second (shutdown.grace_period, or EBB_GRACE_PERIOD)"
        )
    }
}

/// A process that a dead run left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivor {
    /// Its name.
    pub name: String,
    /// Names of those that stop only after it.
    pub depends_on: Vec<String>,
    /// How it is told to stop.
    pub stop_signal: Signal,
    /// From that to SIGKILL.
    pub stop_timeout: Duration,
    /// How long its requests may be waited for; zero where nobody can tell of them.
    pub drain_timeout: Duration,
}

impl Survivor {
    /// From what was kept; what is missing or makes no sense is as if it were not configured.
    #[must_use]
    pub fn new(record: &ProcessRecord) -> Self {
        let span = |wire: &Option<prost_types::Duration>| {
            wire.as_ref().and_then(from_wire).map(|span| span.min(LONGEST))
        };
        Self {
            name: record.name.clone(),
            depends_on: record.depends_on.clone(),
            stop_signal: Signal::try_from(record.stop_signal).unwrap_or(Signal::SIGTERM),
            stop_timeout: span(&record.stop_timeout).unwrap_or_default(),
            drain_timeout: if record.admin.is_empty() {
                Duration::ZERO
            } else {
                span(&record.drain_timeout).unwrap_or_default()
            },
        }
    }
}

/// Something that happened; processes are named by their place among the survivors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Begin, or a deadline may have passed.
    Tick,
    /// Nothing is in flight in this proxy, or nothing can be said of it.
    Quiet(usize),
    /// This process is gone.
    Gone(usize),
    /// All has to be over by then: whatever is not gone is killed.
    Hurry(Instant),
}

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Have a proxy close, and wait for its requests: [`Event::Quiet`] follows.
    Drain(usize),
    /// Tell a process to stop.
    Signal(usize, Signal),
    /// Kill it.
    Kill(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Draining { until: Instant },
    Signalled { kill_at: Instant },
    Killed,
    Gone,
}

/// Stops survivors in order.
#[derive(Debug)]
pub struct Succession {
    processes: Vec<(Survivor, State)>,
    /// Until when requests may be waited for at all.
    drains_until: Option<Instant>,
    /// When whatever is left is killed.
    until: Option<Instant>,
}

impl Succession {
    /// Of these survivors. `drains_until`: the deadline of the shutdown that had begun.
    #[must_use]
    pub fn new(survivors: Vec<Survivor>, drains_until: Option<Instant>) -> Self {
        let waiting = |survivor| (survivor, State::Waiting);
        Self {
            processes: survivors.into_iter().map(waiting).collect(),
            drains_until,
            until: None,
        }
    }

    /// What follows from an event.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Tick => {}
            Event::Quiet(index) => {
                if let Some((_, State::Draining { until })) = self.processes.get_mut(index) {
                    *until = now;
                }
            }
            Event::Gone(index) => {
                if let Some((_, state)) = self.processes.get_mut(index) {
                    *state = State::Gone;
                }
            }
            Event::Hurry(until) => self.hurry(until),
        }
        let over = self.until.is_some_and(|until| until <= now);
        for index in 0..self.processes.len() {
            let free = self.is_free(index);
            let drains_until = self.drains_until(index);
            let Some((survivor, state)) = self.processes.get_mut(index) else {
                continue;
            };
            if over && !matches!(state, State::Killed | State::Gone) {
                effects.push(Effect::Kill(index));
                *state = State::Killed;
            }
            step(index, survivor, state, free, drains_until, now, &mut effects);
        }
        effects
    }

    fn hurry(&mut self, until: Instant) {
        self.until = Some(self.until.map_or(until, |before| before.min(until)));
        for index in 0..self.processes.len() {
            let bound = self.drains_until(index);
            if let (Some(bound), Some((_, State::Draining { until }))) =
                (bound, self.processes.get_mut(index))
            {
                *until = bound.min(*until);
            }
        }
    }

    /// Until when the requests of this one may be waited for.
    fn drains_until(&self, index: usize) -> Option<Instant> {
        let own = self
            .until
            .map(|until| until.checked_sub(self.tail(index)).unwrap_or(until));
        [self.drains_until, own].into_iter().flatten().min()
    }

    /// The time that it needs to stop, and what it depends on after it.
    fn tail(&self, index: usize) -> Duration {
        let mut tails: Vec<Duration> = vec![Duration::ZERO; self.processes.len()];
        // As many rounds as the longest chain can have links, whatever was kept.
        for _ in 0..self.processes.len() {
            let below = |survivor: &Survivor| {
                let all = self.processes.iter().zip(&tails);
                let below = all.filter(|((other, _), _)| survivor.depends_on.contains(&other.name));
                below.map(|(_, tail)| *tail).max().unwrap_or_default()
            };
            let next = self.processes.iter();
            let next = next.map(|(survivor, _)| survivor.stop_timeout.saturating_add(below(survivor)));
            tails = next.collect();
        }
        tails.get(index).copied().unwrap_or_default()
    }

    /// Whether everything that depends on it is gone.
    fn is_free(&self, index: usize) -> bool {
        let Some((survivor, _)) = self.processes.get(index) else {
            return false;
        };
        let depends = |other: &Survivor| other.depends_on.contains(&survivor.name);
        let mut alive = self.processes.iter().filter(|(_, state)| *state != State::Gone);
        !alive.any(|(other, _)| depends(other))
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.processes.iter().all(|(_, state)| *state == State::Gone)
    }

    /// When [`Event::Tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let deadline = |(_, state): &(Survivor, State)| match state {
            State::Draining { until } => Some(*until),
            State::Signalled { kill_at } => Some(*kill_at),
            State::Waiting | State::Killed | State::Gone => None,
        };
        let over = self.until.filter(|_| {
            let killed = |(_, state): &(Survivor, State)| matches!(state, State::Killed | State::Gone);
            !self.processes.iter().all(killed)
        });
        self.processes.iter().filter_map(deadline).chain(over).min()
    }
}

/// As far as one process can go now.
fn step(
    index: usize,
    survivor: &Survivor,
    state: &mut State,
    free: bool,
    drains_until: Option<Instant>,
    now: Instant,
    effects: &mut Vec<Effect>,
) {
    if *state == State::Waiting && free {
        let until = now + survivor.drain_timeout;
        let until = drains_until.map_or(until, |bound| until.min(bound)).max(now);
        if until > now {
            effects.push(Effect::Drain(index));
        }
        *state = State::Draining { until };
    }
    if matches!(*state, State::Draining { until } if until <= now) {
        if !survivor.stop_timeout.is_zero() {
            effects.push(Effect::Signal(index, survivor.stop_signal));
        }
        let kill_at = now + survivor.stop_timeout;
        *state = State::Signalled { kill_at };
    }
    if matches!(*state, State::Signalled { kill_at } if kill_at <= now) {
        effects.push(Effect::Kill(index));
        *state = State::Killed;
    }
}

#[cfg(test)]
#[path = "succession_tests.rs"]
mod tests;
