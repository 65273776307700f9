//! Envoy's admin endpoints, where one is at hand: what each Envoy says of itself, and the lever `/healthcheck/fail`.
//!
//! ```text
//!   poll:    Idle --needed--> Patient --250 ms--> Asking --answer--> Due, in 50 ms --while needed--> Asking
//!              '--needed at once--> Due ------------^                 '--not needed--> Idle
//!   health:  Serving --a drain closes the whole node--> Failing --done--> Failed --released--> Restoring --done--> Serving
//!                                                          '--error--> Unable --released-------^ |         ^
//!                                                                (the filter closes)             '--error--> RestoreAt
//! ```
//! That Envoy was told to fail is kept durably before it is told, until it has been told to serve again; a call that failed
//! may have been heard all the same, and is undone as well.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use ebb_proto::v1;

use super::{Core, Effect, Now, drain::Drain, fleet::Epoch, machine::Hold, node::Need, reading::is_named};

pub use super::reading::{Reading, Requests};

/// How long reporters may be unknown before their Envoy is asked itself: a filter answers within milliseconds.
const ASK_AFTER: Duration = Duration::from_millis(250);

/// Between two questions: each costs Envoy's main thread some milliseconds.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Envoy tells its uptime in whole seconds, cut off, so that it seems to have started up to a second later.
const STARTED_WITHIN: Duration = Duration::from_millis(1500);

/// After a question or a lever that failed.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Poll {
    /// Nothing is wanted of it.
    Idle,
    /// Asked then, unless the filters tell meanwhile.
    Patient { at: Instant },
    /// Asked then.
    Due { at: Instant },
    /// Asked, and not yet answered.
    Asking,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Serving,
    Failing,
    Failed,
    Restoring,
    /// Told to fail once, perhaps by an earlier control plane, and not yet told to serve.
    RestoreAt(Instant),
    Unable,
}

/// The admin endpoint of one Envoy.
#[derive(Debug)]
pub(super) struct Admin {
    /// The `node.id` that its Envoy has.
    pub(super) node: Arc<str>,
    /// Where it is.
    pub(super) address: String,
    poll: Poll,
    health: Health,
    /// Since when its process runs, to the second.
    started: SystemTime,
    /// `None` = not read yet.
    names: Option<Names>,
}

/// What there is in an Envoy, as last read.
#[derive(Debug, Default)]
struct Names {
    /// The `stat_prefix`es of its listeners.
    listeners: BTreeSet<String>,
    /// Its upstream endpoints.
    upstreams: BTreeSet<String>,
    /// Listeners and `stat_prefix`es with TCP sessions.
    sessions: BTreeSet<String>,
}

impl Admin {
    /// One that was found. If it `was_told` to fail its health checks, it is told to serve.
    pub(super) fn found(
        node: Arc<str>,
        address: &str,
        was_told: bool,
        started: SystemTime,
        now: Instant,
    ) -> Self {
        let health = if was_told {
            Health::RestoreAt(now)
        } else {
            Health::Serving
        };
        Self {
            node,
            address: address.to_owned(),
            poll: Poll::Idle,
            health,
            started,
            names: None,
        }
    }

    fn learn(&mut self, reading: &Reading) {
        let names = self.names.get_or_insert_default();
        names.listeners = reading.listeners.keys().cloned().collect();
        if let Some(upstreams) = &reading.upstreams {
            names.upstreams = upstreams.keys().cloned().collect();
        }
        if let Some(sessions) = &reading.sessions {
            names.sessions.clone_from(sessions);
        }
    }

    /// Whether what it has was read.
    pub(super) fn is_read(&self) -> bool {
        self.names.is_some()
    }

    /// The `stat_prefix`es of its listeners, and the names of those with TCP sessions, as last read.
    pub(super) fn listeners(&self) -> impl Iterator<Item = &String> {
        let names = self.names.iter();
        names.flat_map(|names| names.listeners.union(&names.sessions))
    }

    /// Whether TCP sessions go by this name.
    pub(super) fn has_sessions(&self, name: &str) -> bool {
        let names = self.names.as_ref();
        names.is_some_and(|names| names.sessions.iter().any(|session| is_named(session, name)))
    }

