//! The requests that the drains of a watched fleet wait for.

use tokio::time::Instant;

use crate::cli::{
    blockers::{self, ASK_EVERY, BlockerView, Collected, FEW, LONG},
    client::Client,
    fleet::{DrainView, Fleet},
};

/// The few oldest, collected when a drain waits for long, and at most once a second.
#[derive(Debug, Default)]
pub(super) struct Oldest {
    asked: Option<Instant>,
    collected: Option<Collected>,
}

impl Oldest {
    /// The few oldest requests that keep drains of `fleet` from their end; `None` = no drain waits for long.
    pub(super) async fn of(&mut self, fleet: &Fleet, client: &Client) -> Option<Vec<BlockerView>> {
        let mut waiting = fleet.drains.iter().filter(|drain| waits_long(drain));
        let Some(first) = waiting.next() else {
            self.collected = None;
            return None;
        };
        let alone = waiting.next().is_none();
        let now = Instant::now();
        if self
            .asked
            .is_none_or(|at| now.saturating_duration_since(at) >= ASK_EVERY)
        {
            self.asked = Some(now);
            let id = if alone { first.id.as_str() } else { "" };
            // That the control plane cannot be heard shows elsewhere; one that is older than this program knows of none.
            let mut found = blockers::ask(client, id, FEW).await.unwrap_or_default();
            found.retain(|blocker| alone || is_draining(fleet, blocker));
            self.collected = (!found.is_empty()).then(|| Collected::new(found, Instant::now()));
        }
        let collected = self.collected.as_ref()?;
        Some(collected.at(Instant::now()))
    }
}

fn waits_long(drain: &DrainView) -> bool {
    drain.phase == "draining" && drain.in_flight > 0 && u128::from(drain.elapsed_ms) >= LONG.as_millis()
}

fn is_draining(fleet: &Fleet, blocker: &BlockerView) -> bool {
    let mut listeners = fleet
        .nodes
        .iter()
        .filter(|node| node.id == blocker.node)
        .flat_map(|node| &node.listeners);
    listeners.any(|listener| listener.name == blocker.listener && listener.phase == "draining")
}
