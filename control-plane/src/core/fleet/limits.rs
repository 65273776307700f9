//! How much filters may have the control plane remember. Who is beyond a limit is refused, in words, and unknown from then on:
//! what it has in flight is not known, which is not zero.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::{Duration, Instant},
};

use ebb_proto::v1;

use super::{Peer, ReporterRecord};

/// The longest name that a filter may give, in bytes.
pub const LONGEST_NAME: usize = 512;

/// The longest text of a request that a filter lists, in bytes: routes are named by whoever makes them.
pub const LONGEST_TEXT: usize = 1024;

/// The most listeners, and the most upstream endpoints, of one report.
pub const MOST_NAMES: usize = 4096;

/// The most listener names that one VM may have had within [`NAMES_WITHIN`]: the most of a report, and as many in their place.
pub const MOST_NAMES_OVER_TIME: usize = 2 * MOST_NAMES;

/// See [`MOST_NAMES_OVER_TIME`].
pub const NAMES_WITHIN: Duration = Duration::from_secs(600);

/// The most reporters of one peer: attached, or expected. Behind a NAT or a proxy a peer is many Envoys.
pub const MOST_REPORTERS_OF_PEER: usize = 16_384;

/// The most reporters of one node.
pub const MOST_REPORTERS_OF_NODE: usize = 4096;

/// The most that the last reports of a peer's reporters may take, in bytes, with 128 more for each name.
pub const MOST_BYTES_OF_PEER: usize = 32 << 20;

/// What a name takes besides its letters, in bytes.
const PER_NAME: usize = 128;

/// What is too much.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    /// Names in a report.
    #[error("{0}: {1} in one report, at most {MOST_NAMES}")]
    Many(&'static str, usize),
    /// A name.
    #[error("{0}: longer than {1} bytes")]
    Long(&'static str, usize),
    /// No name at all.
    #[error("{0}: empty")]
    Empty(&'static str),
    /// Names over time.
    #[error("listeners: more than {MOST_NAMES_OVER_TIME} different names within {NAMES_WITHIN:?}")]
    OverTime,
    /// All names of a peer.
    #[error("listeners, upstreams: those of its peer take more than {} MiB", MOST_BYTES_OF_PEER >> 20)]
    OfPeer,
    /// Reporters.
    #[error("too many reporters of its {0}, at most {1}")]
    Reporters(&'static str, usize),
}

/// Whether a report is one that can be remembered and shown.
///
/// # Errors
/// The first thing that is not.
pub fn check(report: &v1::FilterReport) -> Result<(), Excess> {
    for (field, count) in [
        ("listeners", report.listeners.len()),
        ("upstreams", report.upstreams.len()),
    ] {
        if count > MOST_NAMES {
            return Err(Excess::Many(field, count));
        }
    }
    let listeners = report.listeners.iter().map(|said| ("listeners.name", &said.name));
    let upstreams = report
        .upstreams
        .iter()
        .map(|said| ("upstreams.address", &said.address));
    let blockers = report.blockers.iter().flat_map(|blocker| {
        let texts = [
            &blocker.listener,
            &blocker.route,
            &blocker.upstream,
            &blocker.path,
        ];
        texts.map(|text| ("blockers", text))
    });
    let named = listeners
        .clone()
        .chain(upstreams)
        .map(|named| (named, LONGEST_NAME));
    for ((field, text), longest) in named.chain(blockers.map(|text| (text, LONGEST_TEXT))) {
        if text.len() > longest {
            return Err(Excess::Long(field, longest));
        }
    }
    match listeners.clone().find(|(_, name)| name.is_empty()) {
        Some((field, _)) => Err(Excess::Empty(field)),
        None => Ok(()),
    }
}

/// What remembering a report takes, in bytes.
pub(super) fn bytes(report: &v1::FilterReport) -> usize {
    let listeners = report.listeners.iter().map(|said| said.name.len());
    let upstreams = report.upstreams.iter().map(|said| said.address.len());
    listeners
        .chain(upstreams)
        .map(|name| name.saturating_add(PER_NAME))
        .sum()
}

/// What remembering the names of a record takes, in bytes.
pub(super) fn bytes_of(record: &ReporterRecord) -> usize {
    let names = record.listeners.iter().map(String::len);
    names.map(|name| name.saturating_add(PER_NAME)).sum()
}

/// What a peer has.
#[derive(Debug, Default)]
struct Use {
    reporters: usize,
    bytes: usize,
}

/// What each peer has.
#[derive(Debug, Default)]
pub(super) struct Peers(HashMap<Option<Peer>, Use>);

impl Peers {
    /// Whether a peer may have so many more reporters.
    pub(super) fn have_room(&self, peer: Option<Peer>, more: usize) -> Result<(), Excess> {
        let has = self.0.get(&peer).map_or(0, |uses| uses.reporters);
        if has.saturating_add(more) > MOST_REPORTERS_OF_PEER {
            return Err(Excess::Reporters("peer", MOST_REPORTERS_OF_PEER));
        }
        Ok(())
    }

    /// A reporter of it is remembered.
    pub(super) fn join(&mut self, peer: Option<Peer>, bytes: usize) {
        let uses = self.0.entry(peer).or_default();
        uses.reporters += 1;
        uses.bytes = uses.bytes.saturating_add(bytes);
    }

    /// A reporter of it is not any more.
    pub(super) fn part(&mut self, peer: Option<Peer>, bytes: usize) {
        let Some(uses) = self.0.get_mut(&peer) else { return };
        uses.reporters = uses.reporters.saturating_sub(1);
        uses.bytes = uses.bytes.saturating_sub(bytes);
        if uses.reporters == 0 {
            self.0.remove(&peer);
        }
    }

    /// A reporter of it takes so much in place of what it took.
    pub(super) fn change(&mut self, peer: Option<Peer>, before: usize, now: usize) -> Result<(), Excess> {
        let uses = self.0.entry(peer).or_default();
        let bytes = uses.bytes.saturating_sub(before).saturating_add(now);
        if now > before && bytes > MOST_BYTES_OF_PEER {
            return Err(Excess::OfPeer);
        }
        uses.bytes = bytes;
        Ok(())
    }
}

/// The listener names that a VM has had lately.
#[derive(Debug)]
pub(super) struct Named {
    since: Instant,
    hashes: HashSet<u64>,
}

impl Named {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            hashes: HashSet::new(),
        }
    }

    /// It has these.
    pub(super) fn hear<'a>(
        &mut self,
        names: impl Iterator<Item = &'a String>,
        now: Instant,
    ) -> Result<(), Excess> {
        if now.saturating_duration_since(self.since) >= NAMES_WITHIN {
            *self = Self::new(now);
        }
        let hash = |name: &String| {
            let mut hasher = DefaultHasher::new();
            name.hash(&mut hasher);
            hasher.finish()
        };
        let new: HashSet<u64> = names
            .map(hash)
            .filter(|hash| !self.hashes.contains(hash))
            .collect();
        // What is refused is not counted: who goes back to what it had is heard.
        if self.hashes.len() + new.len() > MOST_NAMES_OVER_TIME {
            return Err(Excess::OverTime);
        }
        self.hashes.extend(new);
        Ok(())
    }
}
