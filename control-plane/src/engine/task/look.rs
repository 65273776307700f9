//! Looking at Envoys from outside of their filters, where there is anything to look at.

use super::Task;
use crate::{
    core::{
        Event, Now,
        outstanding::{Outstanding, Unsent},
    },
    engine::admins,
    outside::Look,
};

/// What is known of a node without looking at it, and the question that this answers.
pub(super) type Known = (String, u64, Outstanding);

impl Task {
    /// Has a node's Envoy looked at; answers by itself where there is nothing to look at, or nothing to see.
    pub(super) fn look(&self, node: String, ask: u64, listeners: Vec<String>) -> Option<Known> {
        let (admin, pids) = (self.admins.get(&node).cloned(), self.peers.pids_of(&node));
        if admin.is_none() && pids.is_empty() {
            return Some((node, ask, Outstanding::default()));
        }
        // An admin endpoint tells which listener has which port; where there is none, filters do.
        let ports = if admin.is_some() || listeners.is_empty() {
            Vec::new()
        } else {
            match self.core.ports(&node, &listeners) {
                // They have had no request, so nothing was sent.
                Some(ports) if ports.is_empty() => {
                    let unsent = Some(Unsent::default());
                    let nothing = Outstanding {
                        unsent,
                        ..Outstanding::default()
                    };
                    return Some((node, ask, nothing));
                }
                ports => ports.unwrap_or_default(),
            }
        };
        let look = Look {
            admin,
            pids,
            listeners,
            ports,
        };
        tokio::spawn(admins::look(look, node, ask, self.requests.clone()));
        None
    }

    /// Tells the core of those: in a large fleet there may be thousands, and none needs a task.
    pub(super) fn tell_known(&mut self, known: Vec<Known>, now: Now) {
        for (node, ask, outstanding) in known {
            let told = Event::OutstandingTold {
                node,
                ask,
                outstanding,
            };
            let effects = self.core.handle(told, now);
            self.carry_out(effects, now);
        }
    }
}
