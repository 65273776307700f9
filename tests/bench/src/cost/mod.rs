//! What a request costs in Envoy: its own CPU time, with one set of HTTP filters and with others.
//!
//! All Envoys (`way`) are up at once, each with one worker. They take turns: in every round each gets its share of the
//! load, in an order that changes from round to round, so that what else the machine does meets all of them alike. What
//! counts is the difference to another way *within* a round; of these, the median. Many short rounds tell more than a few
//! long ones: the noise of a shared machine lasts for seconds.
//!
//! A sample is Envoy's CPU time over a load, divided by the requests that Envoy itself counted. The load's client is a
//! tool that tells failures ([`crate::tools`]); one is enough to end the benchmark with an error.

mod report;
mod stage;
mod way;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

pub use self::way::Way;
use self::{
    stage::{Actor, Stage},
    way::Modules,
};
use crate::{Mode, progress::Progress, stats::Spread};

/// Connections of every load, each with one request at a time.
const CONNECTIONS: usize = 16;

/// The ways whose connections are kept, in the order of the tables; the first is what the others are compared with.
const SERVING: [Way; 7] = [
    Way::NoFilter,
    Way::Stock,
    Way::Floor,
    Way::Lua,
    Way::Closer,
    Way::Filter,
    Way::Ebb,
];

/// Ways to build and to configure the filter, besides the shipped one.
const BUILDS: [Way; 3] = [Way::Unpacked, Way::Restricted, Way::Optimized];

/// The ways that close the connection with every response.
const CLOSING: [Way; 3] = [Way::ByItself, Way::Admin, Way::Draining];

/// The protocol between client and Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kind {
    /// How the client speaks.
    pub protocol: Protocol,
    /// Whether Envoy passes the request on to an upstream, or answers it by itself.
    pub proxied: bool,
    /// Whether every response closes its connection.
    pub closing: bool,
}

impl Kind {
    /// In a few words.
    #[must_use]
    pub fn words(self) -> String {
        let protocol = match self.protocol {
            Protocol::Http1 => "HTTP/1.1",
            Protocol::Http2 => "HTTP/2",
        };
        let answer = if self.proxied {
            "proxied"
        } else {
            "direct response"
        };
        format!("{protocol}, {answer}")
    }

    fn ways(self) -> Vec<Way> {
        if self.closing {
            CLOSING.into()
        } else if self.has_builds() {
            SERVING.into_iter().chain(BUILDS).collect()
        } else {
            SERVING.into()
        }
    }

    /// Whether the builds of the filter are compared as well: what differs between them is the same for every kind.
    fn has_builds(self) -> bool {
        self.protocol == Protocol::Http1 && !self.proxied && !self.closing
    }
}

/// One load of one Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Requests, as Envoy counted them.
    pub requests: u64,
    /// Connections, as Envoy counted them.
    pub connections: u64,
    /// Complete responses, as the client counted them. None failed.
    pub responses: u64,
    /// CPU time that Envoy used, in nanoseconds.
    pub cpu_ns: u64,
}

impl Sample {
    /// CPU time per request, in microseconds.
    #[must_use]
    pub fn per_request(&self) -> f64 {
        self.cpu_ns as f64 / 1e3 / self.requests as f64
    }
}

/// All samples of one way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Which way.
    pub way: Way,
    /// One per round.
    pub samples: Vec<Sample>,
}

/// All ways under one kind of load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Table {
    /// The load.
    pub kind: Kind,
    /// The ways.
    pub rows: Vec<Row>,
}

impl Table {
    /// CPU time per request of a way, in microseconds.
    #[must_use]
    pub fn cost(&self, way: Way) -> Option<Spread> {
        let figures: Vec<f64> = self.samples(way)?.iter().map(Sample::per_request).collect();
        Spread::of(&figures)
    }

    /// What a way costs beyond another, round by round, in microseconds per request; empty if one was not measured.
    #[must_use]
    pub fn beyond(&self, way: Way, other: Way) -> Vec<f64> {
        let (Some(ours), Some(others)) = (self.samples(way), self.samples(other)) else {
            return Vec::new();
        };
        let pairs = ours.iter().zip(others);
        pairs
            .map(|(our, other)| our.per_request() - other.per_request())
            .collect()
    }

    fn samples(&self, way: Way) -> Option<&[Sample]> {
        self.rows
            .iter()
            .find(|row| row.way == way)
            .map(|row| row.samples.as_slice())
    }
}

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// One per kind of load.
    pub tables: Vec<Table>,
}

