//! The one stream of a VM to the control plane, as a pure state machine.
//!
//! ```text
//!             Tick, `until` reached              Opened
//!   Waiting ───────────────────────▶ Opening ─────────────▶ Open ──┐ Tick: report due
//!      ▲                                │                    │  ▲──┘ Received, Crossed, ListenersChanged
//!      │            OpenFailed: backoff │                    │
//!      ├◀───────────────────────────────┘                    │
//!      ├◀── Closed, SendFailed, Received nonsense: backoff ──┤
//!      ├◀── Closed after `going_away`: soon, with jitter ────┤
//!      └◀── OwnerGone: at once ──────────────────────────────┘
//! ```
//!
//! The directives belong to no state: they outlive the stream, each until its lease ends, and the first command of
//! the next stream replaces them all.

mod io;

use std::time::Duration;

use ebb_proto::v1::{FilterCommand, FilterReport};
use prost::Message;

use crate::blockers;
use crate::closing::Directives;
use crate::config::LinkConfig;
use crate::counts::Counts;
use crate::identity::{Identity, Process};
use crate::pacing::{Backoff, Limiter};
use crate::request::Crossings;

pub use io::{Effect, Event, Level};

#[derive(Debug)]
enum State {
    /// No stream; a tick from `until` on asks for one.
    Waiting { until: Duration },
    /// The host was asked for a stream.
    Opening,
    /// There is a stream.
    Open(Stream),
}

#[derive(Debug)]
struct Stream {
    token: u32,
    opened: Duration,
    /// When the next report is due, whatever happens until then.
    report_due: Duration,
    /// Of the last command that was applied; none = no command yet.
    generation: Option<u64>,
    /// The last `ask`.
    answers: u64,
    /// Whether the control plane has announced that it will end the stream.
    going_away: bool,
}

/// The stream of a VM, and what the control plane has said last.
#[derive(Debug)]
pub struct Session {
    identity: Identity,
    config: LinkConfig,
    state: State,
    directives: Directives,
    backoff: Backoff,
    limiter: Limiter,
}

impl Session {
    /// A session that opens its stream with the first tick. `seed` starts the jitter of its backoff.
    pub fn new(identity: Identity, config: LinkConfig, seed: u64) -> Self {
        Self {
            identity,
            config,
            state: State::Waiting {
                until: Duration::ZERO,
            },
            directives: Directives::default(),
            backoff: Backoff::new(seed),
            limiter: Limiter::default(),
        }
    }

    /// How the control plane is reached.
    pub fn config(&self) -> &LinkConfig {
        &self.config
    }

    /// Reaches the control plane in another way, from the next stream on.
    pub fn set_config(&mut self, config: LinkConfig) {
        self.config = config;
    }

    /// What the control plane has said last, as far as its leases hold.
    pub fn directives(&self) -> &Directives {
        &self.directives
    }

    /// When a tick is needed at the latest; `None` = an answer of the host is awaited.
    pub fn next_deadline(&self) -> Option<Duration> {
        let of_state = match &self.state {
            State::Waiting { until } => Some(*until),
            State::Opening => None,
            State::Open(stream) => Some(stream.report_due),
        };
        of_state.into_iter().chain(self.directives.next_lease_end()).min()
    }

