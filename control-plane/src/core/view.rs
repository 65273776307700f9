//! What the core knows, in the words of the wire.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use ebb_proto::v1;

use super::{Core, Now, drain::Drain, fleet::Reporter, machine::Hold};

impl Core {
    /// A drain as it stands, or as it ended.
    pub fn drain(&self, id: &str, now: Now) -> Option<v1::Drain> {
        Some(self.shown(self.find(id)?, now.instant))
    }

    /// All drains, oldest first.
    pub fn drains(&self, now: Now) -> Vec<v1::Drain> {
        self.drains
            .values()
            .map(|drain| self.shown(drain, now.instant))
            .collect()
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
        let unknown_reporters = drain
            .tally
            .unknown()
            .into_iter()
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
            listeners: drain.tally.listeners(),
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
            .flat_map(|reporter| &reporter.listeners)
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

    /// All nodes, sorted by id. With `asked`, a reporter that has not answered that ask is unknown.
    pub fn nodes(&self, asked: Option<u64>, now: Now) -> Vec<v1::Node> {
        let nodes = self.fleet.nodes().map(|(id, node)| {
            let mut view = v1::Node {
                id: id.to_string(),
                cluster: node.cluster.clone(),
                ..Default::default()
            };
            for epoch in &node.reporters {
                let Some(reporter) = self.fleet.get(*epoch) else {
                    continue;
                };
                let reason = unknown(reporter, asked, now.instant);
                if reason.is_empty() {
                    add_counts(&mut view.listeners, reporter);
                }
                for said in &reporter.listeners {
                    listener(&mut view.listeners, &said.name);
                }
                view.reporters.push(v1::Reporter {
                    id: epoch.to_string(),
                    state: match reason.is_empty() {
                        true => v1::ReporterState::Live,
                        false => v1::ReporterState::Unknown,
                    }
                    .into(),
                    last_report_age: now
                        .instant
                        .saturating_duration_since(reporter.last_report)
                        .try_into()
                        .ok(),
                    version: reporter.version.clone(),
                    reason,
                });
            }
            view.listeners.sort_by(|a, b| a.name.cmp(&b.name));
            for listener in &mut view.listeners {
                listener.phase = self.phase_of(id, &listener.name).into();
            }
            view
        });
        nodes.collect()
    }

    /// The phase of the latest drain that holds a listener.
    fn phase_of(&self, node: &str, listener: &str) -> v1::Phase {
        let holds = |drain: &&Drain| {
            !drain.scope.is_upstream()
                && drain.scope.has_node(node)
                && drain.scope.has_listener(listener)
                && match drain.machine.outcome() {
                    None => true,
                    Some((_, Hold::Released)) => false,
                    Some((_, Hold::Holding)) => drain.tally.members().any(|epoch| {
                        self.fleet
                            .get(epoch)
                            .is_some_and(|reporter| *reporter.node == *node)
                    }),
                }
        };
        self.drains
            .values()
            .rev()
            .find(holds)
            .map_or(v1::Phase::Unspecified, |drain| drain.machine.phase())
    }
}

fn unknown(reporter: &Reporter, asked: Option<u64>, now: Instant) -> String {
    match asked {
        Some(ask) if reporter.is_live() && reporter.answered < ask => {
            let age = now.saturating_duration_since(reporter.last_report);
            let age = Duration::from_millis(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
            format!(
                "did not answer; last heard of {} ago",
                humantime::format_duration(age)
            )
        }
        _ => reporter.reason(now),
    }
}

fn listener<'a>(listeners: &'a mut Vec<v1::Listener>, name: &str) -> Option<&'a mut v1::Listener> {
    let at = listeners
        .iter()
        .position(|listener| listener.name == name)
        .unwrap_or_else(|| {
            listeners.push(v1::Listener {
                name: name.to_owned(),
                ..Default::default()
            });
            listeners.len() - 1
        });
    listeners.get_mut(at)
}

fn add_counts(listeners: &mut Vec<v1::Listener>, reporter: &Reporter) {
    for said in &reporter.listeners {
        if let Some(listener) = listener(listeners, &said.name) {
            listener.in_flight = listener.in_flight.saturating_add(said.in_flight);
        }
    }
}
