//! Who is done. A stream that ends leaves a count that is not known; but a VM that says goodbye has nothing in flight, and
//! of a process that was seen to end nothing can be in flight any more.

use std::{collections::BTreeMap, sync::Arc};

use ebb_proto::v1;

use super::{Core, Effect, Now, fleet::Epoch};

/// Whether a report is the last of its VM. One that still counts requests is not: what becomes of them is not known.
pub(super) fn is_goodbye(report: &v1::FilterReport) -> bool {
    let requests = report.listeners.iter().map(|counts| counts.in_flight);
    let attempts = report.upstreams.iter().map(|counts| counts.in_flight);
    report.goodbye && requests.chain(attempts).all(|in_flight| in_flight == 0)
}

impl Core {
    /// A VM has said its last words.
    pub(super) fn said_goodbye(&mut self, epoch: Epoch, now: Now, out: &mut Vec<Effect>) {
        self.answers_no_more(epoch, out);
        self.fleet.leave(epoch);
        self.left(&[epoch], now, out);
    }

    /// An Envoy process was seen to end, its VMs with it.
    pub(super) fn process_ended(&mut self, process: u64, now: Now, out: &mut Vec<Effect>) {
        let mut gone: BTreeMap<Epoch, Arc<str>> = BTreeMap::new();
        let reporters = self.fleet.of_process(process);
        gone.extend(reporters.map(|(epoch, reporter)| (epoch, reporter.node.clone())));
        // An earlier control plane may have known more of them.
        let members = self
            .drains
            .values()
            .flat_map(|drain| drain.tally.of_process(process));
        gone.extend(members.map(|(epoch, node)| (epoch, node.clone())));
        if gone.is_empty() {
            return;
        }
        for epoch in gone.keys() {
            self.answers_no_more(*epoch, out);
            self.fleet.leave(*epoch);
        }
        let epochs: Vec<Epoch> = gone.keys().copied().collect();
        for node in gone.into_values() {
            // Where another process has taken its place, the admin endpoint is that one's.
            if self.fleet.nodes().any(|(other, _)| *other == node) {
                continue;
            }
            for drain in self.drains.values_mut().filter(|drain| !drain.machine.is_ended()) {
                drain.tally.lose_admin(&node);
            }
        }
        self.left(&epochs, now, out);
        out.push(Effect::FleetChanged);
    }

    fn answers_no_more(&mut self, epoch: Epoch, out: &mut Vec<Effect>) {
        out.extend(self.inquiries.lost(epoch).into_iter().map(Effect::Answered));
        self.answered(epoch, u64::MAX, out);
    }

    /// No drain waits for these any longer.
    fn left(&mut self, epochs: &[Epoch], now: Now, out: &mut Vec<Effect>) {
        let mut concerned = Vec::new();
        for drain in self.drains.values_mut() {
            let members: Vec<Epoch> = epochs
                .iter()
                .copied()
                .filter(|epoch| drain.tally.has(*epoch))
                .collect();
            if members.is_empty() {
                continue;
            }
            if drain.machine.is_ended() {
                for epoch in members {
                    drain.tally.remove(epoch);
                }
                continue;
            }
            let cut: u64 = members.into_iter().map(|epoch| drain.tally.leave(epoch)).sum();
            if cut > 0 {
                drain.warn(format!(
                    "an Envoy in its scope ended with requests in flight, which it cut: {cut} by its last report"
                ));
            }
            concerned.push(drain.sequence);
        }
        for sequence in concerned {
            self.observe(sequence, now, out);
        }
        self.release_the_empty(now, out);
    }
}
