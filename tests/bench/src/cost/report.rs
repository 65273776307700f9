//! The figures in words and tables.

use std::{cmp::Ordering, fmt::Write as _};

use super::{BUILDS, Cost, Protocol, Row, Table, Way};
use crate::{
    markdown::{self, figure, spread},
    stats::{Spread, confident_median},
};

const HEAD: &str = "\
## Cost in Envoy

Envoy's own CPU time per request, by the kernel's accounts, in microseconds. All Envoys are up at once, with one worker each,
and take turns in every round. *More* is the median of the differences within each round, with the interval in which it lies
with 95 % confidence in brackets; the multiples compare these medians. The client is `h2load`, with 16 connections and one
request at a time on each. Not one request failed, and Envoy counted exactly as many as the client: otherwise there would be
no table.
";

impl Cost {
    /// As a section of Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = HEAD.to_owned();
        for table in &self.tables {
            let part = if table.kind.closing {
                table.closing()
            } else {
                table.serving()
            };
            let _ = write!(text, "\n{part}");
        }
        let _ = write!(text, "\n{}\n{}", self.goals(), self.builds());
        text
    }

    /// What was asked for, and what this run says.
    fn goals(&self) -> String {
        let mut table = markdown::Table::new(&[
            "goal: no more than",
            "filter + gated closer: the stock filter",
            "filter alone: the hand-written floor",
        ]);
        for measured in self.tables.iter().filter(|table| !table.kind.closing) {
            table.row(&[
                measured.kind.words(),
                goal(&measured.beyond(Way::Ebb, Way::Stock)),
                goal(&measured.beyond(Way::Filter, Way::Floor)),
            ]);
        }
        format!(
            "How far this run is from the goals, in microseconds per request:\n\n{}",
            table.finish()
        )
    }

    /// What was tried, and what of it pays.
    fn builds(&self) -> String {
        let Some(measured) = self.tables.iter().find(|table| table.kind.has_builds()) else {
            return String::new();
        };
        let mut table =
            markdown::Table::new(&["instead of the shipped module", "µs more", "the shipped one"]);
        for way in BUILDS {
            let beyond = measured.beyond(way, Way::Filter);
            let verdict = match (beyond.is_empty(), sign(&beyond)) {
                (true, _) => "not compared: `wasm-opt` is not installed",
                (_, Ordering::Greater) => "is cheaper",
                (_, Ordering::Less) => "is dearer",
                (_, Ordering::Equal) => "is no different, as far as this run can tell",
            };
            table.row(&[way.words().to_owned(), difference(&beyond), verdict.to_owned()]);
        }
        format!(
            "What of the build pays, with the filter alone ({}). The shipped module exports only the callbacks that the filter \
             uses, Envoy is allowed to call no others, and `wasm-opt` is no part of the build. While nothing drains, the filter \
             makes no hostcall for a request.\n\n{}",
            measured.kind.words(),
            table.finish()
        )
    }
}

impl Table {
    fn serving(&self) -> String {
        let mut table =
            markdown::Table::new(&["filters", "µs per request", "µs more", "of the stock filter's"]);
        let stock = median(&self.beyond(Way::Stock, Way::NoFilter));
        for row in &self.rows {
            let beyond = self.beyond(row.way, Way::NoFilter);
            let multiple = median(&beyond).zip(stock).map(|(beyond, stock)| beyond / stock);
            let first = row.way == Way::NoFilter;
            table.row(&[
                row.way.words().to_owned(),
                spread(self.cost(row.way), 1),
                if first {
                    figure(None, 0)
                } else {
                    difference(&beyond)
                },
                multiple
                    .filter(|_| !first)
                    .map_or_else(|| figure(None, 0), |part| format!("{part:.2} ×")),
            ]);
        }
        format!(
            "**{}** ({})\n\n{}",
            self.kind.words(),
            self.scope(),
            table.finish()
        )
    }

