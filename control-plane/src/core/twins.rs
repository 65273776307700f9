//! Envoys that share a node's id for good: by mistake, and not for the time of a restart.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{Core, Effect, Now, drain::Drain};

/// How long two Envoys may be one node before it is said: one that has vanished is noticed by then, and a restart is over.
const AFTER: Duration = Duration::from_secs(20);

impl Core {
    /// Somebody has attached who says that this is its node.
    pub(super) fn may_be_twins(&mut self, node: &str, now: Now) {
        if self.fleet.is_shared(node) {
            self.twins_at.get_or_insert(now.instant + AFTER);
        }
    }

    /// Says once of each node that several Envoys are it, if it is time to look.
    pub(super) fn look_for_twins(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.twins_at.is_none_or(|at| at > now.instant) {
            return;
        }
        self.twins_at = None;
        let twins: BTreeSet<Arc<str>> = self.fleet.twins().cloned().collect();
        let new = twins.difference(&self.twins);
        out.extend(new.map(|node| Effect::Twins(node.to_string())));
        self.twins = twins;
    }

    /// Tells whoever starts a drain of them.
    pub(super) fn warn_of_twins(&self, drain: &mut Drain) {
        for node in &self.twins {
            if drain.scope.has_node(node) {
                drain.warn(format!(
                    "several Envoys say that they are node {node:?}: give each a node.id of its own, or one cannot be told from \
                     the other"
                ));
            }
        }
    }
}
