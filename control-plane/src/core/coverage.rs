//! Which drains an Envoy's own count concerns, and the names that only Envoys know: those of listeners without the filter,
//! and of upstream endpoints that were idle since the filters attached.

use std::sync::Arc;

use super::{
    Core, Effect, Now,
    admins::{Admin, Reading},
    drain::Drain,
    drains::StartError,
    node::Own,
    policy::Evidence,
    queries::Asked,
    reading::is_named,
    scope::Scope,
};

impl Core {
    pub(super) fn asks_all_of(&self, node: &Arc<str>) -> Effect {
        Effect::AskAdmin {
            node: node.to_string(),
            ask: self.ask,
            upstreams: true,
        }
    }

    /// Asks everybody live, and every Envoy that can be asked, so that the names are known of all that there is.
    /// [`Effect::Answered`] follows, here or later.
    pub fn query_names(&mut self, now: Now) -> (u64, Vec<Effect>) {
        let (ask, mut out) = self.query(now);
        if self.admins.is_empty() {
            return (ask, out);
        }
        out.retain(|effect| *effect != Effect::Answered(ask));
        let missing = self.queries.entry(ask).or_default();
        missing.extend(self.admins.keys().cloned().map(Asked::Envoy));
        out.extend(self.admins.keys().map(|node| self.asks_all_of(node)));
        (ask, out)
    }

    fn is_attached(&self, node: &str) -> bool {
        self.fleet.node(node).is_some()
    }

    /// Whether the filters of a node may have a listener of that name: as long as none of them has said, they may.
    fn may_have(&self, node: &str, listener: &str) -> bool {
        let reporters = self.fleet.node(node).into_iter().flat_map(|node| &node.reporters);
        let mut said = reporters
            .filter_map(|epoch| self.fleet.get(*epoch))
            .filter(|reporter| !reporter.listeners.is_empty())
            .peekable();
        said.peek().is_none()
            || said.any(|reporter| reporter.listeners.iter().any(|said| said.name == listener))
    }

    /// Whether the Envoy of a node may have requests in a scope that no filter of it counts; `None` = it concerns the
    /// scope only if filters do.
    fn beside(admin: &Admin, scope: &Scope) -> Option<bool> {
        if !scope.has_node(&admin.node) {
            None
        } else if scope.is_whole_node() {
            Some(true)
        } else if scope.is_upstream() {
            // Filters that count upstreams count all of them.
            Some(false)
        } else {
            // Also of a listener with the filter: it does not see what an earlier filter holds or answers.
            let has = |name: &String| admin.listeners().any(|listener| is_named(listener, name));
            (!admin.is_read() || scope.listeners.iter().any(has)).then_some(true)
        }
    }

    /// Whether an Envoy's own count concerns a drain, and then whether it may have requests that no filter of it counts.
    fn concerns(&self, node: &Arc<str>, admin: &Admin, drain: &Drain) -> Option<bool> {
        let by_filter = drain.machine.policy().evidence == Evidence::Filter;
        // Of one of several that share a node's id no filter tells, and by filters it is to be told.
        if by_filter && (!drain.scope.listeners.is_empty() || admin.node != *node) {
            return None;
        }
        let beside = Self::beside(admin, &drain.scope);
        let has_members = drain.tally.members_of(node) > 0;
        beside.or_else(|| (drain.scope.has_node(&admin.node) && has_members).then_some(false))
    }

    /// Gives a new drain the admin endpoints that concern it.
    pub(super) fn give_admins(&self, drain: &mut Drain) {
        for (node, admin) in &self.admins {
            if let Some(beside) = self.concerns(node, admin, drain) {
                drain.tally.has_admin(node, beside);
            }
        }
    }

    /// Gives the admin endpoint of a node to the running drains that it concerns, and returns them.
    pub(super) fn give_admin(&mut self, node: &Arc<str>) -> Vec<u64> {
        let Some(admin) = self.admins.get(node) else {
            return Vec::new();
        };
        let running = self.drains.values().filter(|drain| !drain.machine.is_ended());
        let concerned: Vec<(u64, Option<bool>)> = running
            .map(|drain| (drain.sequence, self.concerns(node, admin, drain)))
            .filter(|(sequence, beside)| {
                // One that has not been read may yet have what was in it before.
                let had = || {
                    self.drains
                        .get(sequence)
                        .is_some_and(|drain| drain.tally.own_of(node))
                };
                beside.is_some() || admin.is_read() && had()
            })
            .collect();
        for (sequence, beside) in &concerned {
            if let Some(drain) = self.drains.get_mut(sequence) {
                match beside {
                    Some(beside) => drain.tally.has_admin(node, *beside),
                    None => drain.tally.has_no_admin(node),
                }
            }
        }
        concerned.into_iter().map(|(sequence, _)| sequence).collect()
    }

