//! Which processes of this machine the filters' streams come from, as the system tells of Unix sockets: when one of them has
//! ended, the Envoy that it was has.

use std::collections::BTreeSet;

use tokio::sync::mpsc;

use super::Request;
use crate::{
    core::fleet::{Local, Peer, ReporterRecord},
    local,
};

/// Watches an Envoy for its end.
fn watch(local: Local, requests: mpsc::WeakSender<Request>) {
    let ended = move || {
        if let Some(sender) = requests.upgrade() {
            // An engine that is gone needs no word of it.
            let _ = sender.blocking_send(Request::ProcessEnded { pid: local.pid });
        }
    };
    if let Err(error) = local::when_ended(local, ended) {
        tracing::warn!(pid = local.pid, %error, "an Envoy cannot be watched for its end");
    }
}

/// How many are remembered, the latest: on one machine there are a few.
const REMEMBERED: usize = 256;

#[derive(Debug)]
struct Met {
    peer: Local,
    is_envoy: bool,
    node: String,
    /// The random number of its Envoy process.
    process: u64,
}

/// The peers that have been met.
#[derive(Debug, Default)]
pub(super) struct Peers(Vec<Met>);

impl Peers {
    /// A stream of this Envoy process came from this peer. If it `is_envoy` itself, and does not just pass streams on, it is
    /// watched for its end.
    pub(super) fn met(
        &mut self,
        peer: Local,
        is_envoy: bool,
        node: &str,
        process: u64,
        requests: &mpsc::WeakSender<Request>,
    ) {
        if self
            .0
            .iter()
            .any(|met| met.peer == peer && met.process == process)
        {
            return;
        }
        if is_envoy && !self.0.iter().any(|met| met.peer == peer) {
            watch(peer, requests.clone());
        }
        if self.0.len() >= REMEMBERED {
            self.0.remove(0);
        }
        self.0.push(Met {
            peer,
            is_envoy,
            node: node.to_owned(),
            process,
        });
    }

    /// Completes records that are to be kept: where their pids mean something, and which of their processes are Envoys.
    pub(super) fn describe(&self, records: &mut [ReporterRecord]) {
        let place = local::place();
        for record in records {
            let Some(Peer::Local(peer)) = record.peer() else {
                continue;
            };
            let is_envoy = self.0.iter().any(|met| met.peer == peer && met.is_envoy);
            if let Some(local) = &mut record.local {
                local.place.clone_from(&place);
                local.is_envoy = is_envoy;
            }
        }
    }

    /// Takes in what was kept of them. Those of this machine are watched again; returned are the Envoy processes that have
    /// ended meanwhile. The end of what passed their streams on is not theirs.
    pub(super) fn resume(
        &mut self,
        records: &mut [ReporterRecord],
        requests: &mpsc::WeakSender<Request>,
    ) -> BTreeSet<u64> {
        let (boot, place) = (local::boot(), local::place());
        let mut ended = BTreeSet::new();
        for record in records {
            let (Some(kept), Some(Peer::Local(local))) = (&record.local, record.peer()) else {
                continue;
            };
            if boot.is_empty() || !kept.place.starts_with(&boot) {
                // Processes do not outlive the boot; of an unknown one nothing is known.
                if !boot.is_empty() && kept.is_envoy {
                    ended.insert(record.process);
                }
                record.local = None;
            } else if kept.place != place {
                record.local = None;
            } else if local::find(kept.pid.cast_signed()).is_none_or(|now| now.started != kept.started) {
                if kept.is_envoy {
                    ended.insert(record.process);
                }
            } else {
                let is_envoy = local::is_envoy(local);
                self.met(local, is_envoy, &record.node, record.process, requests);
            }
        }
        ended
    }

    /// The processes of this machine that streams of a node came from.
    pub(super) fn pids_of(&self, node: &str) -> Vec<u32> {
        let met = self.0.iter().filter(|met| met.node == node);
        let mut pids: Vec<u32> = met.map(|met| met.peer.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// The Envoy processes that have ended with that process, or with the last of its group. None if it was the peer of
    /// several nodes: then it just passed their streams on.
    pub(super) fn ended(&mut self, pid: u32) -> Vec<u64> {
        let ended = |met: &Met| met.peer.pid == pid || met.peer.group == pid;
        let mut nodes = self.0.iter().filter(|met| ended(met)).map(|met| &met.node);
        let first = nodes.next();
        if nodes.any(|node| Some(node) != first) {
            return Vec::new();
        }
        let gone = self.0.extract_if(.., |met| ended(met));
        gone.map(|met| met.process).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::fleet::LocalRecord;

    fn peer(pid: u32, group: u32) -> Local {
        Local {
            pid,
            group,
            started: 1,
        }
    }

    fn met(peers: &mut Peers, peer: Local, node: &str, process: u64) {
        let (requests, _) = mpsc::channel(1);
        peers.met(peer, false, node, process, &requests.downgrade());
    }

    #[test]
    fn an_envoy_ends_with_its_process_or_with_its_group_and_once() {
        let mut peers = Peers::default();
        met(&mut peers, peer(7, 7), "a", 70);
        met(&mut peers, peer(7, 7), "a", 70);
        met(&mut peers, peer(9, 8), "b", 90);
        assert!(peers.ended(6).is_empty());
        assert_eq!(peers.ended(7), [70]);
        assert!(peers.ended(7).is_empty());
        assert_eq!(peers.ended(8), [90]);
    }

    #[test]
    fn what_has_ended_while_no_control_plane_was_there_ends_an_envoy_only_if_it_was_one() {
        let (requests, _inbox) = mpsc::channel(1);
        let (envoy, relay) = (peer(u32::MAX >> 2, 1), peer(u32::MAX >> 3, 1));
        let mut before = Peers::default();
        met(&mut before, relay, "b", 90);
        before.0.push(Met {
            peer: envoy,
            is_envoy: true,
            node: "a".to_owned(),
            process: 70,
        });
        let record = |peer: Local, process| ReporterRecord {
            process,
            local: Some(LocalRecord {
                pid: peer.pid,
                group: peer.group,
                started: peer.started,
                ..LocalRecord::default()
            }),
            ..ReporterRecord::default()
        };
        let mut records = [record(envoy, 70), record(relay, 90)];
        before.describe(&mut records);
        let ended = Peers::default().resume(&mut records, &requests.downgrade());
        assert_eq!(ended, BTreeSet::from([70]));
        for record in &mut records {
            record.local.as_mut().unwrap().place = "another boot".to_owned();
        }
        let ended = Peers::default().resume(&mut records, &requests.downgrade());
        assert_eq!(ended, BTreeSet::from([70]));
    }

    #[test]
    fn who_passes_on_the_streams_of_several_nodes_is_none_of_them() {
        let mut peers = Peers::default();
        met(&mut peers, peer(7, 7), "a", 70);
        met(&mut peers, peer(7, 7), "b", 90);
        assert!(peers.ended(7).is_empty());
    }

    #[test]
    fn an_envoy_with_two_kinds_of_vms_is_one() {
        let mut peers = Peers::default();
        met(&mut peers, peer(7, 7), "a", 70);
        met(&mut peers, peer(7, 7), "a", 71);
        assert_eq!(peers.pids_of("a"), [7]);
        assert!(peers.pids_of("b").is_empty());
        assert_eq!(peers.ended(7), [70, 71]);
        assert!(peers.pids_of("a").is_empty());
    }
}
