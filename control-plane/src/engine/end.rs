//! The end of the task: filters are sent elsewhere, and Envoys that nobody would tell to serve again are told now.
//!
//! A drain of which nothing could be written ends with this control plane, as a successor does not know it: the lever that it
//! holds is undone here, and its filters stop closing when they hear from the successor, or when their lease is over. One that
//! was written once is gone on with as it was then, also if it has been cancelled since: its warnings and the log say so. Its
//! lever stays as it is, as the successor goes by the same record.

use std::time::{Duration, Instant};

use ebb_proto::v1;
use futures::future::join_all;

use super::{Outgoing, task::Task};
use crate::{core::Now, store::Changes};

/// How long what is to be kept may take at the end.
const SETTLE_WITHIN: Duration = Duration::from_millis(500);

impl Task {
    /// Takes no longer than a call to an admin endpoint and the writing of the state, each of which is bounded.
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
        let before = Instant::now();
        // What is not written by then is told below, with what follows here.
        let _ = self.store.settle(SETTLE_WITHIN / 2);
        let left = SETTLE_WITHIN.saturating_sub(before.elapsed());
        self.undo_levers().await;
        if let Err(error) = self.store.settle(left) {
            tracing::error!(
                %error,
                what = self.store.unwritten(),
                "the state is not written: a successor goes on with what was written before"
            );
        }
    }

    /// `/healthcheck/fail` has no lease: what is not undone here stays until a successor with the same state undoes it.
    async fn undo_levers(&mut self) {
        let nodes = self.core.levers_to_undo(|drain| self.store.knows(drain));
        let calls = nodes.into_iter().filter_map(|node| {
            let admin = self.admins.get(&node)?.clone();
            Some(async move { (admin.restore_health().await, node) })
        });
        for (result, node) in join_all(calls).await {
            match result {
                Ok(()) => {
                    // What cannot be written is told at the very end; a successor would just do it once more.
                    let _ = self.store.keep(Changes::lever(&node, false));
                }
                // Nobody is there that could fail them.
                Err(error) if error.is_nobody() => {}
                Err(error) => tracing::warn!(
                    node,
                    %error,
                    "its Envoy may go on failing its health checks: POST /healthcheck/ok undoes it"
                ),
            }
        }
    }
}
