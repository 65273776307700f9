//! Looking at Envoys from outside of their filters, where there is anything to look at.

use super::Task;
use crate::{
    core::{Event, Now, outstanding::Outstanding},
    engine::admins,
    outside::Look,
};

/// A node of which nothing can be seen, and the question that asks for it.
pub(super) type Unseen = (String, u64);

impl Task {
    /// Has a node's Envoy looked at; gives it back if there is nothing to look at.
    pub(super) fn look(&self, node: String, ask: u64, listeners: Vec<String>) -> Option<Unseen> {
        let admin = self.admins.get(&node).cloned();
        // An admin endpoint tells which listener has which port; where there is none, filters do.
        let ports = match (&admin, listeners.is_empty()) {
            (None, false) => self.core.ports(&node, &listeners),
            _ => Vec::new(),
        };
        let look = Look {
            admin,
            pids: self.peers.pids_of(&node),
            listeners,
            ports,
        };
        if look.admin.is_none() && look.pids.is_empty() {
            return Some((node, ask));
        }
        tokio::spawn(admins::look(look, node, ask, self.requests.clone()));
        None
    }

    /// Tells the core of those: in a large fleet there may be thousands, and none needs a task.
    pub(super) fn see_nothing(&mut self, unseen: Vec<Unseen>, now: Now) {
        for (node, ask) in unseen {
            let told = Event::OutstandingTold {
                node,
                ask,
                outstanding: Outstanding::default(),
            };
            let effects = self.core.handle(told, now);
            self.carry_out(effects, now);
        }
    }
}
