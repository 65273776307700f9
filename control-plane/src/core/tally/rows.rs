//! What a drain counts per node and listener (or upstream endpoint), kept up to date as members speak, so that showing it costs
//! no more than what is shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ebb_proto::v1;

/// As much of them is shown, in bytes on the wire: 256 drains are remembered, and each has its own.
const SHOWN: usize = 256 << 10;

/// What a row takes on the wire besides its names, in bytes.
const PER_ROW: usize = 24;

/// How many rows are kept that no member names any more.
const MOST_GONE: usize = 4096;

/// What one member adds to a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) in_flight: u64,
    pub(super) requests: u64,
    pub(super) marked: u64,
}

/// Sums of parts. Wide enough for any number of them.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    in_flight: u128,
    requests: u128,
    marked: u128,
    /// Members that name it.
    members: usize,
}

impl Row {
    fn is_nothing(&self) -> bool {
        self.members == 0 && self.in_flight == 0 && self.requests == 0 && self.marked == 0
    }

    /// Whether it is history.
    fn is_gone(&self) -> bool {
        self.members == 0 && !self.is_nothing()
    }
}

/// All rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    rows: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Row>>,
    /// Those with requests in flight: they are shown first.
    busy: BTreeSet<(Arc<str>, Arc<str>)>,
    count: usize,
    /// Those that no member names.
    gone: usize,
}

impl Rows {
    /// A member names it.
    pub(super) fn join(&mut self, node: &Arc<str>, name: &str) {
        self.with(node, name, |row| row.members += 1);
    }

    /// A member names it no more.
    pub(super) fn part(&mut self, node: &Arc<str>, name: &str) {
        let drops = self.gone >= MOST_GONE;
        self.with(node, name, |row| {
            row.members = row.members.saturating_sub(1);
            if row.members == 0 && drops {
                *row = Row::default();
            }
        });
    }

    /// A member adds something else now.
    pub(super) fn change(&mut self, node: &Arc<str>, name: &str, before: Part, now: Part) {
        if before == now {
            return;
        }
        self.with(node, name, |row| {
            let sum = |sum: &mut u128, before: u64, now: u64| {
                *sum = sum.saturating_sub(before.into()).saturating_add(now.into());
            };
            sum(&mut row.in_flight, before.in_flight, now.in_flight);
            sum(&mut row.requests, before.requests, now.requests);
            sum(&mut row.marked, before.marked, now.marked);
        });
    }

    fn with(&mut self, node: &Arc<str>, name: &str, change: impl FnOnce(&mut Row)) {
        if !self.rows.contains_key(node) {
            self.rows.insert(node.clone(), BTreeMap::new());
        }
        let Some(of_node) = self.rows.get_mut(node) else {
            return;
        };
        let known = of_node
            .get_key_value(name)
            .map(|(name, row)| (name.clone(), *row));
        let is_new = known.is_none();
        let (name, mut row) = known.unwrap_or_else(|| (name.into(), Row::default()));
        let (was_busy, was_gone) = (row.in_flight > 0, row.is_gone());
        change(&mut row);
        self.gone -= usize::from(was_gone).min(self.gone);
        self.gone += usize::from(row.is_gone());
        match (was_busy, row.in_flight > 0) {
            (false, true) => drop(self.busy.insert((node.clone(), name.clone()))),
            (true, false) => drop(self.busy.remove(&(node.clone(), name.clone()))),
            _ => {}
        }
        if !row.is_nothing() {
            of_node.insert(name, row);
            self.count += usize::from(is_new);
            return;
        }
        of_node.remove(&name);
        self.count -= usize::from(!is_new).min(self.count);
        if of_node.is_empty() {
            self.rows.remove(node);
        }
    }

    /// In order, as many as are shown, and how many are not. Those with requests in flight come before others.
    pub(super) fn shown(&self) -> (Vec<v1::DrainListener>, usize) {
        let row = |node: &Arc<str>, name: &Arc<str>| {
            Some((node.clone(), name.clone(), *self.rows.get(node)?.get(name)?))
        };
        let busy = self.busy.iter().filter_map(|(node, name)| row(node, name));
        let all = self.rows.iter().flat_map(|(node, rows)| {
            rows.iter()
                .filter(|(_, row)| row.in_flight == 0)
                .map(|(name, row)| (node.clone(), name.clone(), *row))
        });
        let mut room = SHOWN;
        let fits = busy
            .chain(all)
            .take_while(|(node, name, _)| takes(node, name, &mut room));
        let wire = |sum: u128| u64::try_from(sum).unwrap_or(u64::MAX);
        let mut shown: Vec<_> = fits
            .map(|(node, name, row)| v1::DrainListener {
                node: node.to_string(),
                name: name.to_string(),
                in_flight: wire(row.in_flight),
                requests_during_drain: wire(row.requests),
                marked_during_drain: wire(row.marked),
            })
            .collect();
        shown.sort_by(|a, b| (&a.node, &a.name).cmp(&(&b.node, &b.name)));
        let omitted = self.count.saturating_sub(shown.len());
        (shown, omitted)
    }
}

/// Whether a row still fits into the room that is left.
fn takes(node: &str, name: &str, room: &mut usize) -> bool {
    let left = room.checked_sub(node.len() + name.len() + PER_ROW);
    *room = left.unwrap_or(0);
    left.is_some()
}

/// Leaves of rows that an earlier control plane kept as many as are shown, and returns how many that leaves out.
pub(in crate::core) fn fit(rows: &mut Vec<v1::DrainListener>) -> usize {
    let before = rows.len();
    let mut room = SHOWN;
    rows.retain(|row| takes(&row.node, &row.name, &mut room));
    before - rows.len()
}
