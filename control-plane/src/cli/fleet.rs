//! The fleet as `ebb status` and `ebb watch` show it: nodes, drains, processes.

use ebb_proto::v1::{Drain, Node, Phase, ReporterState, UnknownReporter};
use serde::Serialize;

use super::{
    blockers::{self, BlockerView},
    client::{CallError, Client},
    common::{count, from_wire, human},
    output::{one_line, short},
    outstanding::{self, OutstandingView},
    processes::{self, ProcessView},
    table::{Column, Table},
};

/// Everything there is to see. Its JSON form is part of the stable command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Fleet {
    pub(crate) nodes: Vec<NodeView>,
    pub(crate) drains: Vec<DrainView>,
    /// None of them under `ebb serve`.
    pub(crate) processes: Vec<ProcessView>,
    /// The oldest requests in flight, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) blockers: Option<Vec<BlockerView>>,
}

/// One Envoy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct NodeView {
    pub(crate) id: String,
    pub(crate) reporters: usize,
    pub(crate) unknown_reporters: usize,
    pub(crate) listeners: Vec<ListenerView>,
    /// More listeners than are told of; left out if there are none.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) listeners_omitted: u32,
    /// For the text: which reporters are unknown, and why.
    #[serde(skip)]
    unknown: Vec<UnknownReporter>,
}

/// One listener of an Envoy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ListenerView {
    pub(crate) name: String,
    pub(crate) in_flight: u64,
    pub(crate) phase: &'static str,
}

/// One drain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct DrainView {
    pub(crate) id: String,
    pub(crate) phase: &'static str,
    pub(crate) holding: bool,
    pub(crate) in_flight: u64,
    pub(crate) elapsed_ms: u64,
    /// Null where nothing is known of it.
    pub(crate) outstanding: Option<OutstandingView>,
    /// For the text: what it waits for besides requests.
    #[serde(skip)]
    pub(crate) awaited: Vec<String>,
    pub(crate) nodes: Vec<String>,
    pub(crate) listeners: Vec<String>,
}

impl Fleet {
    /// Asks the control plane, which asks its filters.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub(crate) async fn ask(client: &Client) -> Result<Self, CallError> {
        let mut fleet = Self::ask_beside(client, Vec::new()).await?;
        fleet.processes = processes::ask(client).await?;
        Ok(fleet)
    }

    /// As [`Fleet::ask`], with processes that are known already.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub(crate) async fn ask_beside(client: &Client, processes: Vec<ProcessView>) -> Result<Self, CallError> {
        let nodes = client.nodes().await?;
        let drains = client.all_drains().await?;
        Ok(Self {
            nodes: nodes.into_iter().map(NodeView::from).collect(),
            drains: drains.into_iter().map(DrainView::from).collect(),
            processes,
            blockers: None,
        })
    }

    /// Aligned tables for a person. Ended drains that hold nothing are only counted.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = self.node_lines();
        lines.extend(self.unknown_lines());
        lines.extend(self.drain_lines());
        lines.extend(processes::lines(&self.processes));
        lines.extend(self.blocker_lines());
        lines
    }

    fn blocker_lines(&self) -> Vec<String> {
        match self.blockers.as_deref() {
            None => Vec::new(),
            Some([]) => vec![
                String::new(),
                "no request is in flight, as far as filters answered".to_owned(),
            ],
            Some(blockers) => [String::new()]
                .into_iter()
                .chain(blockers::lines(blockers))
                .collect(),
        }
    }

    fn node_lines(&self) -> Vec<String> {
        if self.nodes.is_empty() {
            return vec!["no node: no Envoy with the ebb filter is attached".to_owned()];
        }
        let mut table = Table::new([
            Column::Text("NODE"),
            Column::Text("LISTENER"),
            Column::Number("IN FLIGHT"),
            Column::Text("PHASE"),
            Column::Text("REPORTERS"),
        ]);
        for node in &self.nodes {
            let mut heads = [node.id.clone(), node.reporters()].into_iter();
            let (mut id, mut reporters) = (heads.next(), heads.next());
            for listener in &node.listeners {
                table.row([
                    id.take().unwrap_or_default(),
                    listener.name.clone(),
                    in_flight(listener.in_flight, node.unknown_reporters),
                    listener.phase.to_owned(),
                    reporters.take().unwrap_or_default(),
                ]);
            }
            if node.listeners_omitted > 0 {
                let more = format!("and {} more", node.listeners_omitted);
                table.row([String::new(), more, "-".to_owned(), "-".to_owned(), String::new()]);
            }
            if let (Some(id), Some(reporters)) = (id, reporters) {
                table.row([id, "-".to_owned(), "-".to_owned(), "-".to_owned(), reporters]);
            }
        }
        table.lines()
    }

    fn unknown_lines(&self) -> Vec<String> {
        let unknown: Vec<String> = self
            .nodes
            .iter()
            .flat_map(|node| &node.unknown)
            .map(describe)
            .collect();
        match unknown.len() {
            0 => Vec::new(),
            _ => [
                String::new(),
                "UNKNOWN REPORTERS (their requests are not counted)".to_owned(),
            ]
            .into_iter()
            .chain(unknown)
            .collect(),
        }
    }

    fn drain_lines(&self) -> Vec<String> {
        let (shown, ended): (Vec<_>, Vec<_>) = self
            .drains
            .iter()
            .partition(|drain| drain.holding || !drain.has_ended());
        let mut lines = Vec::new();
        if !shown.is_empty() {
            let mut table = Table::new([
                Column::Text("DRAIN"),
                Column::Text("PHASE"),
                Column::Number("IN FLIGHT"),
                Column::Number("ELAPSED"),
                Column::Text("SCOPE"),
            ]);
            for drain in &shown {
                table.row([
                    drain.id.clone(),
                    drain.phase_text(),
                    drain.in_flight.to_string(),
                    human(std::time::Duration::from_millis(drain.elapsed_ms)),
                    scope(&drain.nodes, &drain.listeners),
                ]);
            }
            lines.push(String::new());
            lines.extend(table.lines());
            let waiting = shown.iter().filter(|drain| !drain.has_ended());
            lines.extend(waiting.filter_map(|drain| drain.waits_for()));
        }
        if !ended.is_empty() {
            lines.push(String::new());
            lines.push(format!(
                "{} ended and released (-o json lists them)",
                count(ended.len() as u64, "drain")
            ));
        }
        lines
    }
}

