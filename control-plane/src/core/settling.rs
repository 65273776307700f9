//! What the Envoys in the scope of a drain owed when they were last looked at, and whom to look at next.
//!
//! ```text
//!   of each node:   Due --asked--> Asking --answer that owes something--> Waiting --a pause later--> Due
//!                    ^                |  '--answer that owes nothing--> Idle
//!                    '-- a new look --+---------------------------------'
//! ```
//! An answer counts for a look only if it was asked for after that began. Nothing here walks over all nodes but a look, and
//! what is due.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{outstanding::Outstanding, policy::Policy};

/// Between two looks at an Envoy while the drain waits for nothing else.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The same while requests are in flight, when a look only serves the display.
const GLANCE_EVERY: Duration = Duration::from_secs(1);

/// How long a drain waits at most for what Envoys do on their own account: a mirror that hangs must not take the deadline.
pub const UPSTREAM_WITHIN: Duration = Duration::from_secs(5);

/// The most that is believed of one node, so that no sum overflows.
const MOST: u64 = 1 << 50;

/// What all of them owe, as last seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owed {
    /// How many nodes are looked at.
    pub nodes: usize,
    /// Those that have not answered the last look.
    pub unasked: usize,
    /// Those of which it cannot be seen whether clients have received everything.
    pub unseen: usize,
    /// Raw TCP sessions.
    pub sessions: u64,
    /// Bytes that clients have not received.
    pub bytes: u64,
    /// The clients that have not received them, as far as they can be told apart.
    pub clients: u64,
    /// Requests to upstreams on their own account.
    pub upstream: u64,
}

impl Owed {
    /// When a drain that closes since `closing` and is quiet since `quiet` has waited long enough; `None` = not while it is
    /// like this. Sessions are no part of it: they count like requests.
    pub fn settled_at(&self, policy: &Policy, quiet: Instant, closing: Instant) -> Option<Instant> {
        if self.bytes > 0 {
            return None;
        }
        if self.nodes == 0 {
            return Some(quiet);
        }
        let mut at = (quiet + policy.flush).max(closing + policy.idle);
        if self.unseen > 0 {
            at = at.max(quiet + policy.linger);
        }
        if self.upstream > 0 {
            at = at.max(quiet + UPSTREAM_WITHIN);
        }
        Some(at)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Poll {
    #[default]
    Due,
    Asking {
        ask: u64,
    },
    Waiting {
        since: Instant,
    },
    Idle,
}

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    poll: Poll,
    /// The question that its last answer was for; 0 = none.
    answered: u64,
    last: Outstanding,
}

impl Node {
    fn owes(&self) -> bool {
        let Outstanding {
            tcp,
            unsent,
            upstream,
        } = self.last;
        tcp.is_some_and(|sessions| sessions > 0)
            || unsent.is_some_and(|unsent| unsent.bytes() > 0)
            || upstream.is_some_and(|requests| requests > 0)
    }

    fn answers(&self, look: u64) -> bool {
        self.answered > look
    }

    fn owed(&self, look: u64) -> Owed {
        let Outstanding {
            tcp,
            unsent,
            upstream,
        } = self.last;
        let unsent_here = unsent.unwrap_or_default();
        Owed {
            nodes: 1,
            unasked: usize::from(!self.answers(look)),
            unseen: usize::from(unsent.is_none()),
            sessions: tcp.unwrap_or_default().min(MOST),
            bytes: unsent_here.bytes().min(MOST),
            clients: unsent_here.clients.min(MOST),
            upstream: upstream.unwrap_or_default().min(MOST),
        }
    }
}

/// The nodes of a drain.
#[derive(Clone, Debug, Default)]
pub struct Settling {
    nodes: BTreeMap<Arc<str>, Node>,
    /// An answer counts for the last look if it is for a later question than this.
    look: u64,
    owed: Owed,
    /// How many are due.
    due: usize,
    /// When the longest pause between two looks began.
    waiting_since: Option<Instant>,
}

impl Settling {
    /// What all of them owe.
    pub fn owed(&self) -> Owed {
        self.owed
    }

    /// How many nodes there are.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// From here on these are its nodes, and no others.
    pub fn sync<'a>(&mut self, nodes: impl Iterator<Item = &'a Arc<str>>) {
        let mut before = std::mem::take(&mut self.nodes);
        let known = nodes.map(|name| (name.clone(), before.remove(name).unwrap_or_default()));
        self.nodes = known.collect();
        self.sum_up();
    }

