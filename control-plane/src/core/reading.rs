//! What an Envoy says of itself, and how much of it a drain covers.

use std::collections::{BTreeMap, BTreeSet};

use super::{node::Own, scope::Scope};

/// How many names a text lists before it stops.
const MOST_NAMES: usize = 10;

/// Counts of one `stat_prefix`, or of one upstream endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// In flight.
    pub in_flight: u64,
    /// Ever begun, without health probes and those that a client took back unanswered; `None` = not asked, as there are some in
    /// flight everywhere.
    pub begun: Option<u64>,
}

/// What an Envoy says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// By `stat_prefix` of its listeners, without the admin's own.
    pub listeners: BTreeMap<String, Requests>,
    /// By upstream endpoint; `None` = it was not asked for.
    pub upstreams: Option<BTreeMap<String, Requests>>,
    /// Names under which it has TCP sessions, of which the requests tell nothing; `None` = they were not asked for.
    pub sessions: Option<BTreeSet<String>>,
}

impl Reading {
    /// Requests in a scope. A listener that is not `here` is not one of this Envoy; one that `has_sessions` needs no requests.
    ///
    /// # Errors
    /// In words, that it says nothing of a part of the scope; empty = there is nothing to be done about it.
    pub(super) fn own(
        &self,
        scope: &Scope,
        has_sessions: impl Fn(&str) -> bool,
        here: impl Fn(&str) -> bool,
    ) -> Result<Own, String> {
        if scope.is_upstream() {
            // An endpoint that Envoy does not have gets nothing from it.
            let named = |name| self.upstreams.as_ref()?.get(name);
            return Ok(sum(scope.upstreams.iter().filter_map(named)));
        }
        if scope.listeners.is_empty() {
            return Ok(sum(self.listeners.values()));
        }
        let known = |name: &String| self.listeners.contains_key(name) || has_sessions(name);
        let missing = |name: &&String| !known(name) && here(name);
        if let Some(name) = scope.listeners.iter().find(missing) {
            return Err(self.says_nothing_of(name));
        }
        if !scope.listeners.iter().any(known) {
            return Err(String::new());
        }
        Ok(sum(scope
            .listeners
            .iter()
            .filter_map(|name| self.listeners.get(name))))
    }

    fn says_nothing_of(&self, listener: &str) -> String {
        let names: Vec<&str> = self
            .listeners
            .keys()
            .take(MOST_NAMES)
            .map(String::as_str)
            .collect();
        let more = self.listeners.len().saturating_sub(names.len());
        format!(
            "has no stat_prefix {listener:?}, so it cannot count for that listener: make the stat_prefix of its HTTP \
             connection manager the name of the listener (it has: {}{}), or use evidence filter",
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            },
            if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            },
        )
    }
}

fn sum<'a>(counts: impl Iterator<Item = &'a Requests>) -> Own {
    counts.fold(
        Own {
            in_flight: 0,
            begun: Some(0),
        },
        |sum, one| Own {
            in_flight: sum.in_flight.saturating_add(one.in_flight),
            begun: sum.begun.zip(one.begun).map(|(sum, one)| sum.wrapping_add(one)),
        },
    )
}
