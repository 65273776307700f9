//! The end of the task: filters are sent elsewhere, and Envoys that nobody would tell to serve again are told now.

use std::time::Duration;

use ebb_proto::v1;
use futures::future::join_all;

use super::{Outgoing, task::Task};
use crate::{core::Now, store::Changes};

/// How long what is to be kept may take at the end.
const SETTLE_WITHIN: Duration = Duration::from_millis(500);

impl Task {
    /// Takes no longer than a call to an admin endpoint.
    pub(super) async fn end(mut self) {
        for commands in self.streams.values() {
            commands.send_modify(|slot| {
                let last = match std::mem::take(slot) {
                    Outgoing::Command(command) => command,
                    _ => v1::FilterCommand::default(),
                };
                *slot = Outgoing::GoingAway(v1::FilterCommand {
                    going_away: true,
                    ..last
                });
            });
        }
        // Their last command is on its way, and with it the stream ends.
        self.streams.clear();
        // Who attached last may not have been kept yet.
        let now = Now::read();
        let kept = self.core.keep_fleet();
        self.carry_out(kept.into_iter().collect(), now);
        self.undo_levers().await;
        if let Err(error) = self.store.settle(SETTLE_WITHIN) {
            tracing::error!(%error, "the state is not written: a successor does not know all that happened");
        }
    }

    /// `/healthcheck/fail` has no lease: what is not undone here stays until a successor with the same state undoes it.
    async fn undo_levers(&mut self) {
        // A drain that is kept is a successor's; one that is not is over with this control plane.
        let nodes = self.core.levers_to_undo(!self.store.is_durable());
        let calls = nodes.into_iter().filter_map(|node| {
            let admin = self.admins.get(&node)?.clone();
            Some(async move { (admin.restore_health().await, node) })
        });
        for (result, node) in join_all(calls).await {
            let error = match result {
                Ok(()) => self
                    .store
                    .keep(Changes::lever(&node, false))
                    .err()
                    .map(|error| error.to_string()),
                // Nobody is there that could fail them.
                Err(error) if error.is_nobody() => None,
                Err(error) => Some(error.to_string()),
            };
            if let Some(error) = error {
                tracing::warn!(
                    node,
                    error,
                    "its Envoy may go on failing its health checks: POST /healthcheck/ok undoes it"
                );
            }
        }
    }
}
