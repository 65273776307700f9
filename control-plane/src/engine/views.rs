//! Views of the nodes, made of snapshots beside the task that owns the state: thousands of names take a while.

use std::sync::Arc;

use ebb_proto::v1;
use prost::Message as _;
use tokio::sync::watch;

use super::{Nodes, PAGE};
use crate::core::snapshot::Snapshot;

/// Shows every snapshot to those who watch, or the latest where they come faster than views are made.
pub(super) async fn show(mut shots: watch::Receiver<Option<Arc<Snapshot>>>, views: watch::Sender<Nodes>) {
    while shots.changed().await.is_ok() {
        let Some(shot) = shots.borrow_and_update().clone() else {
            continue;
        };
        let made = tokio::task::spawn_blocking(move || Arc::new(shot.nodes().collect()));
        match made.await {
            Ok(nodes) => drop(views.send_replace(nodes)),
            Err(error) => tracing::error!(%error, "no view of the nodes, which is a fault of Ebb's"),
        }
    }
}

/// As many as are wanted and fit into [`PAGE`], but at least one; and whether others follow.
pub(super) fn page(nodes: impl Iterator<Item = v1::Node>, limit: usize) -> (Vec<v1::Node>, bool) {
    let (mut page, mut takes) = (Vec::new(), 0_usize);
    for node in nodes {
        takes = takes.saturating_add(node.encoded_len());
        if !page.is_empty() && (page.len() >= limit || takes > PAGE) {
            return (page, true);
        }
        page.push(node);
    }
    (page, false)
}
