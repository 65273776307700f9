//! Drains that have ended and hold: who is held, by which of them, and when they let go.

use super::{Core, Effect, Now, drain::Drain, fleet::Epoch, machine};

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

    /// Lets ended drains go of members that an earlier control plane knew and that never came back to this one.
    pub(super) fn release_the_gone(&mut self, now: Now, out: &mut Vec<Effect>) {
        for drain in self.drains.values_mut().filter(|drain| drain.machine.is_ended()) {
            for epoch in drain
                .tally
                .members()
                .filter(|epoch| self.fleet.get(*epoch).is_none())
                .collect::<Vec<_>>()
            {
                drain.tally.remove(epoch);
            }
        }
        self.release_the_empty(now, out);
    }
}