    /// Its upstream endpoints, as last read.
    pub(super) fn upstreams(&self) -> impl Iterator<Item = &String> {
        self.names.iter().flat_map(|names| &names.upstreams)
    }

    /// Whether a drain that has ended can have drained this process, and not one that had its place before.
    fn was_there(&self, drain: &Drain) -> bool {
        self.started <= drain.started_at + STARTED_WITHIN
    }

    /// Whether Envoy closes its connections by itself.
    pub(super) fn closes(&self) -> bool {
        self.health == Health::Failed
    }

    /// Has it told to serve, whatever it was told before.
    pub(super) fn restore_at(&mut self, at: Instant) {
        if self.health != Health::Restoring {
            self.health = Health::RestoreAt(at);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let poll = match self.poll {
            Poll::Patient { at } | Poll::Due { at } => Some(at),
            Poll::Idle | Poll::Asking => None,
        };
        let health = match self.health {
            Health::RestoreAt(at) => Some(at),
            _ => None,
        };
        [poll, health].into_iter().flatten().min()
    }
}

/// Whether a drain has the Envoys that it covers close by themselves, where they can be told.
pub(super) fn pulls_lever(drain: &Drain) -> bool {
    drain.scope.is_whole_node() && drain.machine.policy().ramp.is_zero()
}

impl Core {
    /// Gives a new drain the admin endpoints of the nodes that it covers.
    pub(super) fn add_admins(&self, drain: &mut Drain) {
        self.await_endpoints(drain);
        self.give_admins(drain);
    }

    pub(super) fn admin_answered(
        &mut self,
        node: &str,
        ask: u64,
        reading: Result<Reading, String>,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        let Some((node, admin)) = self
            .admins
            .get_key_value(node)
            .map(|(node, _)| node.clone())
            .and_then(|node| {
                let admin = self.admins.get_mut(&node)?;
                Some((node, admin))
            })
        else {
            return;
        };
        let again = if reading.is_ok() { ASK_EVERY } else { AGAIN_AFTER };
        admin.poll = Poll::Due {
            at: now.instant + again,
        };
        if let Ok(reading) = &reading {
            admin.learn(reading);
        }
        self.count_named(&node, ask, out);
        for sequence in self.give_admin(&node) {
            self.own_count(sequence, &node, ask, &reading);
            self.observe(sequence, now, out);
        }
    }

    pub(super) fn lever_done(
        &mut self,
        node: &str,
        close: bool,
        result: Result<(), String>,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        let Some(admin) = self.admins.get_mut(node) else {
            return;
        };
        let (closed, of) = (admin.closes(), admin.node.clone());
        admin.health = match (close, &result) {
            (true, Ok(())) => Health::Failed,
            (true, Err(_)) => Health::Unable,
            (false, Ok(())) => Health::Serving,
            (false, Err(_)) => Health::RestoreAt(now.instant + AGAIN_AFTER),
        };
        let closes_otherwise = admin.closes() != closed;
        if !close && result.is_ok() && self.pulled_levers.remove(node) {
            let node = node.to_owned();
            out.push(Effect::KeepLever { node, pulled: false });
        }
        if let (true, Err(error)) = (close, result) {
            for drain in self
                .drains
                .values_mut()
                .filter(|drain| pulls_lever(drain) && drain.scope.has_node(&of))
            {
                if !drain.machine.is_ended() {
                    drain.warn(format!(
                        "/healthcheck/fail of {node} failed, its filter closes instead: {error}"
                    ));
                }
            }
        }
        if !closes_otherwise && !close {
            return;
        }
        self.generation += 1;
        let members: Vec<Epoch> = self
            .fleet
            .reporters()
            .filter(|(_, reporter)| reporter.node == of)
            .map(|(epoch, _)| epoch)
            .collect();
        for epoch in members {
            self.send(epoch, now, out);
        }
        let changed = self
            .drains
            .values()
            .filter(|drain| pulls_lever(drain) && drain.scope.has_node(&of));
        out.extend(changed.map(|drain| Effect::DrainChanged {
            id: drain.id.clone(),
            phase: true,
        }));
    }

