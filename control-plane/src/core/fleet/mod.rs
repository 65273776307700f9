//! Who is attached: reporters (one per Wasm VM), the nodes they make up, and whether their word still counts.
//!
//! | file | what |
//! |---|---|
//! | `reporter` | one of them |
//! | `attach` | how they come, and whose claims are refused |
//! | `limits` | how much of them is remembered |
//! | `lost` | processes of which no VM is attached, and what proves that they are gone |
//! | `record` | what is kept durably of a reporter |
//!
//! A reporter is **live** while its stream is open and it speaks in time. Else it is **unknown**: silent (its stream
//! is open, as that of a VM that trapped), detached (its stream is gone) or expected (an earlier control plane knew it, or
//! another VM of its process lists it, and it has not attached). It is forgotten only when something proves that it is
//! gone. One that said goodbye, or whose process was seen to end, has left: that is not unknown, see `leaving`.

mod attach;
pub mod limits;
mod lost;
mod record;
mod reporter;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, btree_map},
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use ebb_proto::v1;

use limits::{Excess, Named, Peers};
use lost::Process;

pub use attach::{Attached, Claim};
pub use lost::SUCCEEDS_AFTER;
pub use record::{LocalRecord, ReporterRecord};
pub use reporter::{CutLately, Local, Peer, Reporter, Standing};

/// Number of a filter's stream, given by whoever accepted it. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// A reporter's identity: the random epoch of its VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl std::fmt::Display for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// How long drains that have ended go on holding a process of which every stream is gone.
pub const FORGET_AFTER: Duration = Duration::from_secs(60);

/// All reporters.
#[derive(Debug, Default)]
pub struct Fleet {
    reporters: HashMap<Epoch, Reporter>,
    streams: HashMap<StreamId, Epoch>,
    nodes: BTreeMap<Arc<str>, Node>,
    /// Reporters by the process of their VM.
    processes: HashMap<u64, HashSet<Epoch>>,
    /// What each peer has of all this.
    peers: Peers,
    /// The listener names that each has had lately.
    named: HashMap<Epoch, Named>,
    /// When each live reporter falls silent, or earlier: entries are put right when they come due.
    due: BTreeSet<(Instant, Epoch)>,
    /// Those that came, went or have other listeners since [`Fleet::take_changed`].
    changed: BTreeSet<Epoch>,
}

/// One node: what its reporters have in common.
#[derive(Debug, Default)]
pub struct Node {
    /// Envoy's `node.cluster`.
    pub cluster: String,
    /// Its reporters.
    pub reporters: BTreeSet<Epoch>,
    /// The processes that these belong to, by their random numbers.
    processes: BTreeMap<u64, Process>,
}

impl Fleet {
    /// A report came on a stream. `None` = the stream is not (or no longer) that of a reporter.
    ///
    /// # Errors
    /// [`Excess`]: then it is as if it had not come.
    pub fn report(
        &mut self,
        stream: StreamId,
        report: v1::FilterReport,
        now: Instant,
    ) -> Result<Option<Epoch>, Excess> {
        let Some(epoch) = self.streams.get(&stream).copied() else {
            return Ok(None);
        };
        let Some(reporter) = self.reporters.get_mut(&epoch) else {
            return Ok(None);
        };
        let names = || report.listeners.iter().map(|said| &said.name);
        let renamed = !reporter.listeners.iter().map(|said| &said.name).eq(names());
        if renamed {
            let named = self.named.entry(epoch).or_insert_with(|| Named::new(now));
            named.hear(names(), now)?;
        }
        let bytes = limits::bytes(&report);
        self.peers.change(reporter.peer, reporter.bytes, bytes)?;
        reporter.bytes = bytes;
        reporter.last_report = now;
        reporter.cut_lately = Arc::new(cut_since(reporter, &report));
        if renamed || reporter.counts_upstreams != report.counts_upstreams {
            self.changed.insert(epoch);
        }
        reporter.listeners = Arc::new(report.listeners);
        reporter.upstreams = Arc::new(report.upstreams);
        reporter.counts_upstreams = report.counts_upstreams;
        // What was never asked cannot be answered.
        reporter.answered = reporter.answered.max(report.answers.min(reporter.asked));
        if let Standing::Silent(stream) = reporter.standing {
            reporter.standing = Standing::Live(stream);
            Self::arm(&mut self.due, epoch, reporter, reporter.silent_at());
        }
        Ok(Some(epoch))
    }

    /// A stream is refused: its reporter is unknown from now on, and this is why.
    pub fn refuse(&mut self, stream: StreamId, why: &str, now: Instant) -> Option<Epoch> {
        let epoch = self.detach(stream, now)?;
        let reporter = self.reporters.get_mut(&epoch)?;
        reporter.refused = Some(why.into());
        Some(epoch)
    }

