//! The admin endpoints that are configured, before it is known whose they are, and when they do not answer.
//!
//! ```text
//!   Unreached --answers--> Answering --does not--> Silent --answers--> Answering
//!                              |                      |
//!                              '--its Envoy was seen to end--> Ended --answers--> Answering
//! ```
//! The Envoy behind an endpoint that has not been reached may have requests that no filter counts, so it counts as unknown in
//! every drain that it may concern. After an Envoy has ended, one look at its endpoint shows whether another took its place.

use std::{sync::Arc, time::SystemTime};

use super::{
    Core, Effect, Now,
    admins::{Admin, pulls_lever},
    drain::Drain,
    node::{is_twin, twin},
    policy::Evidence,
};

#[derive(Debug)]
enum State {
    /// It has not answered since the start.
    Unreached(String),
    Answering,
    /// It does not answer any more; why, in words.
    Silent(String),
    Ended,
}

/// An admin endpoint that is configured.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// Whose it is, if it ever answered.
    node: Option<Arc<str>>,
    state: State,
}

impl Core {
    /// Admin endpoints that are configured, by their addresses; none of them has been reached.
    pub fn expect_endpoints(&mut self, addresses: impl IntoIterator<Item = String>) {
        for address in addresses {
            let state = State::Unreached("it has not been asked yet".to_owned());
            self.endpoints.insert(address, Endpoint { node: None, state });
        }
    }

    /// An endpoint was looked at.
    pub(super) fn endpoint_heard(
        &mut self,
        address: &str,
        result: Result<(), String>,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        let Some(endpoint) = self.endpoints.get_mut(address) else {
            return;
        };
        endpoint.state = match (result, &endpoint.state) {
            // Whose it is follows, or is known.
            (Ok(()), _) => return,
            (Err(error), State::Unreached(_)) => State::Unreached(error),
            (Err(_), State::Ended) => return self.endpoint_is_over(address, now, out),
            (Err(error), _) => State::Silent(error),
        };
        self.warn_of_silence(address, out);
        self.end_the_silent(address, now, out);
    }

    /// An admin endpoint was found: Envoy said itself whose it is. The first that says that it is a node's goes by the node's
    /// name. Further ones are of Envoys that share its id, of whose requests nobody can tell which a filter counts: each
    /// stands for itself, as one of an Envoy without a filter.
    pub(super) fn admin_found(
        &mut self,
        address: &str,
        node: &str,
        started: SystemTime,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        let node: Arc<str> = node.into();
        let known = self.admins.iter().find(|(_, admin)| admin.address == address);
        let known = known.map(|(key, admin)| (key.clone(), admin.node == node));
        let key = match known {
            Some((key, true)) => key,
            Some((_, false)) => {
                self.drop_admin_at(address, now, out);
                self.key_of(address, &node)
            }
            None => self.key_of(address, &node),
        };
        let pulled = |lever: &Arc<str>| *lever == node || is_twin(lever, &node);
        let was_told = self.pulled_levers.iter().any(pulled);
        // Found again means that it was lost meanwhile: this may be another process, of which nothing is known.
        let admin = Admin::found(node.clone(), address, was_told, started, now.instant);
        self.admins.insert(key.clone(), admin);
        out.push(Effect::UseAdmin {
            node: key.to_string(),
            address: address.to_owned(),
        });
        // For the names of what it has: drains may name what no filter does.
        out.push(self.asks_all_of(&key));
        for sequence in self.give_admin(&key) {
            self.observe(sequence, now, out);
        }
        self.endpoint_found(address, &node, now, out);
    }

    fn key_of(&self, address: &str, node: &Arc<str>) -> Arc<str> {
        if self.admins.contains_key(node) {
            twin(node, address).into()
        } else {
            node.clone()
        }
    }

    /// What was found at an address is not there any more.
    fn drop_admin_at(&mut self, address: &str, now: Now, out: &mut Vec<Effect>) {
        let gone = self.admins.iter().find(|(_, admin)| admin.address == address);
        let Some(key) = gone.map(|(key, _)| key.clone()) else {
            return;
        };
        self.admins.remove(&key);
        let running = self.drains.values_mut().filter(|drain| !drain.machine.is_ended());
        let waiting = running.filter(|drain| drain.tally.own_of(&key));
        let waiting: Vec<u64> = waiting
            .map(|drain| {
                drain.tally.has_no_admin(&key);
                drain.sequence
            })
            .collect();
        for sequence in waiting {
            self.observe(sequence, now, out);
        }
    }

    /// It answered, and said whose it is.
    fn endpoint_found(&mut self, address: &str, node: &Arc<str>, now: Now, out: &mut Vec<Effect>) {
        let endpoint = Endpoint {
            node: Some(node.clone()),
            state: State::Answering,
        };
        self.endpoints.insert(address.to_owned(), endpoint);
        self.endpoint_is_over(address, now, out);
    }

    /// Drains need not wait for it any longer: they know its Envoy now, or there is none.
    fn endpoint_is_over(&mut self, address: &str, now: Now, out: &mut Vec<Effect>) {
        let waiting = self.drains.values_mut();
        let waiting: Vec<u64> = waiting
            .filter_map(|drain| drain.tally.endpoint_reached(address).then_some(drain.sequence))
            .collect();
        for sequence in waiting {
            self.observe(sequence, now, out);
        }
    }

