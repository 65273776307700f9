//! Everything that one Wasm VM knows: its counts, its root contexts and its session.
//!
//! Envoy gives every plugin configuration, which is every listener, and every cluster with the filter, a root context
//! of its own, and puts them all in one VM. The stream to the control plane belongs to one of them, the owner: the first that ticks. When the owner
//! goes, another takes over.

use std::rc::Rc;
use std::time::Duration;

use crate::config::{Config, Role};
use crate::counts::{Counts, Listener};
use crate::identity::Identity;
use crate::request::{Crossings, Plugin};
use crate::session::{Effect, Event, Level, Session};

/// The soonest tick that Envoy's clock can express. A period of zero would stop the ticks.
pub const SOONEST_TICK: Duration = Duration::from_millis(1);

/// What the host has to do.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Carry out an effect of the session, in the context of this owner.
    Stream {
        /// The root context that owns the stream.
        owner: u32,
        /// What is to be done.
        effect: Effect,
    },
    /// Set the tick period of a root context; zero stops it.
    Tick {
        /// The root context.
        root: u32,
        /// The period, in whole milliseconds.
        period: Duration,
    },
    /// Write a log line from whatever context is current.
    Log {
        /// How much it matters.
        level: Level,
        /// The line.
        text: String,
    },
}

#[derive(Debug)]
struct Root {
    id: u32,
    config: Config,
    plugin: Rc<Plugin>,
}

/// The root context that has the stream.
#[derive(Debug)]
struct Owner {
    id: u32,
    /// Its tick period. Envoy repeats it until it is set anew.
    period: Duration,
    /// When it ticks next, at the latest.
    ticks_at: Duration,
}

/// One Wasm VM.
#[derive(Debug, Default)]
pub struct Vm {
    counts: Counts,
    roots: Vec<Root>,
    owner: Option<Owner>,
    session: Option<Session>,
}

impl Vm {
    /// Takes a root context with its configuration. Its requests count as the returned [`Plugin`] says.
    /// Envoy may configure a root context again. `identity` and `seed` start the session, with the first root context of a VM; later ones are ignored.
    pub fn configure(
        &mut self,
        root: u32,
        config: Config,
        identity: Identity,
        seed: u64,
        now: Duration,
    ) -> (Rc<Plugin>, Vec<Action>) {
        let mut actions = Vec::new();
        if let Some(session) = &self.session
            && *session.config() != config.link
        {
            let text = format!(
                "{}: control_plane_cluster or an interval differs from the first listener's, which holds",
                config.place()
            );
            actions.push(Action::Log {
                level: Level::Warn,
                text,
            });
        }
        self.session
            .get_or_insert_with(|| Session::new(identity, config.link.clone(), seed));
        let plugin = Rc::new(self.plugin(&config.role));
        self.forget(root);
        self.roots.push(Root {
            id: root,
            config,
            plugin: Rc::clone(&plugin),
        });
        if self.owner.is_some() {
            actions.extend(self.handle(Event::ListenersChanged, now));
        } else {
            actions.push(Action::Tick {
                root,
                period: SOONEST_TICK,
            });
        }
        (plugin, actions)
    }

    fn plugin(&mut self, role: &Role) -> Plugin {
        let upstreams = &self.counts.upstreams;
        match role {
            Role::Listener(config) => {
                if !config.upstreams {
                    upstreams.add_blind();
                }
                Plugin::Listener {
                    upstreams: config.upstreams.then(|| Rc::clone(upstreams)),
                    detect_grpc: config.detect_grpc,
                    blocker_paths: config.blocker_paths,
                    listener: self.counts.listeners.add(&config.name),
                }
            }
            Role::Upstream => {
                upstreams.add_filter();
                Plugin::Upstream(Rc::clone(upstreams))
            }
        }
    }

    /// A root context is gone. If it was the owner, the next one is woken to take over.
    pub fn remove(&mut self, root: u32, now: Duration) -> Vec<Action> {
        self.forget(root);
        // Envoy would go on ticking for a context that is no more.
        let mut actions = vec![Action::Tick {
            root,
            period: Duration::ZERO,
        }];
        if self.owner.as_ref().is_some_and(|owner| owner.id == root) {
            self.owner = None;
            if let Some(session) = &mut self.session {
                // With the last of them the VM goes too. Its stream is still open, and will not be after this callback.
                if self.roots.is_empty() {
                    let last_words = session.handle(Event::Leaving, now, &self.counts).into_iter();
                    actions.extend(last_words.map(|effect| Action::Stream { owner: root, effect }));
                }
                session.handle(Event::OwnerGone, now, &self.counts);
            }
            self.counts.listeners.prune();
            actions.extend(self.roots.first().map(|heir| Action::Tick {
                root: heir.id,
                period: SOONEST_TICK,
            }));
        } else {
            actions.extend(self.pruned(now));
        }
        actions
    }

