//! What a drain covers.

use ebb_proto::v1;

use super::{fleet::Reporter, machine::Hold};

/// What a reporter says of one listener, or of one upstream endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Said<'a> {
    /// Of the listener, or the endpoint's address.
    pub(super) name: &'a str,
    pub(super) in_flight: u64,
    pub(super) started: u64,
    /// Of those, health probes.
    pub(super) probes: u64,
    pub(super) marked: u64,
    pub(super) cut: u64,
    /// Of those, since the report before.
    pub(super) cut_lately: u64,
}

/// Nodes x listeners, or nodes x upstream endpoints; an empty list of nodes or listeners means all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// `node.id`s. These and the others are sorted.
    pub nodes: Vec<String>,
    /// Listener names.
    pub listeners: Vec<String>,
    /// Upstream endpoints. If any are named, the drain closes nothing: it waits for what goes towards them.
    pub upstreams: Vec<String>,
}

impl From<v1::Scope> for Scope {
    fn from(wire: v1::Scope) -> Self {
        let tidy = |mut names: Vec<String>| {
            names.sort();
            names.dedup();
            names
        };
        Self {
            nodes: tidy(wire.nodes),
            listeners: tidy(wire.listeners),
            upstreams: tidy(wire.upstreams),
        }
    }
}

fn has(names: &[String], name: &str) -> bool {
    names.binary_search_by(|known| known.as_str().cmp(name)).is_ok()
}

impl Scope {
    /// The same on the wire.
    pub fn to_proto(&self) -> v1::Scope {
        v1::Scope {
            nodes: self.nodes.clone(),
            listeners: self.listeners.clone(),
            upstreams: self.upstreams.clone(),
        }
    }

    /// Whether it is about upstream endpoints.
    pub fn is_upstream(&self) -> bool {
        !self.upstreams.is_empty()
    }

    /// Whether it covers nodes as a whole.
    pub fn is_whole_node(&self) -> bool {
        self.listeners.is_empty() && self.upstreams.is_empty()
    }

    /// What a drain of it leaves behind when it is over: one that closes nothing has nothing to hold.
    pub(super) fn hold(&self) -> Hold {
        if self.is_upstream() {
            Hold::Released
        } else {
            Hold::Holding
        }
    }

    /// Whether it covers a node.
    pub fn has_node(&self, node: &str) -> bool {
        self.nodes.is_empty() || has(&self.nodes, node)
    }

    /// Whether it covers a listener of a node that it covers.
    pub fn has_listener(&self, listener: &str) -> bool {
        self.listeners.is_empty() || has(&self.listeners, listener)
    }

    /// Whether it covers a request on a node that it covers. One whose endpoint is not known yet may go to any.
    pub fn has_blocker(&self, blocker: &v1::Blocker) -> bool {
        let is_there = blocker.upstream.is_empty() || self.upstreams.contains(&blocker.upstream);
        self.has_listener(&blocker.listener) && (self.upstreams.is_empty() || is_there)
    }

    /// Whether it covers anything of this reporter. One that has not yet said what it has may have anything.
    pub fn has(&self, reporter: &Reporter) -> bool {
        self.has_node(&reporter.node)
            && (self.listeners.is_empty()
                || reporter.listeners.is_empty()
                || reporter
                    .listeners
                    .iter()
                    .any(|listener| self.has_listener(&listener.name)))
    }

    /// Whether a reporter counts what this covers: not all of them count attempts by upstream endpoint.
    pub(super) fn is_counted_by(&self, reporter: &Reporter) -> bool {
        !self.is_upstream() || reporter.counts_upstreams
    }

    /// What a reporter says of what this covers.
    pub(super) fn counts<'a>(&'a self, reporter: &'a Reporter) -> Box<dyn Iterator<Item = Said<'a>> + 'a> {
        let lately = &reporter.cut_lately;
        if self.is_upstream() {
            // An attempt whose endpoint is not known yet may go to any, so it counts.
            let covers = |address: &str| address.is_empty() || has(&self.upstreams, address);
            let said = reporter
                .upstreams
                .iter()
                .filter(move |said| covers(&said.address));
            Box::new(said.map(|said| Said {
                name: &said.address,
                in_flight: said.in_flight,
                started: said.started,
                probes: 0,
                marked: 0,
                cut: said.cut,
                cut_lately: lately.upstreams.get(&said.address).copied().unwrap_or(0),
            }))
        } else {
            let said = reporter
                .listeners
                .iter()
                .filter(|said| self.has_listener(&said.name));
            Box::new(said.map(|said| Said {
                name: &said.name,
                in_flight: said.in_flight,
                started: said.started,
                probes: said.probes,
                marked: said.marked,
                cut: said.cut,
                cut_lately: lately.listeners.get(&said.name).copied().unwrap_or(0),
            }))
        }
    }
}
