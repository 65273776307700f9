//! Drains that have ended and hold: who is held, by which of them, and when they let go.

use std::collections::HashSet;

use super::{
    Core, Effect, Now,
    drain::Drain,
    fleet::{Epoch, FORGET_AFTER},
    machine,
};

impl Core {
    /// Has a drain that holds take over from others of the same scope that had ended when it started, so that they let go:
    /// what there is to do for all that hold stays bounded, however many there were. Their outcomes stay. Drains that ran
    /// side by side hold each by itself.
    pub(super) fn take_over(&mut self, sequence: u64, now: Now, out: &mut Vec<Effect>) {
        let Some(drain) = self.drains.get(&sequence).filter(|drain| drain.holds()) else {
            return;
        };
        let same = |other: &&Drain| {
            other.holds()
                && other.scope == drain.scope
                && other.sequence < sequence
                && other.machine.has_ended_by(drain.started)
        };
        let others: Vec<u64> = self
            .drains
            .values()
            .filter(same)
            .map(|other| other.sequence)
            .collect();
        if others.is_empty() {
            return;
        }
        let members: Vec<_> = others
            .iter()
            .filter_map(|other| self.drains.get(other))
            .flat_map(|other| other.tally.records())
            .collect();
        if let Some(drain) = self.drains.get_mut(&sequence) {
            for member in members {
                if !drain.tally.has(Epoch(member.epoch)) {
                    drain
                        .tally
                        .expect(Epoch(member.epoch), &member.node, member.process);
                }
            }
        }
        // Whom the others held is written down with this one before they let go.
        self.keep(sequence, now, out);
        for other in others {
            self.drive(other, machine::Event::NobodyLeft, now, out);
        }
    }

    /// Releases ended drains that hold nobody.
    pub(super) fn release_the_empty(&mut self, now: Now, out: &mut Vec<Effect>) {
        let empty = |drain: &&Drain| drain.machine.is_ended() && drain.tally.is_deserted();
        for sequence in self
            .drains
            .values()
            .filter(empty)
            .map(|drain| drain.sequence)
            .collect::<Vec<_>>()
        {
            self.drive(sequence, machine::Event::NobodyLeft, now, out);
        }
    }

    /// Lets ended drains go of members that have been away for long, or that are not known at all.
    pub(super) fn release_the_gone(&mut self, now: Now, out: &mut Vec<Effect>) {
        let Some(then) = now.instant.checked_sub(FORGET_AFTER) else {
            return;
        };
        let long_gone: HashSet<Epoch> = self.fleet.away_since(then).map(|(epoch, _)| epoch).collect();
        for drain in self.drains.values_mut().filter(|drain| drain.machine.is_ended()) {
            let gone = |epoch: &Epoch| long_gone.contains(epoch) || self.fleet.get(*epoch).is_none();
            for epoch in drain.tally.members().filter(gone).collect::<Vec<_>>() {
                drain.tally.remove(epoch);
            }
        }
        self.release_the_empty(now, out);
    }
}
