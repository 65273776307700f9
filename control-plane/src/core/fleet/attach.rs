//! How reporters come: by a stream of their own, by word of another VM of their process, or from the durable store.

use std::{sync::Arc, time::Instant};

use ebb_proto::v1;

use super::{
    Epoch, Fleet, Peer, Reporter, ReporterRecord, StreamId,
    limits::{self, Excess, MOST_REPORTERS_OF_NODE},
    lost::{Left, Process},
};

/// The most VMs of a process that are believed: an Envoy has one per worker.
const MOST_VMS: usize = 1024;

/// What an attach did.
#[derive(Debug, PartialEq, Eq)]
pub struct Attached {
    /// The reporter.
    pub epoch: Epoch,
    /// An older stream of the same VM, which it replaced.
    pub replaced: Option<StreamId>,
    /// Other VMs of its process that were not known before.
    pub expected: Vec<Epoch>,
}

/// Why a stream is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Claim {
    /// It claims to be of a VM which is bound to another node, process or peer.
    #[error("reporter {epoch} is bound to another {what}: this claim of node {node:?} is refused")]
    Bound {
        /// The VM.
        epoch: Epoch,
        /// What the stream says that it is of.
        node: String,
        /// What the VM is bound to.
        what: &'static str,
    },
    /// There are too many of its kind.
    #[error("node {0:?}: {1}")]
    Full(String, Excess),
}

impl Fleet {
    /// A filter opened a stream.
    ///
    /// # Errors
    /// [`Claim`]: the epoch is that of another.
    pub fn attach(
        &mut self,
        stream: StreamId,
        hello: &v1::FilterHello,
        peer: Option<Peer>,
        now: Instant,
    ) -> Result<Attached, Claim> {
        let epoch = Epoch(hello.epoch);
        self.check_claim(epoch, hello, peer)?;
        self.check_room(epoch, hello, peer)
            .map_err(|excess| Claim::Full(hello.node_id.clone(), excess))?;
        let replaced = self.unlink(epoch).and_then(|old| old.stream());
        let node = self.join(epoch, &hello.node_id, hello.process, peer, Some(now));
        if let Some(node) = self.nodes.get_mut(&node) {
            node.cluster.clone_from(&hello.node_cluster);
        }
        let reporter = Reporter::attached(node, stream, hello, peer, now);
        self.due.insert((reporter.armed, epoch));
        self.put(epoch, reporter);
        self.streams.insert(stream, epoch);
        self.changed.insert(epoch);
        let others = hello.vms.iter().take(MOST_VMS).copied().map(Epoch);
        let expected = others
            .filter(|other| self.expect_other(*other, hello, peer, now))
            .collect();
        Ok(Attached {
            epoch,
            replaced,
            expected,
        })
    }

    fn check_claim(&self, epoch: Epoch, hello: &v1::FilterHello, peer: Option<Peer>) -> Result<(), Claim> {
        let Some(known) = self.reporters.get(&epoch) else {
            return Ok(());
        };
        let what = if *known.node != *hello.node_id {
            "node"
        } else if known.process != hello.process {
            "process"
        } else if known.peer.is_some() && known.peer != peer {
            "peer"
        } else {
            return Ok(());
        };
        Err(Claim::Bound {
            epoch,
            node: hello.node_id.clone(),
            what,
        })
    }

    /// Whether it can be remembered, with those that it lists.
    fn check_room(&self, epoch: Epoch, hello: &v1::FilterHello, peer: Option<Peer>) -> Result<(), Excess> {
        let listed = hello.vms.iter().take(MOST_VMS).copied().map(Epoch);
        let others = listed.filter(|other| *other != epoch && !self.reporters.contains_key(other));
        let others = others.filter(|other| !self.has_left(*other, hello)).count();
        let more = others + usize::from(!self.reporters.contains_key(&epoch));
        if more == 0 {
            return Ok(());
        }
        self.peers.have_room(peer, more)?;
        let node = self.nodes.get(hello.node_id.as_str());
        if node.map_or(0, |node| node.reporters.len()) + more > MOST_REPORTERS_OF_NODE {
            return Err(Excess::Reporters("node", MOST_REPORTERS_OF_NODE));
        }
        Ok(())
    }

    /// Whether a VM of the process that speaks has said goodbye.
    fn has_left(&self, epoch: Epoch, hello: &v1::FilterHello) -> bool {
        let node = self.nodes.get(hello.node_id.as_str());
        node.and_then(|node| node.processes.get(&hello.process))
            .is_some_and(|process| process.left.contains(epoch))
    }

    /// Another VM of a process that has just spoken; whether it was not known.
    fn expect_other(
        &mut self,
        epoch: Epoch,
        hello: &v1::FilterHello,
        peer: Option<Peer>,
        now: Instant,
    ) -> bool {
        if epoch.0 == 0 || self.has_left(epoch, hello) || self.reporters.contains_key(&epoch) {
            return false;
        }
        let node = self.join(epoch, &hello.node_id, hello.process, peer, Some(now));
        let reporter = Reporter::expected(node, hello.process, peer, now);
        self.put(epoch, reporter);
        self.changed.insert(epoch);
        true
    }

    /// A reporter that an earlier control plane knew.
    pub fn expect(&mut self, record: &ReporterRecord, now: Instant) {
        let (epoch, peer) = (Epoch(record.epoch), record.peer());
        let node = self.join(epoch, &record.node, record.process, peer, None);
        if let Some(node) = self.nodes.get_mut(&node) {
            node.cluster.clone_from(&record.cluster);
        }
        let mut reporter = Reporter::expected(node, record.process, peer, now);
        reporter.bytes = limits::bytes_of(record);
        reporter.listeners = Arc::new(record.counts());
        reporter.counts_upstreams = record.counts_upstreams;
        self.unlink(epoch);
        self.put(epoch, reporter);
    }

    /// Gives a reporter its place among those of its node and process.
    fn join(
        &mut self,
        epoch: Epoch,
        node: &str,
        process: u64,
        peer: Option<Peer>,
        met: Option<Instant>,
    ) -> Arc<str> {
        let name: Arc<str> = match self.nodes.get_key_value(node) {
            Some((known, _)) => known.clone(),
            None => node.into(),
        };
        let node = self.nodes.entry(name.clone()).or_default();
        node.reporters.insert(epoch);
        node.processes.entry(process).or_insert_with(|| Process {
            met,
            peer,
            left: Left::default(),
        });
        name
    }
}
