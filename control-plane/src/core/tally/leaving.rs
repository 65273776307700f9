//! Members that leave for good, one by one or with their process.

use std::sync::Arc;

use super::{MOST, Tally, member::Member};
use crate::core::{
    fleet::Epoch,
    node::{Node, is_twin},
};

/// Of how many processes it is remembered that members of them have left.
const MOST_LEFT: usize = 4096;

impl Tally {
    /// A reporter has left for good, and with it whatever it had in flight: it is waited for no longer, and what it
    /// counted is kept. Returns how many requests were cut with it: those that it told of, and those that it had in flight by
    /// its last word, which is `last_word` where the drain has heard none. Of one that has neither told anything nor said
    /// goodbye it is not known whether it had any.
    pub fn leave(&mut self, epoch: Epoch, last_word: u64, said_goodbye: bool) -> u64 {
        let Some(mut member) = self.take(epoch) else {
            return 0;
        };
        let cut = if member.has_told() {
            member.cut()
        } else {
            last_word
        }
        .min(MOST);
        if !member.known && !member.has_told() && !said_goodbye && cut == 0 {
            self.unheard += 1;
        }
        member.leave(true, &mut self.rows);
        self.change(&member.node, Node::has_been_left);
        self.left.insert((member.process, member.node));
        // Who speaks of ever new processes is no Envoy.
        if self.left.len() > MOST_LEFT {
            self.left.pop_first();
        }
        self.add_cut(cut);
        cut
    }

    /// A node's Envoy is gone: its admin endpoint will tell nothing any more. Returns how many requests were cut that no
    /// reporter of it counted.
    pub fn lose_admin(&mut self, node: &Arc<str>) -> u64 {
        let counted = self.members.values().filter(|member| member.node == *node);
        let counted = counted.map(Member::counted).fold(0, u64::saturating_add);
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
        let members = self.members.values().map(|member| (member.process, &member.node));
        let left = self.left.iter().map(|(process, node)| (*process, node));
        let all = members.chain(left);
        all.filter(move |(of, _)| *of == process).map(|(_, node)| node)
    }

    /// Whether an Envoy process has a member, or had one that has left.
    pub fn has_process(&self, process: u64) -> bool {
        let first = (process, Arc::default());
        let left = || {
            self.left
                .range(first..)
                .next()
                .is_some_and(|(of, _)| *of == process)
        };
        self.processes.contains_key(&process) || left()
    }

    /// The members of an Envoy process.
    pub fn of_process(&self, process: u64) -> impl Iterator<Item = (Epoch, &Arc<str>)> {
        let members = self.members.iter();
        members
            .filter(move |(_, member)| member.process == process)
            .map(|(epoch, member)| (*epoch, &member.node))
    }
}
