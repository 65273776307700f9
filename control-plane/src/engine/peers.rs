//! Which processes of this machine the filters' streams come from, as the system tells of Unix sockets: when one of them has
//! ended, the Envoy that it was has.

use nix::unistd::{Pid, getpgid};

/// A process at the other end of a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its pid, in this process's own namespace.
    pub pid: u32,
    /// Its process group: a wrapper that started it leads that.
    pub group: u32,
}

impl Peer {
    /// From the credentials of a socket; `None` if the system does not tell, as across pid namespaces.
    pub fn of(pid: Option<i32>) -> Option<Self> {
        let pid = pid.filter(|pid| *pid > 0).map(Pid::from_raw)?;
        // 0 where the leader of the group is in a namespace outside of this one.
        let group = getpgid(Some(pid)).ok().filter(|group| group.as_raw() > 0);
        Some(Self {
            pid: pid.as_raw().unsigned_abs(),
            group: group.unwrap_or(pid).as_raw().unsigned_abs(),
        })
    }
}

/// How many are remembered, the latest: on one machine there are a few.
const REMEMBERED: usize = 256;

#[derive(Debug)]
struct Met {
    peer: Peer,
    node: String,
    /// The random number of its Envoy process.
    process: u64,
}

/// The peers that have been met.
#[derive(Debug, Default)]
pub(super) struct Peers(Vec<Met>);

impl Peers {
    /// A stream of this Envoy process came from this peer.
    pub(super) fn met(&mut self, peer: Peer, node: &str, process: u64) {
        if self
            .0
            .iter()
            .any(|met| met.peer == peer && met.process == process)
        {
            return;
        }
        if self.0.len() >= REMEMBERED {
            self.0.remove(0);
        }
        self.0.push(Met {
            peer,
            node: node.to_owned(),
            process,
        });
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

    fn peer(pid: u32, group: u32) -> Peer {
        Peer { pid, group }
    }

    #[test]
    fn an_envoy_ends_with_its_process_or_with_its_group_and_once() {
        let mut peers = Peers::default();
        peers.met(peer(7, 7), "a", 70);
        peers.met(peer(7, 7), "a", 70);
        peers.met(peer(9, 8), "b", 90);
        assert!(peers.ended(6).is_empty());
        assert_eq!(peers.ended(7), [70]);
        assert!(peers.ended(7).is_empty());
        assert_eq!(peers.ended(8), [90]);
    }

    #[test]
    fn who_passes_on_the_streams_of_several_nodes_is_none_of_them() {
        let mut peers = Peers::default();
        peers.met(peer(7, 7), "a", 70);
        peers.met(peer(7, 7), "b", 90);
        assert!(peers.ended(7).is_empty());
    }

    #[test]
    fn an_envoy_with_two_kinds_of_vms_is_one() {
        let mut peers = Peers::default();
        peers.met(peer(7, 7), "a", 70);
        peers.met(peer(7, 7), "a", 71);
        assert_eq!(peers.pids_of("a"), [7]);
        assert!(peers.pids_of("b").is_empty());
        assert_eq!(peers.ended(7), [70, 71]);
        assert!(peers.pids_of("a").is_empty());
    }

    #[test]
    fn peers_are_told_by_their_group_and_not_across_namespaces() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(Peer::of(Some(own)).map(|peer| peer.pid), Some(std::process::id()));
        assert_eq!((Peer::of(Some(0)), Peer::of(None)), (None, None));
    }
}