    fn closing(&self) -> String {
        let mut table = markdown::Table::new(&["who closes", "µs per request", "µs more"]);
        for row in &self.rows {
            let beyond = self.beyond(row.way, Way::ByItself);
            table.row(&[
                row.way.words().to_owned(),
                spread(self.cost(row.way), 1),
                if row.way == Way::ByItself {
                    figure(None, 0)
                } else {
                    difference(&beyond)
                },
            ]);
        }
        let client = match self.kind.protocol {
            Protocol::Http1 => "",
            Protocol::Http2 => {
                "; the client is the tests' own, since `h2load` does not come back after a GOAWAY"
            }
        };
        format!(
            "**{}, and every response closes its connection** ({}{client})\n\n{}",
            self.kind.words(),
            self.scope(),
            table.finish()
        )
    }

    fn scope(&self) -> String {
        let rounds = self.rows.iter().map(|row| row.samples.len()).min();
        let requests = |row: &Row| row.samples.iter().map(|sample| sample.requests).sum::<u64>();
        let requests = self.rows.iter().map(requests).min();
        format!(
            "{} rounds, {} requests for each row",
            rounds.unwrap_or(0),
            markdown::whole(requests.unwrap_or(0))
        )
    }
}

fn median(figures: &[f64]) -> Option<f64> {
    Spread::of(figures).map(|spread| spread.median)
}

/// Differences within rounds: their median, and with enough rounds how well it is known.
fn difference(beyond: &[f64]) -> String {
    confident_median(beyond).map_or_else(|| figure(median(beyond), 2), |known| spread(Some(known), 2))
}

/// Whether differences are known to lie on one side of zero.
fn sign(beyond: &[f64]) -> Ordering {
    match confident_median(beyond) {
        Some(known) if known.least > 0.0 => Ordering::Greater,
        Some(known) if known.most < 0.0 => Ordering::Less,
        _ => Ordering::Equal,
    }
}

fn goal(beyond: &[f64]) -> String {
    let verdict = match sign(beyond) {
        _ if beyond.is_empty() => return figure(None, 2),
        Ordering::Less => "**met**",
        Ordering::Greater => "**missed**",
        Ordering::Equal => "no difference that this run can tell",
    };
    format!("{}: {verdict}", difference(beyond))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::{Kind, Sample};

    #[test]
    fn a_goal_is_met_or_missed_only_if_that_is_sure() {
        assert_eq!(goal(&[-1.0; 8]), "-1.00 (-1.00–-1.00): **met**");
        assert_eq!(goal(&[1.0; 8]), "1.00 (1.00–1.00): **missed**");
        let unsure = [-1.0, 1.0, 2.0, -2.0, 1.0, -1.0, 0.0, 0.0];
        assert!(goal(&unsure).ends_with("no difference that this run can tell"));
        assert!(goal(&[1.0; 3]).ends_with("no difference that this run can tell"));
        assert_eq!(goal(&[]), "–");
    }

    #[test]
    fn the_section_has_a_row_for_each_way() {
        let sample = |cpu_ns| Sample {
            requests: 1000,
            connections: 16,
            responses: 1000,
            cpu_ns,
        };
        let kind = Kind {
            protocol: Protocol::Http1,
            proxied: false,
            closing: false,
        };
        let costs = [
            (Way::NoFilter, 10),
            (Way::Stock, 12),
            (Way::Floor, 11),
            (Way::Filter, 11),
            (Way::Ebb, 13),
        ];
        let rows = costs.map(|(way, micros)| Row {
            way,
            samples: vec![sample(micros * 1_000_000); 8],
        });
        let text = Cost {
            tables: vec![Table {
                kind,
                rows: rows.into(),
            }],
        }
        .markdown();
        assert!(text.starts_with("## Cost in Envoy\n"));
        let rows = [
            "| no filter | 10.0 (10.0–10.0) | – | – |",
            "serving | 13.0 (13.0–13.0) | 3.00 (3.00–3.00) | 1.50 × |",
            "| HTTP/1.1, direct response | 1.00 (1.00–1.00): **missed** | 0.00 (0.00–0.00): no difference",
            "| Ebb's filter after `wasm-opt -O3` | – | not compared",
        ];
        for row in rows {
            assert!(text.contains(row), "{row} is missing:\n{text}");
        }
    }
}