    /// Asks the Envoys whose own count is needed, and has those close that are to.
    pub(super) fn step_admins(&mut self, now: Now, out: &mut Vec<Effect>) {
        for (node, admin) in &mut self.admins {
            let of_node = || self.drains.values().filter(|drain| drain.tally.has_node(node));
            let running = || {
                of_node()
                    .filter(|drain| !drain.machine.is_ended())
                    .filter_map(|drain| Some((drain, drain.tally.needs_own(node)?)))
            };
            let need = running().map(|(_, need)| need).max();
            admin.poll = match (admin.poll, need) {
                (Poll::Asking, _) => Poll::Asking,
                (_, None) => Poll::Idle,
                (Poll::Idle, Some(Need::Soon)) => Poll::Patient {
                    at: now.instant + ASK_AFTER,
                },
                (Poll::Idle | Poll::Patient { .. }, Some(Need::AtOnce)) => Poll::Due { at: now.instant },
                (poll, _) => poll,
            };
            if matches!(admin.poll, Poll::Patient { at } | Poll::Due { at } if at <= now.instant) {
                let upstreams = running().any(|(drain, _)| drain.scope.is_upstream());
                out.push(Effect::AskAdmin {
                    node: node.to_string(),
                    ask: self.ask,
                    upstreams,
                });
                admin.poll = Poll::Asking;
            }

            let holds = |drain: &Drain| !matches!(drain.machine.outcome(), Some((_, Hold::Released)));
            // An Envoy that was started in the place of a drained one serves.
            let covered = |drain: &Drain| !drain.machine.is_ended() || admin.was_there(drain);
            let close = of_node().any(|drain| pulls_lever(drain) && holds(drain) && covered(drain));
            let lever = match (admin.health, close) {
                (Health::Serving, true) => Some(Health::Failing),
                // A call that failed may have been heard.
                (Health::Failed | Health::Unable, false) => Some(Health::Restoring),
                (Health::RestoreAt(at), false) if at <= now.instant => Some(Health::Restoring),
                // It fails already: nothing was restored.
                (Health::RestoreAt(_), true) => Some(Health::Failing),
                _ => None,
            };
            if let Some(health) = lever {
                admin.health = health;
                if close && self.pulled_levers.insert(node.clone()) {
                    let node = node.to_string();
                    out.push(Effect::KeepLever { node, pulled: true });
                }
                out.push(Effect::PullLever {
                    node: node.to_string(),
                    close,
                });
            }
        }
    }

    /// Nodes whose Envoy was told to close and is to serve again before this control plane ends: those that no drain holds
    /// which a successor will know. The others are left to it.
    pub fn levers_to_undo(&self, will_be_known: impl Fn(&str) -> bool) -> Vec<String> {
        let wanted = |key: &Arc<str>| {
            let node = self.admins.get(key).map_or(key, |admin| &admin.node);
            let mut drains = self.drains.values();
            drains.any(|drain| {
                let released = matches!(drain.machine.outcome(), Some((_, Hold::Released)));
                pulls_lever(drain) && !released && drain.scope.has_node(node) && will_be_known(&drain.id)
            })
        };
        let levers = self.pulled_levers.iter();
        levers
            .filter(|node| !wanted(node))
            .map(ToString::to_string)
            .collect()
    }

    /// What closes the connections in the scope of a drain.
    pub(super) fn lever(&self, drain: &Drain) -> v1::Lever {
        let by_admin =
            |node: &Arc<str>| self.admins.get(node).is_some_and(Admin::closes) && !self.fleet.is_shared(node);
        if pulls_lever(drain) && drain.tally.nodes().next().is_some() && drain.tally.nodes().all(by_admin) {
            v1::Lever::Admin
        } else if drain.machine.closing_since().is_some()
            && !drain.scope.is_upstream()
            && drain.tally.members().next().is_some()
        {
            v1::Lever::Filter
        } else {
            v1::Lever::Unspecified
        }
    }
}
