//! The oldest requests in flight, as `ebb status`, `ebb watch` and `ebb drain --wait` show them.

use std::time::Duration;

use ebb_proto::v1::{ListBlockersRequest, NodeBlocker, Protocol};
use serde::Serialize;
use tokio::{task::JoinSet, time::Instant};

use super::{
    client::{CallError, Client},
    common::human,
    fleet::millis,
    output::one_line,
    table::{Column, Table},
};
use crate::address::Address;

/// How long a drain waits before it is told what it waits for.
pub(crate) const LONG: Duration = Duration::from_secs(2);
/// How many are shown where nobody said how many.
pub(crate) const FEW: u32 = 5;
/// Filters are asked at most this often: who is in flight for seconds does not change faster.
pub(crate) const ASK_EVERY: Duration = Duration::from_secs(1);
/// Lines about it are at least this far apart.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// How many a line names.
const NAMED: usize = 3;

/// A request in flight. Its JSON form is part of the stable command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct BlockerView {
    pub(crate) node: String,
    pub(crate) listener: String,
    pub(crate) age_ms: u64,
    pub(crate) protocol: &'static str,
    pub(crate) route: String,
    pub(crate) upstream: String,
    /// Only where the filter is told to keep paths.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) path: String,
}

impl From<NodeBlocker> for BlockerView {
    fn from(found: NodeBlocker) -> Self {
        let blocker = found.blocker.unwrap_or_default();
        let protocol = match blocker.protocol() {
            Protocol::Http1 => "h1",
            Protocol::Http2 => "h2",
            Protocol::Http3 => "h3",
            Protocol::Websocket => "websocket",
            Protocol::Grpc => "grpc",
            Protocol::Unspecified => "unknown",
        };
        Self {
            node: found.node,
            age_ms: millis(blocker.age),
            protocol,
            listener: blocker.listener,
            route: blocker.route,
            upstream: blocker.upstream,
            path: blocker.path,
        }
    }
}

impl BlockerView {
    /// The same but for its age, and thus the same over time.
    pub(crate) fn timeless(&self) -> Self {
        Self {
            age_ms: 0,
            ..self.clone()
        }
    }

    fn older_by(&self, time: Duration) -> Self {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            age_ms: self.age_ms.saturating_add(time),
            ..self.clone()
        }
    }

    /// `edge-1/ingress websocket for 12s, route chat, to 10.0.0.3:80`.
    fn line(&self) -> String {
        let age = human(Duration::from_millis(self.age_ms));
        let mut line = format!("{}/{} {} for {age}", self.node, self.listener, self.protocol);
        if !self.route.is_empty() {
            line.push_str(&format!(", route {}", self.route));
        }
        if !self.upstream.is_empty() {
            line.push_str(&format!(", to {}", self.upstream));
        }
        one_line(&line)
    }
}

/// The oldest requests in flight, `limit` per node and listener, oldest first: of a drain, or of everything if its id
/// is empty.
///
/// # Errors
/// As [`Client::call`].
pub(crate) async fn ask(client: &Client, drain_id: &str, limit: u32) -> Result<Vec<BlockerView>, CallError> {
    let request = ListBlockersRequest {
        drain_id: drain_id.to_owned(),
        limit,
    };
    let answer = client.call(client.drains().list_blockers(request)).await?;
    Ok(answer.blockers.into_iter().map(BlockerView::from).collect())
}

/// An aligned table for a person, under its title; nothing for no request.
pub(crate) fn lines(blockers: &[BlockerView]) -> Vec<String> {
    if blockers.is_empty() {
        return Vec::new();
    }
    let mut columns = vec![
        Column::Text("NODE"),
        Column::Text("LISTENER"),
        Column::Number("AGE"),
        Column::Text("PROTOCOL"),
        Column::Text("ROUTE"),
        Column::Text("UPSTREAM"),
    ];
    let paths = blockers.iter().any(|blocker| !blocker.path.is_empty());
    columns.extend(paths.then_some(Column::Text("PATH")));
    let mut table = Table::new(columns);
    let known = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
    for blocker in blockers {
        let cells = [
            blocker.node.clone(),
            blocker.listener.clone(),
            human(Duration::from_millis(blocker.age_ms)),
            blocker.protocol.to_owned(),
            known(&blocker.route),
            known(&blocker.upstream),
        ];
        table.row(cells.into_iter().chain(paths.then(|| known(&blocker.path))));
    }
    let title = "OLDEST REQUESTS IN FLIGHT".to_owned();
    [title].into_iter().chain(table.lines()).collect()
}

/// What was collected, and when.
#[derive(Debug)]
pub(crate) struct Collected {
    blockers: Vec<BlockerView>,
    at: Instant,
}

