//! Why a drain is not started, in words that say what to do.

use std::{collections::BTreeSet, fmt};

use thiserror::Error;

use super::{drains::MAX_REQUEST_ID, policy::PolicyError};

/// Why a drain was not started.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StartError {
    /// The policy cannot be.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The `request_id` is too long.
    #[error("request_id: {0} bytes, at most {MAX_REQUEST_ID}")]
    LongRequestId(usize),
    /// The `request_id` belongs to another drain.
    #[error(
        "request_id: {request_id:?} is that of drain {drain}, of another scope or policy; choose a new one"
    )]
    TakenRequestId {
        /// What the caller chose.
        request_id: String,
        /// The drain that has it.
        drain: String,
    },
    /// No Envoy is attached.
    #[error(
        "no Envoy is attached: load the filter (`ebb envoy-config`) and point its cluster at this control plane"
    )]
    NobodyAttached,
    /// Not a node.
    #[error("no node {name:?} is attached; attached: {known}")]
    UnknownNode {
        /// What the caller named.
        name: String,
        /// What there is.
        known: Listed,
    },
    /// Listeners and upstream endpoints in one scope.
    #[error("scope: names listeners and upstreams; start a drain for each")]
    MixedScope,
    /// Not an upstream endpoint that any node in scope has sent to.
    #[error(
        "no requests towards upstream {name:?} were seen; seen: {known} (filters count upstreams where their configuration \
         says `upstreams`)"
    )]
    UnknownUpstream {
        /// What the caller named.
        name: String,
        /// What there is.
        known: Listed,
    },
    /// Evidence `admin`, and no admin endpoint.
    #[error(
        "policy.evidence: no admin endpoint of node {0:?} is configured, or it does not answer; use auto or filter"
    )]
    NoAdmin(String),
    /// Evidence `filter`, and a node in scope that only its admin endpoint tells of.
    #[error("policy.evidence: no filter of node {0:?} counts there, only its Envoy does; use auto or admin")]
    NoFilter(String),
    /// Upstream endpoints, and filters that do not count them.
    #[error(
        "scope.upstreams: the filters of node {0:?} do not count upstreams on all of its listeners; set `upstreams` in each \
         of their configurations, put the filter into the clusters, or leave the node out"
    )]
    NotCounted(String),
    /// Not a listener of any node in scope.
    #[error("no listener {name:?} on the nodes in scope; known: {known}")]
    UnknownListener {
        /// What the caller named.
        name: String,
        /// What there is.
        known: Listed,
    },
}

/// Whether all names are known; else the first that is not, and what is: no more than are listed, and how many others.
pub(super) fn named<'a, Known: Iterator<Item = &'a str>>(
    names: &[String],
    known: impl Fn() -> Known,
) -> Result<(), (String, Listed)> {
    let mut missing: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for known in known() {
        if missing.remove(known) && missing.is_empty() {
            return Ok(());
        }
    }
    let first = missing.first().map(|name| shortened(name)).unwrap_or_default();
    let all: BTreeSet<&str> = known().collect();
    let names = all.iter().take(LISTED).map(|name| shortened(name)).collect();
    let more = all.len().saturating_sub(LISTED);
    Err((first, Listed { names, more }))
}

/// As many names as help: a refusal travels in a header, and clients refuse headers of more than 16 KiB.
const LISTED: usize = 20;

/// The longest name that is repeated in full, in characters.
const LISTED_CHARACTERS: usize = 100;

/// Names that there are, to choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    names: Vec<String>,
    /// How many there are besides.
    more: usize,
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.names.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&self.names.join(", "))?;
        match self.more {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

fn shortened(name: &str) -> String {
    match name.char_indices().nth(LISTED_CHARACTERS) {
        Some((end, _)) => format!("{}...", name.get(..end).unwrap_or_default()),
        None => name.to_owned(),
    }
}