    /// Takes what has happened and says what is to be done, in that order.
    pub fn handle(&mut self, event: Event<'_>, now: Duration, counts: &Counts) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Tick => self.tick(now, counts, &mut effects),
            Event::Opened { token, process } => self.opened(token, process, now, counts, &mut effects),
            Event::OpenFailed => {
                let text = format!(
                    "Envoy knows no cluster `{}`: check control_plane_cluster",
                    self.config.cluster
                );
                self.fail(Level::Error, text, now, &mut effects);
            }
            Event::Received { token, message } if self.is_open(token) => {
                self.received(token, message, now, counts, &mut effects);
            }
            Event::SendFailed { token } if self.is_open(token) => {
                effects.push(Effect::Cancel { token });
                self.lost("Envoy has dropped it", now, &mut effects);
            }
            Event::Closed { token, status } => {
                effects.push(Effect::Close { token });
                if self.is_open(token) {
                    self.lost(&format!("gRPC status {status}"), now, &mut effects);
                }
            }
            Event::Leaving => self.last_words(now, counts, &mut effects),
            Event::OwnerGone => self.state = State::Waiting { until: now },
            Event::Crossed(crossings) => self.crossed(crossings, now, counts, &mut effects),
            Event::ListenersChanged => effects.extend(self.report(now, counts)),
            // Of a stream that is over.
            Event::Received { .. } | Event::SendFailed { .. } => {}
        }
        effects
    }

    fn is_open(&self, token: u32) -> bool {
        matches!(&self.state, State::Open(stream) if stream.token == token)
    }

    fn tick(&mut self, now: Duration, counts: &Counts, effects: &mut Vec<Effect>) {
        let ended = self.directives.expire(now);
        if let Some(first) = ended.first() {
            let others = match ended.len() {
                1 => String::new(),
                all => format!(" and {} more", all - 1),
            };
            let text = format!(
                "not renewed by the control plane: the drain of {first}{others} ends here with its lease"
            );
            effects.push(Effect::Log {
                level: Level::Warn,
                text,
            });
        }
        match &self.state {
            State::Waiting { until } if *until <= now => {
                self.state = State::Opening;
                effects.push(Effect::Open {
                    grpc_service: self.config.grpc_service.clone(),
                    epoch: self.identity.epoch,
                });
            }
            State::Open(stream) if stream.report_due <= now => effects.extend(self.report(now, counts)),
            State::Waiting { .. } | State::Opening | State::Open(_) => {}
        }
    }

    fn opened(
        &mut self,
        token: u32,
        process: Process,
        now: Duration,
        counts: &Counts,
        effects: &mut Vec<Effect>,
    ) {
        self.state = State::Open(Stream {
            token,
            opened: now,
            report_due: now,
            generation: None,
            answers: 0,
            going_away: false,
        });
        let mut hello = self.identity.hello(process);
        hello.report_interval = prost_types::Duration::try_from(self.config.report_interval).ok();
        hello.drain_report_interval = prost_types::Duration::try_from(self.config.drain_report_interval).ok();
        let mut greeting = self.report(now, counts);
        if let Some(Effect::Send { report, .. }) = &mut greeting {
            report.hello = Some(hello);
        }
        effects.extend(greeting);
    }

    fn received(
        &mut self,
        token: u32,
        message: &[u8],
        now: Duration,
        counts: &Counts,
        effects: &mut Vec<Effect>,
    ) {
        let command = match FilterCommand::decode(message) {
            Ok(command) => command,
            Err(error) => {
                effects.push(Effect::Cancel { token });
                return self.lost(&format!("a command cannot be read: {error}"), now, effects);
            }
        };
        let State::Open(stream) = &mut self.state else {
            return;
        };
        let first = stream.generation.is_none();
        let news = stream.generation != Some(command.generation);
        let stale = stream
            .generation
            .is_some_and(|generation| command.generation < generation);
        stream.going_away |= command.going_away;
        if command.ask != 0 {
            stream.answers = command.ask;
        }
        if !stale {
            stream.generation = Some(command.generation);
            self.directives.replace(command.directives, now);
        }
        if first {
            let level = if self.backoff.failures() > 0 {
                Level::Info
            } else {
                Level::Debug
            };
            effects.push(Effect::Log {
                level,
                text: "attached to the control plane".to_owned(),
            });
        }
        // A renewal needs no answer; whoever has started or ended a drain wants to know that it has arrived.
        if command.ask != 0 || (news && !stale) {
            let mut answer = self.report(now, counts);
            if let (Some(Effect::Send { inspections, .. }), true) = (&mut answer, command.ask != 0) {
                let most = usize::try_from(command.blockers).unwrap_or(blockers::MOST);
                *inspections = blockers::oldest(counts, most);
            }
            effects.extend(answer);
        }
    }

    fn crossed(&mut self, crossings: &Crossings, now: Duration, counts: &Counts, effects: &mut Vec<Effect>) {
        let listener = crossings.listener.iter();
        let awaited = listener
            .map(|listener| self.directives.awaits(listener.name(), now))
            .chain(
                crossings
                    .endpoints()
                    .map(|endpoint| self.directives.awaits_upstream(endpoint.address(), now)),
            )
            .any(|awaited| awaited);
        if !awaited {
            return;
        }
        let State::Open(stream) = &mut self.state else {
            return;
        };
        match self.limiter.take(now) {
            Ok(()) => effects.extend(self.report(now, counts)),
            Err(allowed) => stream.report_due = stream.report_due.min(allowed),
        }
    }

    /// A report on the open stream, and the next one scheduled; nothing without a stream.
    fn report(&mut self, now: Duration, counts: &Counts) -> Option<Effect> {
        let State::Open(stream) = &mut self.state else {
            return None;
        };
        let interval = if self.directives.any_awaited() {
            self.config.drain_report_interval
        } else {
            self.config.report_interval
        };
        stream.report_due = now.saturating_add(interval);
        let report = FilterReport {
            hello: None,
            listeners: counts.listeners.report(),
            generation: stream.generation.unwrap_or(0),
            answers: stream.answers,
            upstreams: counts.upstreams.report(),
            blockers: Vec::new(),
            counts_upstreams: counts.upstreams.counts_all(),
            goodbye: false,
        };
        Some(Effect::Send {
            token: stream.token,
            report: Box::new(report),
            inspections: Vec::new(),
        })
    }

    /// A report that says that no other will follow; only if nothing is in flight, or else the count stays unknown. The
    /// VM then leaves its process's list, stream or not.
    fn last_words(&mut self, now: Duration, counts: &Counts, effects: &mut Vec<Effect>) {
        let requests = counts.listeners.iter().map(|listener| listener.in_flight());
        let attempts = counts
            .upstreams
            .report()
            .into_iter()
            .map(|endpoint| endpoint.in_flight);
        let idle = requests.chain(attempts).all(|in_flight| in_flight == 0);
        let mut last = self.report(now, counts);
        if let Some(Effect::Send { report, .. }) = &mut last {
            report.goodbye = idle;
        }
        effects.extend(last);
        if idle {
            effects.push(Effect::Leave {
                epoch: self.identity.epoch,
            });
        }
    }

    /// The stream has ended.
    fn lost(&mut self, why: &str, now: Duration, effects: &mut Vec<Effect>) {
        let State::Open(stream) = &self.state else { return };
        let lived = now.saturating_sub(stream.opened);
        if stream.going_away && lived >= self.config.reconnect_min {
            // It was healthy to its end: what failed before that is over.
            self.backoff.succeed();
            // A whole fleet hears of it at the same instant, and must not come back at the same instant.
            let until = now.saturating_add(self.backoff.jitter(self.config.reconnect_min));
            self.state = State::Waiting { until };
            return;
        }
        // A control plane that accepts and then fails must not be called on ever again without a pause.
        if stream.generation.is_some() && lived >= self.config.reconnect_max {
            self.backoff.succeed();
        }
        let text = format!("control plane lost ({why}): serving on, reconnecting in the background");
        self.fail(Level::Warn, text, now, effects);
    }

    /// Waits before the next stream. Only the first of several failures in a row is logged.
    fn fail(&mut self, level: Level, text: String, now: Duration, effects: &mut Vec<Effect>) {
        if self.backoff.failures() == 0 {
            effects.push(Effect::Log { level, text });
        }
        let wait = self
            .backoff
            .fail(self.config.reconnect_min, self.config.reconnect_max);
        self.state = State::Waiting {
            until: now.saturating_add(wait),
        };
    }
}

#[cfg(test)]
mod tests;
