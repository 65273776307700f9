//! What an Envoy says of itself, and how much of it a drain covers.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

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

/// A name as Envoy writes it within that of a statistic: a `stat_prefix` `a:b` is `a_b` there.
pub fn in_statistics(name: &str) -> Cow<'_, str> {
    if !name.contains([':', '\0']) {
        return Cow::Borrowed(name);
    }
    let name = name.replace("://", "_").replace(":/", "_");
    Cow::Owned(name.replace([':', '\0'], "_"))
}

/// Whether what Envoy has under this name in its statistics is what somebody calls so.
pub(super) fn is_named(in_envoy: &str, name: &str) -> bool {
    in_envoy == name || in_envoy == in_statistics(name)
}

/// A sum of what others say, which may be anything.
pub fn sum(counts: impl IntoIterator<Item = u64>) -> u64 {
    counts
        .into_iter()
        .fold(0, |sum: u64, count| sum.saturating_add(count))
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
            return Ok(total(scope.upstreams.iter().filter_map(named)));
        }
        if scope.listeners.is_empty() {
            return Ok(total(self.listeners.values()));
        }
        let counts = |name: &String| self.listeners.get(&*in_statistics(name));
        let known = |name: &String| counts(name).is_some() || has_sessions(name);
        let missing = |name: &&String| !known(name) && here(name);
        if let Some(name) = scope.listeners.iter().find(missing) {
            return Err(self.says_nothing_of(name));
        }
        if !scope.listeners.iter().any(known) {
            return Err(String::new());
        }
        Ok(total(scope.listeners.iter().filter_map(counts)))
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

fn total<'a>(counts: impl Iterator<Item = &'a Requests>) -> Own {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_under_the_name_that_envoy_makes_of_it() {
        let requests = Requests {
            in_flight: 3,
            begun: Some(4),
        };
        let reading = Reading {
            listeners: [("web_443".to_owned(), requests)].into(),
            ..Reading::default()
        };
        let own = |name: &str| {
            let scope = Scope {
                listeners: vec![name.to_owned()],
                ..Scope::default()
            };
            reading.own(&scope, |_| false, |_| true).map(|own| own.in_flight)
        };
        assert_eq!((own("web:443"), own("web_443")), (Ok(3), Ok(3)));
        assert!(own("web-443").is_err());
        for (name, written) in [
            ("a:b", "a_b"),
            ("http://a:1", "http_a_1"),
            ("c:/d", "c_d"),
            ("e", "e"),
        ] {
            assert_eq!(in_statistics(name), written);
            assert!(is_named(written, name));
        }
    }
}
