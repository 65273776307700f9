//! What Envoys say of themselves, beside their reporters.

use std::sync::Arc;

use super::Tally;
use crate::core::node::{Need, Node, Own};

impl Tally {
    /// Whether a node's own count is needed, and how much.
    pub fn needs_own(&self, node: &str) -> Option<Need> {
        self.nodes.get(node)?.needs_own(self.terms)
    }

    /// A node of which an admin endpoint is at hand. `beside`: its Envoy may have requests in scope that no reporter counts.
    pub fn has_admin(&mut self, node: &Arc<str>, beside: bool) {
        self.change(node, |node| node.has_admin(beside));
    }

    /// A node of which the admin endpoint does not concern the drain.
    pub fn has_no_admin(&mut self, node: &Arc<str>) {
        self.change(node, Node::has_no_admin);
    }

    /// A node of which an earlier control plane had a word of its Envoy that nobody else gives.
    pub fn expect_own(&mut self, node: &str) {
        self.change(&node.into(), Node::has_lost_admin);
    }

    /// Whether a node has an admin endpoint.
    pub fn own_of(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(Node::has_own)
    }

    /// Nodes of which only their Envoy tells something.
    pub fn own_nodes(&self) -> Vec<String> {
        let kept = self.nodes.iter().filter(|(_, node)| node.needs_to_be_kept());
        kept.map(|(name, _)| name.to_string()).collect()
    }

    /// Nodes of which only their Envoy could tell, and does not.
    pub fn unknown_nodes(&self) -> impl Iterator<Item = &Arc<str>> {
        let silent = |node: &Node| node.filter.unknown == 0 && node.contribution(self.terms).unknown > 0;
        self.nodes
            .iter()
            .filter(move |(_, node)| silent(node))
            .map(|(name, _)| name)
    }

    /// What a node's Envoy says of itself, in answer to `ask`; `None` = it did not answer. Returns whether it told, and not
    /// for the first time, of requests that no reporter counts.
    pub fn own_count(&mut self, node: &Arc<str>, ask: u64, own: Option<Own>) -> bool {
        let told = self.terms.told;
        self.change(node, |node| node.own_count(ask, own, told))
    }

    /// An admin endpoint that concerns the drain has not been reached: what its Envoy does is unknown.
    pub fn await_endpoint(&mut self, address: &str) {
        self.unreached.insert(address.to_owned());
    }

    /// An admin endpoint was reached, or there is nothing behind it. Whether the drain waited for that.
    pub fn endpoint_reached(&mut self, address: &str) -> bool {
        self.unreached.remove(address)
    }

    /// Admin endpoints that the drain waits for.
    pub fn unreached(&self) -> impl Iterator<Item = &String> {
        self.unreached.iter()
    }
}
