//! Looking at the Envoys of drains from outside of their filters, and what a drain makes of what it sees.

use std::time::Instant;

use ebb_proto::v1;

use super::{
    Core, Effect, Now,
    drain::Drain,
    machine::Outcome,
    outstanding::{Outstanding, Unsent},
    policy::Tcp,
    settling::UPSTREAM_WITHIN,
};

impl Drain {
    /// Looks at the nodes that it covers now, and at no others.
    pub(super) fn sync_settling(&mut self) {
        // One comes or goes at a time, so that as many as before are the same.
        if self.machine.settles() && self.settling.count() != self.tally.nodes().len() {
            self.settling.sync(self.tally.nodes());
        }
    }

    /// Whether it waits for requests: then what Envoys owe beyond them is of less interest.
    fn is_busy(&self) -> bool {
        let seen = self.tally.observation();
        seen.in_flight > 0 || seen.unknown > 0
    }

    /// When an Envoy is to be looked at next.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let looks = self.machine.settles();
        self.settling.next_deadline(self.is_busy()).filter(|_| looks)
    }

    /// What the drain waits for of what was seen.
    fn of_concern(&self, seen: Outstanding) -> Outstanding {
        let counts_sessions = self.machine.policy().tcp == Tcp::Wait;
        Outstanding {
            tcp: seen.tcp.filter(|_| counts_sessions),
            unsent: seen.unsent,
            upstream: seen.upstream.filter(|_| self.scope.is_whole_node()),
        }
    }

    /// What is known to be owed, in the words of the wire.
    pub(super) fn outstanding(&self) -> Option<v1::Outstanding> {
        let known = self.settling.known()?;
        Some(v1::Outstanding {
            tcp_sessions: known.tcp,
            unsent_bytes: known.unsent.as_ref().map(Unsent::bytes),
            unsent_clients: known.unsent.map(|unsent| unsent.clients),
            // What Envoys do for requests in flight is not on their own account.
            upstream_requests: known.upstream.filter(|_| !self.is_busy()),
            unseen_nodes: u32::try_from(self.settling.owed().unseen).unwrap_or(u32::MAX),
        })
    }

    /// Says what it does not wait for any longer, if it has just ended.
    pub(super) fn warn_of_upstream(&mut self) {
        let upstream = self.settling.owed().upstream;
        if upstream > 0 && matches!(self.machine.outcome(), Some((Outcome::Drained, _))) {
            self.warn(format!(
                "{upstream} requests to upstreams that Envoy makes on its own account (mirrors, access logs, side calls) were \
                 not done {} after the last of its clients': they may be lost",
                humantime::format_duration(UPSTREAM_WITHIN)
            ));
        }
    }
}

impl Core {
    /// Has everybody in the scope of a drain looked at.
    pub(super) fn look(&mut self, sequence: u64, now: Now, out: &mut Vec<Effect>) {
        let last = self.looks;
        let Some(drain) = self.drains.get_mut(&sequence) else {
            return;
        };
        drain.settling.look(last);
        self.observe(sequence, now, out);
    }

    /// Looks at the Envoys that are due.
    pub(super) fn step_looks(&mut self, now: Now, out: &mut Vec<Effect>) {
        for drain in self.drains.values_mut().filter(|drain| drain.machine.settles()) {
            let busy = drain.is_busy();
            let next = || {
                self.looks += 1;
                self.looks
            };
            let asked = drain.settling.ask(busy, now.instant, next);
            out.extend(asked.into_iter().map(|(node, ask)| Effect::AskOutstanding {
                node: node.to_string(),
                ask,
                listeners: drain.scope.listeners.clone(),
            }));
        }
    }

    /// An Envoy was looked at.
    pub(super) fn outstanding_told(
        &mut self,
        node: &str,
        ask: u64,
        seen: Outstanding,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        let concerned = self.drains.values_mut().find_map(|drain| {
            let seen = drain.of_concern(seen);
            let told = drain.settling.told(node, ask, seen, now.instant);
            told.then_some(drain.sequence)
        });
        if let Some(sequence) = concerned {
            self.observe(sequence, now, out);
        }
    }
}