    /// Everybody is to be looked at, by questions later than `ask`.
    pub fn look(&mut self, ask: u64) {
        self.look = ask;
        for node in self.nodes.values_mut() {
            if !matches!(node.poll, Poll::Asking { .. }) {
                node.poll = Poll::Due;
            }
        }
        self.sum_up();
    }

    fn sum_up(&mut self) {
        self.owed = Owed::default();
        (self.due, self.waiting_since) = (0, None);
        for node in self.nodes.values() {
            self.owed.add(node.owed(self.look));
            match node.poll {
                Poll::Due => self.due += 1,
                Poll::Waiting { since } => {
                    self.waiting_since = Some(self.waiting_since.map_or(since, |at| at.min(since)));
                }
                Poll::Asking { .. } | Poll::Idle => {}
            }
        }
    }

    /// Whom to ask now, each with the number that `next` gives it. `busy`: requests are in flight.
    pub fn ask(&mut self, busy: bool, now: Instant, mut next: impl FnMut() -> u64) -> Vec<(Arc<str>, u64)> {
        if self.due == 0 && self.next_deadline(busy).is_none_or(|at| at > now) {
            return Vec::new();
        }
        let mut asked = Vec::new();
        for (name, node) in &mut self.nodes {
            let is_due = match node.poll {
                Poll::Due => true,
                Poll::Waiting { since } => since + pause(busy) <= now,
                Poll::Asking { .. } | Poll::Idle => false,
            };
            if is_due {
                let ask = next();
                node.poll = Poll::Asking { ask };
                asked.push((name.clone(), ask));
            }
        }
        self.sum_up();
        asked
    }

    /// A node's Envoy was looked at, in answer to `ask`; of what was seen the drain waits for what `concerns` leaves. Returns
    /// whether that question was of this drain.
    pub fn told(
        &mut self,
        name: &str,
        ask: u64,
        seen: Outstanding,
        concerns: impl FnOnce(Outstanding) -> Outstanding,
        now: Instant,
    ) -> bool {
        let Some(node) = self.nodes.get_mut(name) else {
            return false;
        };
        if node.poll != (Poll::Asking { ask }) {
            return false;
        }
        let before = node.owed(self.look);
        node.answered = ask;
        node.last = concerns(seen.or_as_before(node.last));
        node.poll = match ask > self.look {
            false => Poll::Due,
            true if node.owes() => Poll::Waiting { since: now },
            true => Poll::Idle,
        };
        let after = node.owed(self.look);
        match node.poll {
            Poll::Due => self.due += 1,
            Poll::Waiting { since } => {
                self.waiting_since.get_or_insert(since);
            }
            Poll::Asking { .. } | Poll::Idle => {}
        }
        self.owed.remove(before);
        self.owed.add(after);
        true
    }

    /// When somebody is due next, besides those that are due at once.
    pub fn next_deadline(&self, busy: bool) -> Option<Instant> {
        self.waiting_since.map(|since| since + pause(busy))
    }

    /// What is known of all of them together; `None` = nothing.
    pub fn known(&self) -> Option<Outstanding> {
        let plus = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.saturating_add(b)),
            (a, b) => a.or(b),
        };
        let told = self.nodes.values().filter(|node| node.answered > 0);
        told.map(|node| node.last).reduce(|all, one| Outstanding {
            tcp: plus(all.tcp, one.tcp),
            unsent: match (all.unsent, one.unsent) {
                (Some(a), Some(b)) => Some(a.plus(b)),
                (a, b) => a.or(b),
            },
            upstream: plus(all.upstream, one.upstream),
        })
    }
}

fn pause(busy: bool) -> Duration {
    if busy { GLANCE_EVERY } else { LOOK_EVERY }
}

impl Owed {
    fn add(&mut self, node: Self) {
        self.nodes += node.nodes;
        self.unasked += node.unasked;
        self.unseen += node.unseen;
        self.sessions = self.sessions.saturating_add(node.sessions);
        self.bytes = self.bytes.saturating_add(node.bytes);
        self.clients = self.clients.saturating_add(node.clients);
        self.upstream = self.upstream.saturating_add(node.upstream);
    }

    fn remove(&mut self, node: Self) {
        self.nodes = self.nodes.saturating_sub(node.nodes);
        self.unasked = self.unasked.saturating_sub(node.unasked);
        self.unseen = self.unseen.saturating_sub(node.unseen);
        self.sessions = self.sessions.saturating_sub(node.sessions);
        self.bytes = self.bytes.saturating_sub(node.bytes);
        self.clients = self.clients.saturating_sub(node.clients);
        self.upstream = self.upstream.saturating_sub(node.upstream);
    }
}

#[cfg(test)]
#[path = "settling_tests.rs"]
mod tests;
