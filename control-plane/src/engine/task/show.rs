//! What is shown to those who watch, and how often.

use std::{sync::Arc, time::Duration};

use ebb_proto::v1;
use tokio::sync::watch;

use super::Task;
use crate::core::Now;

/// What is watched is shown at least this often, as it tells ages.
pub(super) const SHOW_ANYWAY_EVERY: Duration = Duration::from_secs(1);

/// Counts of a drain are shown at most this often; its phases at once.
pub(super) const SHOW_DRAIN_EVERY: Duration = Duration::from_millis(50);

/// The fleet is shown at most this often.
pub(super) const SHOW_FLEET_EVERY: Duration = Duration::from_millis(200);

/// Of thousands of reporters a view takes milliseconds, which reports then wait for: so each makes views rarer by this much.
const SHOW_LATER_BY: Duration = Duration::from_micros(50);

impl Task {
    pub(super) fn watch_drain(&mut self, id: String, now: Now) -> Option<watch::Receiver<v1::Drain>> {
        let view = self.core.drain(&id, now)?;
        self.changed.insert(id.clone());
        self.show_drains_at.get_or_insert(now.instant + SHOW_ANYWAY_EVERY);
        let sender = self
            .drains
            .entry(id)
            .or_insert_with(|| watch::Sender::new(view.clone()));
        let receiver = sender.subscribe();
        sender.send_replace(view);
        Some(receiver)
    }

    /// Shows to those who watch what they have not been shown for long enough.
    pub(super) fn show_what_is_due(&mut self, now: Now) {
        if self.show_drains_at.is_some_and(|at| at <= now.instant) {
            self.show_drains_at = None;
            for id in std::mem::take(&mut self.changed) {
                self.show_drain(&id, now);
            }
            self.changed.extend(self.drains.keys().cloned());
            self.show_drains_at = (!self.changed.is_empty()).then_some(now.instant + SHOW_ANYWAY_EVERY);
        }
        if self.show_nodes_at.is_some_and(|at| at <= now.instant) {
            self.show_nodes_at = None;
            self.nodes_shown = Some(now.instant);
            let snapshot = self.core.snapshot(None, None, now);
            self.nodes.shots.send_replace(Some(Arc::new(snapshot)));
        }
    }

    /// Shows how the nodes stand to somebody who has begun to watch.
    pub(super) fn show_nodes_soon(&mut self, now: Now) {
        let soon = self
            .nodes_shown
            .map_or(now.instant, |shown| shown + SHOW_DRAIN_EVERY);
        let at = soon.max(now.instant);
        self.show_nodes_at = Some(self.show_nodes_at.map_or(at, |due| due.min(at)));
    }

    pub(super) fn at_most_every(&self, span: Duration) -> Duration {
        let streams = u32::try_from(self.streams.len()).unwrap_or(u32::MAX);
        span.max(SHOW_LATER_BY.saturating_mul(streams))
            .min(SHOW_ANYWAY_EVERY)
    }

    pub(super) fn show_drain(&mut self, id: &str, now: Now) {
        let Some(sender) = self.drains.get(id) else { return };
        match self.core.drain(id, now) {
            Some(view) if sender.receiver_count() > 0 => {
                sender.send_replace(view);
            }
            _ => {
                self.drains.remove(id);
            }
        }
    }
}