impl NodeView {
    fn reporters(&self) -> String {
        match self.unknown_reporters {
            0 => self.reporters.to_string(),
            unknown => format!("{} ({unknown} unknown)", self.reporters),
        }
    }
}

impl DrainView {
    /// Whether its outcome stands.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.phase, "drained" | "timed_out" | "cancelled" | "cut")
    }

    /// `, 37 kB towards 1 client`: what it waits for besides requests in flight, if anything.
    pub(crate) fn more(&self) -> String {
        match self.has_ended() {
            true => String::new(),
            false => self.awaited.iter().map(|part| format!(", {part}")).collect(),
        }
    }

    /// `drain d-1 waits for 37 kB towards 1 client`, besides requests in flight.
    fn waits_for(&self) -> Option<String> {
        let id = one_line(&self.id);
        (!self.awaited.is_empty()).then(|| format!("drain {id} waits for {}", self.awaited.join(", ")))
    }

    /// An ended drain that holds still closes connections: that must be seen.
    fn phase_text(&self) -> String {
        match self.has_ended() && self.holding {
            true => format!("{}, holding", self.phase),
            false => self.phase.to_owned(),
        }
    }
}

impl From<Node> for NodeView {
    fn from(node: Node) -> Self {
        let omitted = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        let reporters = node
            .reporters
            .len()
            .saturating_add(omitted(node.reporters_omitted));
        let live = |state| state == i32::from(ReporterState::Live);
        let unknown: Vec<_> = node
            .reporters
            .into_iter()
            .filter(|reporter| !live(reporter.state))
            .map(|reporter| UnknownReporter {
                node: node.id.clone(),
                reporter: reporter.id,
                reason: reporter.reason,
            })
            .collect();
        let listeners = node.listeners.into_iter().map(|listener| ListenerView {
            name: listener.name,
            in_flight: listener.in_flight,
            phase: phase(listener.phase),
        });
        let listeners = listeners.collect();
        Self {
            id: node.id,
            reporters,
            unknown_reporters: unknown.len().saturating_add(omitted(node.unknown_omitted)),
            listeners,
            listeners_omitted: node.listeners_omitted,
            unknown,
        }
    }
}

impl From<Drain> for DrainView {
    fn from(drain: Drain) -> Self {
        let awaited = outstanding::awaited(&drain);
        let scope = drain.scope.unwrap_or_default();
        Self {
            id: drain.id,
            phase: phase(drain.phase),
            holding: drain.holding,
            in_flight: drain.in_flight,
            elapsed_ms: millis(drain.elapsed),
            outstanding: drain.outstanding.as_ref().map(OutstandingView::from),
            awaited,
            nodes: scope.nodes,
            listeners: scope.listeners,
        }
    }
}

/// The word for a phase of the wire; a listener without a drain is `serving`.
pub(crate) fn phase(phase: i32) -> &'static str {
    match Phase::try_from(phase) {
        Ok(Phase::Unspecified) => "serving",
        Ok(Phase::Announced) => "announced",
        Ok(Phase::Draining) => "draining",
        Ok(Phase::Quiet) => "quiet",
        Ok(Phase::Drained) => "drained",
        Ok(Phase::TimedOut) => "timed_out",
        Ok(Phase::Cancelled) => "cancelled",
        Ok(Phase::Cut) => "cut",
        // Of a control plane that is newer than this program.
        Err(_) => "other",
    }
}

/// Milliseconds of a duration of the wire.
pub(crate) fn millis(duration: Option<prost_types::Duration>) -> u64 {
    u64::try_from(from_wire(duration).as_millis()).unwrap_or(u64::MAX)
}

/// `listener ingress of nodes edge-1, edge-2`; what is empty is everything.
pub(crate) fn scope(nodes: &[String], listeners: &[String]) -> String {
    if nodes.is_empty() && listeners.is_empty() {
        return "everything".to_owned();
    }
    let part = |names: &[String], noun: &str| match names {
        [] => format!("every {noun}"),
        [name] => format!("{noun} {name}"),
        names => format!("{noun}s {}", names.join(", ")),
    };
    format!("{} of {}", part(listeners, "listener"), part(nodes, "node"))
}

/// A reporter and why it is unknown, in a line.
pub(crate) fn describe(reporter: &UnknownReporter) -> String {
    let reason = if reporter.reason.is_empty() {
        "unknown"
    } else {
        &reporter.reason
    };
    let node = short(&reporter.node);
    one_line(&format!("{node}/{}: {reason}", reporter.reporter))
}

/// With reporters unknown, the count is only what is known at least.
fn in_flight(known: u64, unknown_reporters: usize) -> String {
    if unknown_reporters == 0 {
        known.to_string()
    } else {
        format!(">={known}")
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}
