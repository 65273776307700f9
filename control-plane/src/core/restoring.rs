//! Undoing a lever that no drain of this control plane holds: one that was killed and kept nothing left it.

use super::{Core, Effect, Now, admins, drain::Drain, machine::Hold};

/// Why nobody is told to serve again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Nobody can be told.
    #[error(
        "no admin endpoint of node {0:?} is known: name it to the control plane (--admin), or send POST /healthcheck/ok yourself"
    )]
    NoAdmin(String),
    /// It is to fail them.
    #[error("drain {0} has node {1:?} fail its health checks: cancel that drain")]
    Held(String, String),
}

impl Core {
    /// Has the Envoys of a node pass their health checks again, whoever had them fail. Returns the names that their admin
    /// endpoints have here: [`super::Event::LeverDone`] tells of each.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn restore(&mut self, node: &str, now: Now) -> Result<(Vec<String>, Vec<Effect>), RestoreError> {
        if let Some(drain) = self.drains.values().find(|drain| has_fail(drain, node)) {
            return Err(RestoreError::Held(drain.id.clone(), node.to_owned()));
        }
        let mut told = Vec::new();
        for (name, admin) in &mut self.admins {
            if *admin.node == *node {
                admin.restore_at(now.instant);
                told.push(name.to_string());
            }
        }
        if told.is_empty() {
            return Err(RestoreError::NoAdmin(node.to_owned()));
        }
        let mut out = Vec::new();
        self.step_admins(now, &mut out);
        Ok((told, out))
    }

    /// Whether a node's Envoy may fail its health checks because of this control plane, or of one that it succeeds.
    pub fn may_have_failed(&self, node: &str) -> bool {
        self.pulled_levers.contains(node) || self.drains.values().any(|drain| has_fail(drain, node))
    }
}

/// Whether a drain has the Envoys of a node fail their health checks.
fn has_fail(drain: &Drain, node: &str) -> bool {
    let released = matches!(drain.machine.outcome(), Some((_, Hold::Released)));
    admins::pulls_lever(drain) && !released && drain.scope.has_node(node)
}
