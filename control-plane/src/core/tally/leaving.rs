//! Members that leave for good, one by one or with their process.

use std::sync::Arc;

use super::{MOST, Tally};
use crate::core::{
    fleet::Epoch,
    node::{Node, is_twin},
};

impl Tally {
    /// A reporter has left for good, and with it whatever it had in flight: it is waited for no longer, and what it
    /// counted is kept. Returns how many requests were cut with it: those that it told of, and those that it had in flight by
    /// its last word, which is `last_word` where the drain has heard none. Of one that has neither told anything nor said
    /// goodbye it is not known whether it had any.
    pub fn leave(&mut self, epoch: Epoch, last_word: u64, said_goodbye: bool) -> u64 {
        let Some(mut member) = self.take(epoch) else {
            return 0;
        };
        let cut = member
            .counts
            .values()
            .map(|count| count.in_flight.saturating_add(count.cut()));
        let cut = cut.fold(0, u64::saturating_add);
        let cut = if member.counts.is_empty() { last_word } else { cut }.min(MOST);
        for count in member.counts.values_mut() {
            count.in_flight = 0;
        }
        if !member.known && member.counts.is_empty() && !said_goodbye && cut == 0 {
            self.unheard += 1;
        }
        self.change(&member.node, Node::has_been_left);
        self.left.push(member);
        self.add_cut(cut);
        cut
    }

    /// A node's Envoy is gone: its admin endpoint will tell nothing any more. Returns how many requests were cut that no
    /// reporter of it counted.
    pub fn lose_admin(&mut self, node: &Arc<str>) -> u64 {
        let counted = self.members.values().filter(|member| member.node == *node);
        let counted = counted.flat_map(|member| member.counts.values());
        let counted = counted.map(|count| count.in_flight).fold(0, u64::saturating_add);
        let own = self.nodes.get(node).and_then(Node::own_in_flight);
        let cut = own.unwrap_or(0).saturating_sub(counted);
        self.change(node, Node::has_no_admin);
        self.add_cut(cut);
        cut
    }

    /// The same of Envoys that shared its id.
    pub fn lose_twins(&mut self, node: &str) {
        let names = self.nodes.keys().filter(|name| is_twin(name, node));
        for name in names.cloned().collect::<Vec<_>>() {
            self.change(&name, Node::has_no_admin);
        }
    }

    /// How many requests were cut, as far as that is known.
    pub fn cut(&self) -> u64 {
        self.cut
    }

    /// How many reporters left before anybody knew what they had in flight.
    pub fn unheard(&self) -> u64 {
        self.unheard
    }

    /// Requests were cut.
    pub fn add_cut(&mut self, requests: u64) {
        self.cut = self.cut.saturating_add(requests);
    }

    /// The nodes of which an Envoy process is a member, or was one.
    pub fn nodes_of(&self, process: u64) -> impl Iterator<Item = &Arc<str>> {
        let all = self.members.values().chain(&self.left);
        all.filter(move |member| member.process == process)
            .map(|member| &member.node)
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
