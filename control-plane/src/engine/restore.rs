//! Envoys that are told to serve again because somebody asks for it.

use std::collections::BTreeSet;

use tokio::sync::oneshot;

use super::{NotRestored, task::Task};
use crate::core::{Event, Now};

/// Somebody who waits until Envoys have been told.
#[derive(Debug)]
pub(super) struct Restoring {
    envoys: usize,
    /// Those that have not answered, by the names of their admin endpoints in the core.
    missing: BTreeSet<String>,
    reply: oneshot::Sender<Result<usize, NotRestored>>,
}

impl Task {
    pub(super) fn restore(
        &mut self,
        node: &str,
        reply: oneshot::Sender<Result<usize, NotRestored>>,
        now: Now,
    ) {
        match self.core.restore(node, now) {
            Ok((told, effects)) => {
                tracing::info!(node, "an operator has its Envoy pass its health checks again");
                self.restoring.push(Restoring {
                    envoys: told.len(),
                    missing: told.into_iter().collect(),
                    reply,
                });
                self.carry_out(effects, now);
            }
            // Who asked and went away meanwhile needs no answer.
            Err(error) => drop(reply.send(Err(error.into()))),
        }
    }

    /// Answers those who wait for an Envoy that has been told, or could not be.
    pub(super) fn was_told(&mut self, event: &Event) {
        let Event::LeverDone {
            node,
            close: false,
            result,
        } = event
        else {
            return;
        };
        for mut waiting in std::mem::take(&mut self.restoring) {
            let answered = waiting.missing.remove(node);
            match result {
                Err(error) if answered => drop(waiting.reply.send(Err(NotRestored::Failed(error.clone())))),
                _ if waiting.missing.is_empty() => drop(waiting.reply.send(Ok(waiting.envoys))),
                _ => self.restoring.push(waiting),
            }
        }
    }
}