    /// A stream ended.
    pub fn detach(&mut self, stream: StreamId, now: Instant) -> Option<Epoch> {
        let epoch = self.streams.remove(&stream)?;
        let reporter = self.reporters.get_mut(&epoch)?;
        self.due.remove(&(reporter.armed, epoch));
        reporter.standing = Standing::Detached(now);
        Some(epoch)
    }

    /// Whether a drain waits for this reporter: it then has to speak at its shorter interval.
    pub fn set_awaited(&mut self, epoch: Epoch, awaited: bool, now: Instant) {
        let Some(reporter) = self.reporters.get_mut(&epoch) else {
            return;
        };
        if reporter.awaited == awaited {
            return;
        }
        reporter.awaited = awaited;
        if !reporter.is_live() {
            return;
        }
        // It learns of the shorter interval only now, so its silence counts from now on.
        let at = if awaited {
            now + reporter.longest_silence()
        } else {
            reporter.silent_at()
        };
        Self::arm(&mut self.due, epoch, reporter, at);
    }

    fn arm(due: &mut BTreeSet<(Instant, Epoch)>, epoch: Epoch, reporter: &mut Reporter, at: Instant) {
        due.remove(&(reporter.armed, epoch));
        reporter.armed = at;
        due.insert((at, epoch));
    }

    /// Marks everybody silent who is, and returns them.
    pub fn tick(&mut self, now: Instant) -> Vec<Epoch> {
        let mut silent = Vec::new();
        while let Some((at, epoch)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, epoch));
            let Some(reporter) = self.reporters.get_mut(&epoch) else {
                continue;
            };
            let Standing::Live(stream) = reporter.standing else {
                continue;
            };
            let silent_at = reporter.silent_at();
            if silent_at > now {
                Self::arm(&mut self.due, epoch, reporter, silent_at);
            } else {
                reporter.standing = Standing::Silent(stream);
                silent.push(epoch);
            }
        }
        silent
    }

    /// Forgets processes that have a successor, of one node or of all, and returns their reporters. Whom `keep` names stays.
    pub fn prune(&mut self, node: Option<&str>, now: Instant, keep: impl Fn(Epoch) -> bool) -> Vec<Epoch> {
        let nodes: Vec<&Node> = match node {
            Some(node) => self.nodes.get(node).into_iter().collect(),
            None => self.nodes.values().collect(),
        };
        let gone: Vec<Epoch> = nodes
            .into_iter()
            .flat_map(|node| self.succeeded(node, now))
            .filter(|e| !keep(*e))
            .collect();
        for epoch in &gone {
            self.remove(*epoch);
        }
        gone
    }

    /// The reporters of an Envoy process.
    pub fn of_process(&self, process: u64) -> impl Iterator<Item = (Epoch, &Reporter)> {
        let epochs = self.processes.get(&process).into_iter().flatten();
        epochs.filter_map(|epoch| Some((*epoch, self.reporters.get(epoch)?)))
    }

    /// A reporter has left for good. Whatever still comes on its stream is nobody's. Returns what it was.
    pub fn leave(&mut self, epoch: Epoch) -> Option<Reporter> {
        let reporter = self.reporters.get(&epoch)?;
        let process = reporter.process;
        if let Some(process) = self
            .nodes
            .get_mut(&reporter.node)
            .and_then(|node| node.processes.get_mut(&process))
        {
            process.left.remember(epoch);
        }
        self.remove(epoch)
    }

    fn remove(&mut self, epoch: Epoch) -> Option<Reporter> {
        let reporter = self.unlink(epoch)?;
        self.named.remove(&epoch);
        self.changed.insert(epoch);
        let Some(node) = self.nodes.get_mut(&reporter.node) else {
            return Some(reporter);
        };
        node.reporters.remove(&epoch);
        let of_it = self.processes.get(&reporter.process).into_iter().flatten();
        if !of_it.into_iter().any(|epoch| node.reporters.contains(epoch)) {
            node.processes.remove(&reporter.process);
        }
        if node.reporters.is_empty() {
            self.nodes.remove(&reporter.node);
        }
        Some(reporter)
    }

    fn put(&mut self, epoch: Epoch, reporter: Reporter) {
        self.peers.join(reporter.peer, reporter.bytes);
        self.processes.entry(reporter.process).or_default().insert(epoch);
        self.reporters.insert(epoch, reporter);
    }

    /// Takes a reporter out, and leaves its place.
    fn unlink(&mut self, epoch: Epoch) -> Option<Reporter> {
        let reporter = self.reporters.remove(&epoch)?;
        self.peers.part(reporter.peer, reporter.bytes);
        if let Some(of_it) = self.processes.get_mut(&reporter.process) {
            of_it.remove(&epoch);
            if of_it.is_empty() {
                self.processes.remove(&reporter.process);
            }
        }
        self.due.remove(&(reporter.armed, epoch));
        if let Some(stream) = reporter.stream() {
            self.streams.remove(&stream);
        }
        Some(reporter)
    }

    /// Every reporter, for the store.
    pub fn records(&self) -> Vec<ReporterRecord> {
        let record = |(epoch, reporter): (&Epoch, &Reporter)| {
            let cluster = self.nodes.get(&reporter.node).map(|node| node.cluster.as_str());
            ReporterRecord::of(*epoch, reporter, cluster.unwrap_or_default())
        };
        self.reporters.iter().map(record).collect()
    }

    /// What the store has to know since the last call: reporters that came or have other listeners, and those that are gone.
    pub fn take_changed(&mut self) -> (Vec<ReporterRecord>, Vec<Epoch>) {
        let (mut put, mut gone) = (Vec::new(), Vec::new());
        for epoch in std::mem::take(&mut self.changed) {
            match self.reporters.get(&epoch) {
                Some(reporter) => {
                    let cluster = self.nodes.get(&reporter.node).map(|node| node.cluster.as_str());
                    put.push(ReporterRecord::of(epoch, reporter, cluster.unwrap_or_default()));
                }
                None => gone.push(epoch),
            }
        }
        (put, gone)
    }

    /// Whether [`Fleet::take_changed`] has anything to tell.
    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// When [`Fleet::tick`] has something to do next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Whose stream this is.
    pub fn epoch(&self, stream: StreamId) -> Option<Epoch> {
        self.streams.get(&stream).copied()
    }

    /// One reporter.
    pub fn get(&self, epoch: Epoch) -> Option<&Reporter> {
        self.reporters.get(&epoch)
    }

    /// One reporter, to be asked.
    pub fn get_mut(&mut self, epoch: Epoch) -> Option<&mut Reporter> {
        self.reporters.get_mut(&epoch)
    }

    /// All reporters, in no order.
    pub fn reporters(&self) -> impl Iterator<Item = (Epoch, &Reporter)> {
        self.reporters.iter().map(|(epoch, reporter)| (*epoch, reporter))
    }

    /// One node.
    pub fn node(&self, id: &str) -> Option<&Node> {
        self.nodes.get(id)
    }

    /// Whether several processes are a node: by mistake, or for the time of a hot restart.
    pub fn is_shared(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|node| node.processes.len() > 1)
    }

    /// Nodes that several Envoys are which are alive. An Envoy may have more than one kind of VMs, each with a number of its
    /// own for the process.
    pub fn twins(&self) -> impl Iterator<Item = &Arc<str>> {
        let shared = self.nodes.iter().filter(|(_, node)| node.processes.len() > 1);
        let are_several = |node: &Node| {
            let live = node.reporters.iter().filter_map(|epoch| self.get(*epoch));
            let live = live.filter(|reporter| reporter.is_live());
            let envoys: HashSet<(Option<Local>, u64)> = live
                .map(|reporter| match reporter.peer {
                    Some(Peer::Local(local)) => (Some(local), 0),
                    Some(Peer::Host(_)) | None => (None, reporter.process),
                })
                .collect();
            envoys.len() > 1
        };
        shared
            .filter(move |(_, node)| are_several(node))
            .map(|(id, _)| id)
    }

    /// All nodes, sorted by id.
    pub fn nodes(&self) -> btree_map::Range<'_, Arc<str>, Node> {
        self.nodes.range::<str, _>(..)
    }

    /// Those after one.
    pub fn nodes_after(&self, id: &str) -> btree_map::Range<'_, Arc<str>, Node> {
        let after = (Bound::Excluded(id), Bound::Unbounded);
        self.nodes.range::<str, _>(after)
    }
}