/// Measures.
///
/// # Errors
/// When a part does not start or does not do what it should, or when a request fails.
pub async fn run(mode: Mode, progress: &Progress) -> Result<Cost> {
    progress.say("cost: starting one Envoy for each way");
    let ways = |modules: &Modules| {
        let all = SERVING.into_iter().chain(BUILDS).chain(CLOSING);
        all.filter(|way| *way != Way::Optimized || modules.optimized.is_some())
            .collect()
    };
    // A test that fails shows them.
    let stage = Stage::set(ways, mode == Mode::Short).await?;
    let mut tables = Vec::new();
    for kind in kinds(mode) {
        let what = if kind.closing { ", closing" } else { "" };
        progress.say(format_args!("cost: {}{what}", kind.words()));
        tables.push(compare(&stage.actors(&kind.ways()), kind, mode).await?);
    }
    Ok(Cost { tables })
}

fn kinds(mode: Mode) -> Vec<Kind> {
    let mut kinds = Vec::new();
    for closing in [false, true] {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            for proxied in [false, true] {
                kinds.push(Kind {
                    protocol,
                    proxied,
                    closing,
                });
            }
        }
    }
    // Each protocol and each sort of answer once.
    let shown = |kind: &Kind| !kind.proxied || (kind.protocol == Protocol::Http1 && !kind.closing);
    kinds.retain(|kind| mode == Mode::Full || shown(kind));
    kinds
}

async fn compare(actors: &[&Actor], kind: Kind, mode: Mode) -> Result<Table> {
    let mut rows: Vec<Row> = actors
        .iter()
        .map(|actor| Row {
            way: actor.way,
            samples: Vec::new(),
        })
        .collect();
    if mode == Mode::Full {
        // V8 compiles what is hot once more, and better; pools fill.
        for round in 0..2 {
            one_round(actors, kind, mode, round).await?;
        }
    }
    for round in 0..mode.pick(40, 1) {
        for (number, sample) in one_round(actors, kind, mode, round).await? {
            if let Some(row) = rows.get_mut(number) {
                row.samples.push(sample);
            }
        }
    }
    Ok(Table { kind, rows })
}

/// One sample of each, with its number. One after the other; where only counts matter, all at once.
async fn one_round(actors: &[&Actor], kind: Kind, mode: Mode, round: usize) -> Result<Vec<(usize, Sample)>> {
    let sample = async |number: usize| match actors.get(number) {
        Some(actor) => Ok((number, actor.sample(kind, mode).await?)),
        None => bail!("there is no actor {number}"),
    };
    if mode == Mode::Short {
        return futures::future::try_join_all((0..actors.len()).map(sample)).await;
    }
    let mut samples = Vec::new();
    for number in order(actors.len(), round) {
        samples.push(sample(number).await?);
    }
    Ok(samples)
}

/// Whose turn it is: starts with another one in each round, and every other round goes backwards, so that nobody always
/// follows the same neighbour.
fn order(count: usize, round: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.rotate_left(round % count.max(1));
    if !round.is_multiple_of(2) {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_turn_in_every_round() {
        assert_eq!(order(3, 0), [0, 1, 2]);
        assert_eq!(order(3, 1), [0, 2, 1]);
        assert_eq!(order(3, 2), [2, 0, 1]);
        assert_eq!(order(0, 5), Vec::<usize>::new());
    }

    #[test]
    fn a_difference_is_taken_within_each_round() {
        let sample = |cpu_ns| Sample {
            requests: 10,
            connections: 1,
            responses: 10,
            cpu_ns,
        };
        let row = |way, figures: [u64; 2]| Row {
            way,
            samples: figures.map(sample).into(),
        };
        let kind = Kind {
            protocol: Protocol::Http1,
            proxied: false,
            closing: false,
        };
        // The machine was twice as slow in the second round.
        let rows = vec![
            row(Way::NoFilter, [100_000, 200_000]),
            row(Way::Stock, [120_000, 240_000]),
        ];
        let table = Table { kind, rows };
        assert_eq!(table.cost(Way::NoFilter).unwrap().median, 15.0);
        assert_eq!(table.beyond(Way::Stock, Way::NoFilter), [2.0, 4.0]);
        assert!(table.beyond(Way::Ebb, Way::NoFilter).is_empty() && table.cost(Way::Ebb).is_none());
    }
}