impl Collected {
    /// The few oldest, collected at `at`.
    pub(crate) fn new(mut blockers: Vec<BlockerView>, at: Instant) -> Self {
        blockers.truncate(FEW as usize);
        Self { blockers, at }
    }

    /// With the ages that they have now.
    pub(crate) fn at(&self, now: Instant) -> Vec<BlockerView> {
        let passed = now.saturating_duration_since(self.at);
        self.blockers
            .iter()
            .map(|blocker| blocker.older_by(passed))
            .collect()
    }
}

/// Asks while somebody looks, beside whatever else goes on.
#[derive(Debug)]
pub(crate) struct Collector {
    address: Address,
    asking: JoinSet<Result<Vec<BlockerView>, CallError>>,
    asked: Option<Instant>,
}

impl Collector {
    /// For the control plane there.
    pub(crate) fn new(address: Address) -> Self {
        Self {
            address,
            asking: JoinSet::new(),
            asked: None,
        }
    }

    /// Asks for the blockers of a drain, unless it was done within the last second or is being done.
    pub(crate) fn ask(&mut self, drain_id: &str, now: Instant) {
        let recently = self
            .asked
            .is_some_and(|at| now.saturating_duration_since(at) < ASK_EVERY);
        if recently || !self.asking.is_empty() {
            return;
        }
        self.asked = Some(now);
        let (address, id) = (self.address.clone(), drain_id.to_owned());
        self.asking.spawn(async move {
            let client = Client::connect(&address).await?;
            ask(&client, &id, FEW).await
        });
    }

    /// The next answer; waits for ever while nothing was asked. A question that failed has none: whoever waits for
    /// the drain hears of the trouble elsewhere.
    pub(crate) async fn answer(&mut self) -> Vec<BlockerView> {
        loop {
            match self.asking.join_next().await {
                Some(Ok(Ok(blockers))) => return blockers,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }
}

/// Tells what has changed line by line, and not too often.
#[derive(Debug, Default)]
pub(crate) struct Teller {
    said: Vec<BlockerView>,
    at: Option<Instant>,
}

impl Teller {
    /// The oldest requests as they are at `now`: the line to write, if any.
    pub(crate) fn tell(&mut self, blockers: &[BlockerView], now: Instant) -> Option<String> {
        let oldest = blockers.get(..NAMED).unwrap_or(blockers);
        let who: Vec<_> = oldest.iter().map(BlockerView::timeless).collect();
        let recently = self
            .at
            .is_some_and(|at| now.saturating_duration_since(at) < LINE_EVERY);
        if who.is_empty() || who == self.said || recently {
            return None;
        }
        (self.said, self.at) = (who, Some(now));
        let named: Vec<_> = oldest.iter().map(BlockerView::line).collect();
        Some(format!("oldest in flight: {}", named.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocker(listener: &str, age_ms: u64, route: &str) -> BlockerView {
        BlockerView {
            node: "edge-1".into(),
            listener: listener.into(),
            age_ms,
            protocol: "h2",
            route: route.into(),
            upstream: "10.0.0.3:80".into(),
            path: String::new(),
        }
    }

    #[test]
    fn a_line_comes_when_others_are_the_oldest_and_not_when_they_are_older() {
        let (mut teller, start) = (Teller::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(teller.tell(&[], start), None);
        let said = teller.tell(
            &[blocker("ingress", 12_000, "chat"), blocker("ingress", 3_000, "")],
            start,
        );
        let expected = "oldest in flight: edge-1/ingress h2 for 12s, route chat, to 10.0.0.3:80; \
                        edge-1/ingress h2 for 3s, to 10.0.0.3:80";
        assert_eq!(said.as_deref(), Some(expected));
        let older = [blocker("ingress", 22_000, "chat"), blocker("ingress", 13_000, "")];
        assert_eq!(teller.tell(&older, after(10)), None);
        let others = [blocker("internal", 1_000, "")];
        assert!(teller.tell(&others, after(11)).is_some());
        assert_eq!(teller.tell(&older, after(12)), None, "not that often");
        assert!(teller.tell(&older, after(16)).is_some());
    }

    #[test]
    fn what_was_collected_grows_older() {
        let at = Instant::now();
        let collected = Collected::new(vec![blocker("ingress", 12_000, "")], at);
        assert_eq!(
            lines(&collected.at(at + Duration::from_secs(2))),
            [
                "OLDEST REQUESTS IN FLIGHT",
                "NODE    LISTENER  AGE  PROTOCOL  ROUTE  UPSTREAM",
                "edge-1  ingress   14s  h2        -      10.0.0.3:80",
            ]
        );
    }
}