/// What was cut between two reports. Most of the time nothing was, and nothing is looked up.
fn cut_since(before: &Reporter, now: &v1::FilterReport) -> CutLately {
    fn since<'a>(
        before: impl Iterator<Item = (&'a String, u64)>,
        now: impl Iterator<Item = (&'a String, u64)>,
    ) -> BTreeMap<String, u64> {
        let mut cut = now.filter(|(_, cut)| *cut > 0).peekable();
        if cut.peek().is_none() {
            return BTreeMap::new();
        }
        let had: HashMap<&String, u64> = before.filter(|(_, cut)| *cut > 0).collect();
        let lately = cut.map(|(name, cut)| (name, cut.saturating_sub(had.get(name).copied().unwrap_or(0))));
        let lately = lately.filter(|(_, cut)| *cut > 0);
        lately.map(|(name, cut)| (name.clone(), cut)).collect()
    }
    CutLately {
        listeners: since(
            before.listeners.iter().map(|said| (&said.name, said.cut)),
            now.listeners.iter().map(|said| (&said.name, said.cut)),
        ),
        upstreams: since(
            before.upstreams.iter().map(|said| (&said.address, said.cut)),
            now.upstreams.iter().map(|said| (&said.address, said.cut)),
        ),
    }
}

#[cfg(test)]
mod tests;
