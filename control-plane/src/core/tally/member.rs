//! One member of a drain, and what it counts.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    MOST,
    rows::{Part, Rows},
};
use crate::core::{reading::sum, report::Ended, scope::Said};

/// How many names a member goes on counting that its VM no longer gives.
const MOST_GONE: usize = 1024;

/// Counters of one listener of one member, against where they stood when the drain first heard of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    in_flight: u64,
    started: u64,
    probes: u64,
    marked: u64,
    cut: u64,
    /// Requests that had ended before: `started - in_flight` of the first report.
    base: u64,
    probes_base: u64,
    marked_base: u64,
    cut_base: u64,
    /// The last report that named it, see [`Member::heard`].
    heard: u64,
}

impl Count {
    fn first(said: &Said<'_>) -> Self {
        Self {
            base: said.started.saturating_sub(said.in_flight),
            probes_base: said.probes,
            marked_base: said.marked,
            // A cut may come with the first answer: the one before it may have been passed over.
            cut_base: said.cut.saturating_sub(said.cut_lately),
            ..Self::default()
        }
    }

    /// Requests that Envoy cut during the drain.
    fn cut(&self) -> u64 {
        self.cut.saturating_sub(self.cut_base)
    }

    /// Requests that finished during the drain, and responses that were told to close.
    fn ended(&self) -> (u64, u64) {
        let begun = self.started.saturating_sub(self.base);
        (
            begun.saturating_sub(self.in_flight).saturating_sub(self.cut()),
            self.marked.saturating_sub(self.marked_base),
        )
    }

    /// Requests that have begun during the drain. A load balancer goes on probing whatever is told to clients.
    fn arrivals(&self) -> u64 {
        let probes = self.probes.wrapping_sub(self.probes_base);
        self.started.wrapping_sub(self.base).wrapping_sub(probes)
    }

    /// What it adds to the row of its listener.
    fn part(&self, known: bool) -> Part {
        Part {
            in_flight: if known { self.in_flight } else { 0 },
            requests: self.started.saturating_sub(self.base),
            marked: self.marked.saturating_sub(self.marked_base),
        }
    }
}

/// A member.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) node: Arc<str>,
    pub(super) process: u64,
    pub(super) known: bool,
    pub(super) confirmed: bool,
    counts: BTreeMap<String, Count>,
    /// Reports that it was heard of by; 0 = none since the drain has told it what to do.
    heard: u64,
    /// Arrivals and cut requests of names that are counted no longer.
    past: (u64, u64),
}

impl Member {
    /// One of which nothing is known.
    pub(super) fn new(node: Arc<str>, process: u64) -> Self {
        Self {
            node,
            process,
            known: false,
            confirmed: false,
            counts: BTreeMap::new(),
            heard: 0,
            past: (0, 0),
        }
    }

    pub(super) fn in_flight(&self) -> u64 {
        if self.known { self.counted().min(MOST) } else { 0 }
    }

    /// What it had in flight by its last word, known or not.
    pub(super) fn counted(&self) -> u64 {
        sum(self.counts.values().map(|count| count.in_flight))
    }

    pub(super) fn arrivals(&self) -> u64 {
        let arrivals = self.counts.values().map(Count::arrivals);
        arrivals.fold(self.past.0, u64::wrapping_add)
    }

    /// Whether it has told anything.
    pub(super) fn has_told(&self) -> bool {
        !self.counts.is_empty()
    }

    /// Requests that were cut during the drain, and those that are if it ends now.
    pub(super) fn cut(&self) -> u64 {
        let cut = self.counts.values();
        let cut = cut.map(|count| count.in_flight.saturating_add(count.cut()));
        cut.fold(self.past.1, u64::saturating_add)
    }

    /// Takes in what it says; `was_known` = whether its last word counted.
    pub(super) fn hear<'a>(
        &mut self,
        said: impl Iterator<Item = Said<'a>>,
        was_known: bool,
        rows: &mut Rows,
        ended: &mut Ended,
    ) {
        let before = self.heard;
        self.heard += 1;
        for said in said {
            if !self.counts.contains_key(said.name) {
                let first = Count::first(&said);
                // It has come between two reports, and a request may have come and gone with it.
                if before > 0 && said.started > said.probes {
                    self.past.0 = self.past.0.wrapping_add(1);
                }
                self.counts.insert(said.name.to_owned(), first);
                rows.join(&self.node, said.name);
            }
            let Some(count) = self.counts.get_mut(said.name) else {
                continue;
            };
            if count.heard > 0 && count.heard < before {
                rows.join(&self.node, said.name);
            }
            let (part, finished) = (count.part(was_known), count.ended());
            (count.in_flight, count.started) = (said.in_flight, said.started);
            (count.probes, count.marked, count.cut) = (said.probes, said.marked, said.cut);
            count.heard = self.heard;
            ended.add(&self.node, said.name, finished, count.ended());
            rows.change(&self.node, said.name, part, count.part(true));
        }
        self.miss(before, was_known, rows);
    }

    /// What the VM no longer names is gone, and was at zero before that.
    fn miss(&mut self, before: u64, was_known: bool, rows: &mut Rows) {
        let mut gone = 0;
        for (name, count) in &mut self.counts {
            if count.heard == self.heard {
                continue;
            }
            gone += 1;
            if count.heard == before {
                let part = count.part(was_known);
                count.in_flight = 0;
                rows.change(&self.node, name, part, count.part(true));
                rows.part(&self.node, name);
            }
        }
        if gone <= MOST_GONE {
            return;
        }
        let (heard, past) = (self.heard, &mut self.past);
        self.counts.retain(|_, count| {
            if count.heard == heard {
                return true;
            }
            past.0 = past.0.wrapping_add(count.arrivals());
            past.1 = past.1.saturating_add(count.cut());
            false
        });
    }

    /// Its last word does not count any more.
    pub(super) fn is_unknown(&self, rows: &mut Rows) {
        for (name, count) in &self.counts {
            rows.change(&self.node, name, count.part(true), count.part(false));
        }
    }

    /// Takes what it counts out of the rows; with `keeps` only what is in flight.
    pub(super) fn leave(&mut self, keeps: bool, rows: &mut Rows) {
        for (name, count) in &mut self.counts {
            let part = count.part(self.known);
            count.in_flight = 0;
            let left = if keeps { count.part(false) } else { Part::default() };
            rows.change(&self.node, name, part, left);
            if count.heard == self.heard {
                rows.part(&self.node, name);
            }
        }
    }

    /// What was counted before the drain is dropped.
    pub(super) fn start_over(&mut self) {
        self.counts.clear();
        (self.heard, self.past) = (0, (0, 0));
    }
}
