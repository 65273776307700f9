//! How reporters come: by a stream of their own, by word of another VM of their process, or from the durable store.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use ebb_proto::v1;

use super::{Epoch, Fleet, Peer, Reporter, ReporterRecord, StreamId, lost::Process};

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

/// A stream that claims to be of a VM which is bound to another node, process or peer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("reporter {epoch} is bound to another {what}: this claim of node {node:?} is refused")]
pub struct Claim {
    epoch: Epoch,
    node: String,
    what: &'static str,
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
        let replaced = self.unlink(epoch).and_then(|old| old.stream());
        let node = self.join(epoch, &hello.node_id, hello.process, peer, Some(now));
        if let Some(node) = self.nodes.get_mut(&node) {
            node.cluster.clone_from(&hello.node_cluster);
        }
        let reporter = Reporter::attached(node, stream, hello, peer, now);
        self.due.insert((reporter.armed, epoch));
        self.reporters.insert(epoch, reporter);
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
        Err(Claim {
            epoch,
            node: hello.node_id.clone(),
            what,
        })
    }

    /// Another VM of a process that has just spoken; whether it was not known.
    fn expect_other(
        &mut self,
        epoch: Epoch,
        hello: &v1::FilterHello,
        peer: Option<Peer>,
        now: Instant,
    ) -> bool {
        let node = self.nodes.get(hello.node_id.as_str());
        let has_left = node
            .and_then(|node| node.processes.get(&hello.process))
            .is_some_and(|process| process.left.contains(&epoch));
        if epoch.0 == 0 || has_left || self.reporters.contains_key(&epoch) {
            return false;
        }
        let node = self.join(epoch, &hello.node_id, hello.process, peer, Some(now));
        let reporter = Reporter::expected(node, hello.process, peer, now);
        self.reporters.insert(epoch, reporter);
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
        reporter.listeners = record.counts();
        reporter.counts_upstreams = record.counts_upstreams;
        self.reporters.insert(epoch, reporter);
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
            left: BTreeSet::new(),
        });
        name
    }
}
