//! Members that leave for good, one by one or with their process.

use std::sync::Arc;

use super::Tally;
use crate::core::{fleet::Epoch, node::Node};

impl Tally {
    /// A reporter has left for good, and with it whatever it had in flight: it is waited for no longer, and what it
    /// counted is kept. Returns what it had in flight by its last word.
    pub fn leave(&mut self, epoch: Epoch) -> u64 {
        let Some(mut member) = self.take(epoch) else {
            return 0;
        };
        let in_flight = member.counts.values().map(|count| count.in_flight);
        let in_flight = in_flight.fold(0, u64::saturating_add);
        for count in member.counts.values_mut() {
            count.in_flight = 0;
        }
        self.left.push(member);
        in_flight
    }

    /// A node's Envoy is gone: its admin endpoint will tell nothing any more.
    pub fn lose_admin(&mut self, node: &Arc<str>) {
        self.change(node, Node::has_no_admin);
    }

    /// Whether an Envoy process has a member, or had one that has left.
    pub fn has_process(&self, process: u64) -> bool {
        let mut all = self.members.values().chain(&self.left);
        all.any(|member| member.process == process)
    }

    /// The members of an Envoy process.
    pub fn of_process(&self, process: u64) -> impl Iterator<Item = (Epoch, &Arc<str>)> {
        let members = self.members.iter();
        members
            .filter(move |(_, member)| member.process == process)
            .map(|(epoch, member)| (*epoch, &member.node))
    }
}
