//! What the core knows, in the words of the wire.

use std::{collections::BTreeSet, ops::Bound, time::Instant};

use ebb_proto::v1;
use prost::Message as _;

use super::{
    Core, Now,
    drain::Drain,
    fleet::Epoch,
    machine::Hold,
    snapshot::{DrainShot, NodeShot, Snapshot},
};

/// As many unknown reporters of a drain are named.
pub(super) const UNKNOWN_SHOWN: usize = 500;

impl Core {
    /// A drain as it stands, or as it ended.
    pub fn drain(&self, id: &str, now: Now) -> Option<v1::Drain> {
        Some(self.shown(self.find(id)?, now.instant))
    }

    /// Drains, oldest first: those after a place, if one is given, as many as are wanted and fit into so many bytes, but at least one. With the
    /// place of the last of them, if others follow.
    pub fn drains_after(
        &self,
        place: Option<u64>,
        limit: usize,
        bytes: usize,
        now: Now,
    ) -> (Vec<v1::Drain>, Option<u64>) {
        let mut drains = Vec::new();
        let (mut last, mut takes) = (0, 0_usize);
        let first = place.map_or(Bound::Unbounded, Bound::Excluded);
        for (sequence, drain) in self.drains.range((first, Bound::Unbounded)) {
            let view = self.shown(drain, now.instant);
            takes = takes.saturating_add(view.encoded_len());
            if !drains.is_empty() && (drains.len() >= limit || takes > bytes) {
                return (drains, Some(last));
            }
            last = *sequence;
            drains.push(view);
        }
        (drains, None)
    }

    /// All drains, oldest first.
    #[cfg(test)]
    pub fn drains(&self, now: Now) -> Vec<v1::Drain> {
        self.drains_after(None, usize::MAX, usize::MAX, now).0
    }

    /// A drain for those who ask: with what is no part of its record.
    pub(super) fn shown(&self, drain: &Drain, now: Instant) -> v1::Drain {
        let mut view = self.drain_view(drain, now);
        view.warnings.extend(drain.not_kept.clone());
        view
    }

    pub(super) fn drain_view(&self, drain: &Drain, now: Instant) -> v1::Drain {
        let holding = drain.machine.closing_since().is_some() && !drain.scope.is_upstream();
        if let Some(last) = &drain.last {
            return v1::Drain {
                holding,
                warnings: drain.warnings.clone(),
                ..last.clone()
            };
        }
        let unknown_reporters =
            drain
                .tally
                .unknown()
                .take(UNKNOWN_SHOWN)
                .map(|(epoch, node)| v1::UnknownReporter {
                    node: node.to_string(),
                    reporter: epoch.to_string(),
                    reason: match self.fleet.get(epoch) {
                        None => "has not come back since the control plane restarted".to_owned(),
                        Some(reporter) if reporter.is_live() && !drain.scope.is_counted_by(reporter) => {
                            "does not count upstreams on all of its listeners".to_owned()
                        }
                        Some(reporter) if reporter.is_live() => "has not answered yet".to_owned(),
                        Some(reporter) => reporter.reason(now),
                    },
                });
        let unknown_nodes = drain.tally.unknown_nodes().map(|node| v1::UnknownReporter {
            node: node.to_string(),
            reporter: String::new(),
            reason: "no filter tells of it, and its Envoy has not answered for itself".to_owned(),
        });
        let unreached = drain.tally.unreached().map(|address| v1::UnknownReporter {
            reason: self.why_unreached(address),
            ..Default::default()
        });
        let (listeners, listeners_omitted) = drain.tally.listeners();
        let omitted = drain.tally.unknown().len().saturating_sub(UNKNOWN_SHOWN);
        let wire = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        v1::Drain {
            id: drain.id.clone(),
            request_id: drain.request_id.clone(),
            scope: Some(drain.scope.to_proto()),
            policy: Some(drain.machine.policy().to_proto()),
            phase: drain.machine.phase().into(),
            started_at: Some(drain.started_at.into()),
            elapsed: drain.machine.elapsed(now).try_into().ok(),
            in_flight: drain.tally.observation().in_flight,
            unknown_reporters: unknown_reporters.chain(unknown_nodes).chain(unreached).collect(),
            cut: drain.tally.cut(),
            listeners,
            listeners_omitted: wire(listeners_omitted),
            unknown_reporters_omitted: wire(omitted),
            holding,
            evidence: drain.evidence.into(),
            lever: self.lever(drain).into(),
            warnings: drain.warnings.clone(),
            outstanding: drain.outstanding(),
        }
    }

    /// The local ports on which listeners of a node had requests, as its filters told; `None` if they did not tell all.
    pub fn ports(&self, node: &str, listeners: &[String]) -> Option<Vec<u16>> {
        let reporters = self.fleet.node(node).into_iter().flat_map(|node| &node.reporters);
        let counts = reporters
            .filter_map(|epoch| self.fleet.get(*epoch))
            .flat_map(|reporter| reporter.listeners.iter())
            .filter(|said| said.started > 0 && listeners.contains(&said.name));
        let mut ports = BTreeSet::new();
        for said in counts {
            if said.ports.is_empty() {
                return None;
            }
            ports.extend(said.ports.iter().filter_map(|port| u16::try_from(*port).ok()));
        }
        Some(ports.into_iter().collect())
    }

    /// What there is to show of nodes, from the one after `after` on, if that is given. With `asked`, a reporter that has not
    /// answered that ask is unknown.
    pub fn snapshot(&self, asked: Option<u64>, after: Option<&str>, now: Now) -> Snapshot {
        let nodes = match after {
            Some(after) => self.fleet.nodes_after(after),
            None => self.fleet.nodes(),
        };
        let reporter = |epoch: &Epoch| Some((*epoch, self.fleet.get(*epoch)?.clone()));
        let nodes = nodes.map(|(id, node)| NodeShot {
            id: id.clone(),
            cluster: node.cluster.clone(),
            reporters: node.reporters.iter().filter_map(reporter).collect(),
        });
        let closing = self
            .drains
            .values()
            .rev()
            .filter(|drain| !drain.scope.is_upstream());
        let drains = closing.filter_map(|drain| {
            let nodes = match drain.machine.outcome() {
                None => None,
                Some((_, Hold::Released)) => return None,
                Some((_, Hold::Holding)) => Some(drain.tally.member_nodes().cloned().collect()),
            };
            Some(DrainShot {
                scope: drain.scope.clone(),
                nodes,
                phase: drain.machine.phase(),
            })
        });
        Snapshot {
            nodes: nodes.collect(),
            drains: drains.collect(),
            asked,
            now: now.instant,
        }
    }

    /// All nodes, sorted by id.
    #[cfg(test)]
    pub fn nodes(&self, asked: Option<u64>, now: Now) -> Vec<v1::Node> {
        self.snapshot(asked, None, now).nodes().collect()
    }
}