    /// Takes in what an Envoy said, or did not, of the scope of a drain.
    pub(super) fn own_count(
        &mut self,
        sequence: u64,
        node: &Arc<str>,
        ask: u64,
        reading: &Result<Reading, String>,
    ) {
        let Some(drain) = self.drains.get(&sequence) else {
            return;
        };
        // Not every question is for upstream endpoints.
        if matches!(reading, Ok(reading) if drain.scope.is_upstream() && reading.upstreams.is_none()) {
            return;
        }
        let own = match reading {
            Ok(reading) => self.own(node, reading, drain).map_err(|error| match &*error {
                "" => error,
                _ => format!("the Envoy of {node} {error}"),
            }),
            Err(error) => Err(format!("the admin endpoint of {node} does not answer: {error}")),
        };
        let Some(drain) = self.drains.get_mut(&sequence) else {
            return;
        };
        if drain.tally.own_count(node, ask, own.as_ref().ok().copied()) {
            drain.warn(format!(
                "the Envoy of {node} has requests that no filter counts: waiting for them too. Ebb's two filters have to stand \
                 first in http_filters, and every listener needs them"
            ));
        }
        match own {
            Err(text) if !text.is_empty() => drain.warn(text),
            _ => {}
        }
    }

    /// What an Envoy says of the scope of a drain.
    ///
    /// # Errors
    /// In words, that it says nothing of a part of it.
    fn own(&self, node: &str, reading: &Reading, drain: &Drain) -> Result<Own, String> {
        let has_filter = self.is_attached(node) || drain.tally.members_of(node) > 0;
        let admin = self.admins.get(node);
        reading.own(
            &drain.scope,
            |name| admin.is_some_and(|admin| admin.has_sessions(name)),
            |name| has_filter && self.may_have(node, name),
        )
    }

    /// Whether those who are to tell of a scope are there: each of its nodes has the filter where that is to tell, an admin
    /// endpoint where that is, and filters that count upstreams where an endpoint is to be quiet.
    pub(super) fn check_evidence(&self, scope: &Scope, evidence: Evidence) -> Result<(), StartError> {
        let covered = || {
            let reporters = self.fleet.reporters().map(|(_, reporter)| reporter);
            reporters.filter(|reporter| scope.has_node(&reporter.node))
        };
        let has_admin = |node: &Arc<str>| self.admins.contains_key(node);
        if evidence == Evidence::Admin
            && !self.may_have_endpoint()
            && let Some(without) = covered().find(|reporter| !has_admin(&reporter.node))
        {
            return Err(StartError::NoAdmin(without.node.to_string()));
        }
        if evidence == Evidence::Filter {
            let uncounted = |(_, admin): &(&Arc<str>, &Admin)| {
                let node = &admin.node;
                let has_filter = |name: &String| self.is_attached(node) && self.may_have(node, name);
                let wanted = |name: &String| scope.listeners.iter().find(|wanted| is_named(name, wanted));
                let without = |name: &String| wanted(name).is_some_and(|wanted| !has_filter(wanted));
                scope.has_node(node)
                    && match scope.listeners.is_empty() {
                        true => !self.is_attached(node),
                        false => admin.listeners().any(without),
                    }
            };
            if let Some((node, _)) = self.admins.iter().find(uncounted) {
                return Err(StartError::NoFilter(node.to_string()));
            }
        }
        let needs_filter = |node| match evidence {
            Evidence::Filter => true,
            Evidence::Auto => !has_admin(node),
            Evidence::Admin | Evidence::Delay => false,
        };
        match covered().find(|reporter| {
            reporter.is_live() && !scope.is_counted_by(reporter) && needs_filter(&reporter.node)
        }) {
            Some(reporter) => Err(StartError::NotCounted(reporter.node.to_string())),
            None => Ok(()),
        }
    }
}
