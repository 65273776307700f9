//! Asks that somebody outside waits for: who was asked, and who has not answered yet.

use std::{collections::HashSet, sync::Arc};

use super::{Core, Effect, Now, fleet::Epoch};

/// Somebody who was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Asked {
    /// A reporter.
    Reporter(Epoch),
    /// An Envoy itself, by its node.
    Envoy(Arc<str>),
}

impl Core {
    /// Asks everybody live for its counts. [`Effect::Answered`] follows, here or later.
    pub fn query(&mut self, now: Now) -> (u64, Vec<Effect>) {
        self.ask += 1;
        let live = self.fleet.reporters().filter(|(_, reporter)| reporter.is_live());
        let live: HashSet<Epoch> = live.map(|(epoch, _)| epoch).collect();
        let mut out = Vec::new();
        for epoch in &live {
            self.send(*epoch, now, &mut out);
        }
        self.wait_for(live.into_iter().map(Asked::Reporter).collect(), &mut out);
        (self.ask, out)
    }

    /// Waits until the live members of a drain have done what they were told last: no one else is asked, and they are not
    /// asked again. [`Effect::Answered`] follows, here or later.
    pub fn query_drain(&mut self, id: &str, now: Now) -> (u64, Vec<Effect>) {
        let drain = self.find(id).into_iter();
        let members: Vec<Epoch> = drain.flat_map(|drain| drain.tally.members()).collect();
        let reporter = |epoch: &Epoch| self.fleet.get(*epoch).filter(|reporter| reporter.is_live());
        let mut waits_for = members;
        waits_for.retain(|epoch| reporter(epoch).is_some());
        let asked = |epoch: &Epoch| reporter(epoch).is_some_and(|reporter| reporter.asked >= self.ask);
        let mut out = Vec::new();
        if self.queries.contains_key(&self.ask) || !waits_for.iter().all(asked) {
            self.ask += 1;
            for epoch in &waits_for {
                self.send(*epoch, now, &mut out);
            }
        }
        waits_for.retain(|epoch| {
            self.fleet
                .get(*epoch)
                .is_some_and(|reporter| reporter.answered < self.ask)
        });
        self.wait_for(waits_for.into_iter().map(Asked::Reporter).collect(), &mut out);
        (self.ask, out)
    }

    fn wait_for(&mut self, waits_for: HashSet<Asked>, out: &mut Vec<Effect>) {
        if waits_for.is_empty() {
            out.push(Effect::Answered(self.ask));
        } else {
            self.queries.insert(self.ask, waits_for);
        }
    }

    /// A reporter has answered every ask up to `ask`, or will answer none of them any more. Who attached after an ask was
    /// put is not among those that it waits for.
    pub(super) fn answered(&mut self, epoch: Epoch, ask: u64, out: &mut Vec<Effect>) {
        let mut complete = Vec::new();
        for (ask, missing) in self.queries.range_mut(..=ask) {
            if missing.remove(&Asked::Reporter(epoch)) && missing.is_empty() {
                complete.push(*ask);
            }
        }
        for ask in complete {
            self.complete(ask, out);
        }
    }

    /// An Envoy answered an ask for names, or did not.
    pub(super) fn count_named(&mut self, node: &Arc<str>, ask: u64, out: &mut Vec<Effect>) {
        if let Some(missing) = self.queries.get_mut(&ask)
            && missing.remove(&Asked::Envoy(node.clone()))
            && missing.is_empty()
        {
            self.complete(ask, out);
        }
    }

    /// Whoever has not answered by now is waited for no longer.
    pub fn give_up(&mut self, ask: u64) {
        self.queries.remove(&ask);
    }

    fn complete(&mut self, ask: u64, out: &mut Vec<Effect>) {
        self.queries.remove(&ask);
        out.push(Effect::Answered(ask));
    }
}