    /// The only Envoy of a node was seen to end.
    pub(super) fn endpoints_ended(&mut self, node: &str, out: &mut Vec<Effect>) {
        // One that takes its place was never told to fail its health checks.
        self.pulled_levers.retain(|lever| {
            let of_it = **lever == *node || is_twin(lever, node);
            if of_it {
                let node = lever.to_string();
                out.push(Effect::KeepLever { node, pulled: false });
            }
            !of_it
        });
        let ended = self.endpoints.values_mut();
        for endpoint in ended.filter(|endpoint| endpoint.node.as_deref() == Some(node)) {
            endpoint.state = State::Ended;
        }
        self.ended.remove(node);
        self.admins.retain(|_, admin| *admin.node != *node);
    }

    /// One of several Envoys that share a node's id has ended: the endpoint that does not answer any more, now or soon, is its.
    pub(super) fn one_of_several_ended(&mut self, node: &Arc<str>, now: Now, out: &mut Vec<Effect>) {
        *self.ended.entry(node.clone()).or_default() += 1;
        let silent = |endpoint: &Endpoint| {
            endpoint.node.as_ref() == Some(node) && matches!(endpoint.state, State::Silent(_))
        };
        let silent = self.endpoints.iter().find(|(_, endpoint)| silent(endpoint));
        if let Some(address) = silent.map(|(address, _)| address.clone()) {
            self.end_the_silent(&address, now, out);
        }
    }

    /// Ends an endpoint that does not answer, if an Envoy that may be behind it has ended.
    fn end_the_silent(&mut self, address: &str, now: Now, out: &mut Vec<Effect>) {
        let Some(endpoint) = self.endpoints.get_mut(address) else {
            return;
        };
        let ended = endpoint.node.as_ref().and_then(|node| self.ended.get_mut(node));
        let Some(ended) = ended.filter(|ended| **ended > 0) else {
            return;
        };
        *ended -= 1;
        endpoint.state = State::Ended;
        self.drop_admin_at(address, now, out);
    }

    /// Gives a new drain the endpoints that it has to wait for.
    pub(super) fn await_endpoints(&self, drain: &mut Drain) {
        for (address, endpoint) in &self.endpoints {
            if let (true, Some(text)) = (wants(drain), self.silence(address, endpoint, drain)) {
                drain.warn(text);
            }
            if self.is_awaited(endpoint, drain) {
                drain.tally.await_endpoint(address);
            }
        }
    }

    fn is_awaited(&self, endpoint: &Endpoint, drain: &Drain) -> bool {
        let by_own_count = matches!(drain.machine.policy().evidence, Evidence::Auto | Evidence::Admin);
        let may_be = match endpoint.state {
            State::Unreached(_) | State::Ended => self.may_be_in_scope(endpoint, drain),
            State::Answering | State::Silent(_) => false,
        };
        by_own_count && may_be && !drain.scope.is_upstream() && !drain.machine.is_ended()
    }

    fn may_be_in_scope(&self, endpoint: &Endpoint, drain: &Drain) -> bool {
        match &endpoint.node {
            Some(node) => drain.scope.has_node(node),
            // Not of a node that has its endpoint.
            None => {
                let nodes = &drain.scope.nodes;
                nodes.is_empty() || nodes.iter().any(|node| !self.admins.contains_key(&**node))
            }
        }
    }

    /// Whether an endpoint that has not been reached may be that of a node.
    pub(super) fn may_have_endpoint(&self) -> bool {
        let mut endpoints = self.endpoints.values();
        endpoints.any(|endpoint| matches!(endpoint.state, State::Unreached(_)))
    }

    fn warn_of_silence(&mut self, address: &str, out: &mut Vec<Effect>) {
        let Some(endpoint) = self.endpoints.get(address) else {
            return;
        };
        let concerned = self.drains.values().filter(|drain| wants(drain));
        let texts: Vec<(u64, String)> = concerned
            .filter_map(|drain| Some((drain.sequence, self.silence(address, endpoint, drain)?)))
            .collect();
        for (sequence, text) in texts {
            if let Some(drain) = self.drains.get_mut(&sequence) {
                drain.warn(text);
                let id = drain.id.clone();
                out.push(Effect::DrainChanged { id, phase: true });
            }
        }
    }

    /// What a drain is told that has an endpoint in its scope which does not answer.
    fn silence(&self, address: &str, endpoint: &Endpoint, drain: &Drain) -> Option<String> {
        let (State::Unreached(error) | State::Silent(error)) = &endpoint.state else {
            return None;
        };
        self.may_be_in_scope(endpoint, drain).then(|| {
            format!(
                "the admin endpoint {address} does not answer, so the filter closes, and what only its Envoy counts is \
                 unknown: {error}"
            )
        })
    }

    /// Why a drain waits for an endpoint.
    pub(super) fn why_unreached(&self, address: &str) -> String {
        let error = match self.endpoints.get(address).map(|endpoint| &endpoint.state) {
            Some(State::Unreached(error) | State::Silent(error)) => error,
            _ => "its Envoy has ended, and whether another has taken its place is not known yet",
        };
        format!("the admin endpoint {address} does not answer: {error}")
    }
}

/// Whether a drain is to know of an endpoint that does not answer.
fn wants(drain: &Drain) -> bool {
    let wanted = pulls_lever(drain) || drain.machine.policy().evidence == Evidence::Admin;
    !drain.machine.is_ended() && wanted
}
