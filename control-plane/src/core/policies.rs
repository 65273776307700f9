//! The policies of a control plane: the one of every drain, and those of single nodes and listeners.

use super::{
    policy::{Policy, PolicyOverrides},
    scope::Scope,
};

/// What a drain's policy is where its caller says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// Of every drain.
    pub general: Policy,
    /// Of drains of certain nodes or listeners; a later one has more weight than an earlier one.
    pub special: Vec<Special>,
}

/// Keys for the drains of certain nodes or listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Special {
    /// `node.id`s; empty = whatever a drain says of nodes.
    pub nodes: Vec<String>,
    /// Listener names; empty = whatever a drain says of listeners.
    pub listeners: Vec<String>,
    /// The keys.
    pub overrides: PolicyOverrides,
}

impl From<Policy> for Policies {
    fn from(general: Policy) -> Self {
        Self {
            general,
            special: Vec::new(),
        }
    }
}

impl Policies {
    /// The policy of a drain of this scope.
    pub fn of(&self, scope: &Scope) -> Policy {
        let special = self.special.iter().filter(|special| special.is_for(scope));
        special.fold(self.general.clone(), |policy, special| {
            policy.overridden(&special.overrides)
        })
    }
}

impl Special {
    /// Whether a drain names these, and nothing besides: of more than one policy none could be said to be the right one.
    fn is_for(&self, scope: &Scope) -> bool {
        let only = |named: &[String], ours: &[String]| {
            ours.is_empty() || (!named.is_empty() && named.iter().all(|name| ours.contains(name)))
        };
        only(&scope.nodes, &self.nodes) && only(&scope.listeners, &self.listeners)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn special(nodes: &[&str], listeners: &[&str], seconds: u64) -> Special {
        Special {
            nodes: names(nodes),
            listeners: names(listeners),
            overrides: PolicyOverrides {
                timeout: Some(Duration::from_secs(seconds)),
                ..PolicyOverrides::default()
            },
        }
    }

    fn timeout(policies: &Policies, nodes: &[&str], listeners: &[&str]) -> u64 {
        let scope = Scope {
            nodes: names(nodes),
            listeners: names(listeners),
            upstreams: Vec::new(),
        };
        policies.of(&scope).timeout.as_secs()
    }

    #[test]
    fn it_counts_for_drains_of_these_alone_and_a_later_one_has_more_weight() {
        let policies = Policies {
            general: Policy::default(),
            special: vec![
                special(&["edge-1", "edge-2"], &[], 40),
                special(&[], &["uploads"], 50),
                special(&["edge-2"], &["uploads"], 60),
            ],
        };
        assert_eq!(timeout(&policies, &[], &[]), 30, "everything");
        assert_eq!(timeout(&policies, &[], &["ingress"]), 30);
        assert_eq!(timeout(&policies, &["edge-1"], &[]), 40);
        assert_eq!(timeout(&policies, &["edge-1", "edge-2"], &["ingress"]), 40);
        assert_eq!(timeout(&policies, &["edge-1", "edge-3"], &[]), 30, "others too");
        assert_eq!(timeout(&policies, &[], &["uploads"]), 50);
        assert_eq!(
            timeout(&policies, &[], &["ingress", "uploads"]),
            30,
            "another too"
        );
        assert_eq!(timeout(&policies, &["edge-1"], &["uploads"]), 50, "the later one");
        assert_eq!(timeout(&policies, &["edge-2"], &["uploads"]), 60);
    }
}