    fn forget(&mut self, root: u32) {
        for gone in self.roots.extract_if(.., |other| other.id == root) {
            match &*gone.plugin {
                Plugin::Listener {
                    listener, upstreams, ..
                } => {
                    if upstreams.is_none() {
                        self.counts.upstreams.remove_blind();
                    }
                    self.counts.listeners.remove(listener);
                }
                Plugin::Upstream(upstreams) => upstreams.remove_filter(),
            }
        }
    }

    /// A root context ticks. The first to do so owns the stream, the others are put to rest.
    pub fn tick(&mut self, root: u32, now: Duration) -> Vec<Action> {
        let owner = self.owner.get_or_insert_with(|| {
            if let (Some(session), Some(root)) = (
                &mut self.session,
                self.roots.iter().find(|other| other.id == root),
            ) {
                session.set_config(root.config.link.clone());
            }
            Owner {
                id: root,
                period: SOONEST_TICK,
                ticks_at: now,
            }
        });
        if owner.id != root {
            return vec![Action::Tick {
                root,
                period: Duration::ZERO,
            }];
        }
        owner.ticks_at = now.saturating_add(owner.period);
        let mut actions = self.handle(Event::Tick, now);
        // After a tick the period starts over by itself; it is set only if it has to be another.
        actions.extend(self.retimed(now, |owner, period| owner.period != period));
        actions
    }

    /// Passes an event to the session.
    pub fn handle(&mut self, event: Event<'_>, now: Duration) -> Vec<Action> {
        let (Some(session), Some(owner)) = (&mut self.session, &self.owner) else {
            return Vec::new();
        };
        let id = owner.id;
        if let Event::Opened { .. } = event {
            self.counts.upstreams.stream_opens();
        }
        let effects = session.handle(event, now, &self.counts).into_iter();
        let mut actions: Vec<Action> = effects
            .map(|effect| Action::Stream { owner: id, effect })
            .collect();
        actions.extend(self.retimed(now, |owner, period| {
            now.saturating_add(period).saturating_add(SOONEST_TICK) <= owner.ticks_at
        }));
        actions
    }

    /// Sets the owner's tick to the session's next deadline, if that is `needed`.
    fn retimed(&mut self, now: Duration, needed: impl Fn(&Owner, Duration) -> bool) -> Option<Action> {
        let (session, owner) = (self.session.as_ref()?, self.owner.as_mut()?);
        let period = whole_millis(session.next_deadline()?.saturating_sub(now));
        if !needed(owner, period) {
            return None;
        }
        owner.period = period;
        owner.ticks_at = now.saturating_add(period);
        Some(Action::Tick {
            root: owner.id,
            period,
        })
    }

    /// Whether nothing drains: all that is asked of a VM for a request while it serves as usual.
    pub fn is_serving(&self) -> bool {
        self.session
            .as_ref()
            .is_none_or(|session| session.directives().is_empty())
    }

    /// Whether the response at hand has to close its connection; if so, it is counted.
    pub fn closes(&self, listener: &Listener, now: Duration) -> bool {
        let Some(session) = &self.session else {
            return false;
        };
        let closes = session
            .directives()
            .decide(listener.name(), listener.carry(), now);
        if closes {
            listener.count_mark();
        }
        closes
    }

    /// Whether [`Vm::crossed`] has anything to do with these.
    pub fn concerns(&self, crossings: &Crossings) -> bool {
        let gone = |listener: &Rc<Listener>| listener.is_gone();
        !crossings.is_empty() && (!self.is_serving() || crossings.listener.as_ref().is_some_and(gone))
    }

    /// Counts have reached zero, or left it.
    pub fn crossed(&mut self, crossings: &Crossings, now: Duration) -> Vec<Action> {
        let mut actions = self.handle(Event::Crossed(crossings), now);
        actions.extend(self.pruned(now));
        actions
    }

    fn pruned(&mut self, now: Duration) -> Vec<Action> {
        if self.counts.listeners.prune() {
            self.handle(Event::ListenersChanged, now)
        } else {
            Vec::new()
        }
    }
}

/// Rounded up, so that no tick comes before its deadline.
fn whole_millis(duration: Duration) -> Duration {
    let millis = duration.as_micros().div_ceil(1000);
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)).max(SOONEST_TICK)
}

#[cfg(test)]
mod tests;
