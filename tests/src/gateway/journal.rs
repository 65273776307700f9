//! What the small programs of a gateway write down: an object per line, with times of the system's monotonic clock, which
//! is the same for every process.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
};

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A moment, in nanoseconds.
pub type Moment = u64;

/// The present moment.
#[must_use]
pub fn now() -> Moment {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default()
}

/// Something that one process did.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Entry {
    /// When.
    pub at: Moment,
    /// Which process.
    pub who: String,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What a process did.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// It listens.
    Start,
    /// It holds a request until a test releases it.
    Held,
    /// It has answered a request.
    Served {
        /// When the request came.
        began: Moment,
        /// The status of the answer.
        status: u16,
    },
    /// It was told to stop, and ends.
    Term {
        /// Requests that die with it.
        in_flight: usize,
        /// Which processes of the gateway are alive.
        alive: Vec<String>,
    },
}

/// Where a process writes.
#[derive(Debug)]
pub struct Journal {
    file: File,
    who: String,
}

impl Journal {
    /// Opens the file to append to it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path, who: &str) -> Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        Ok(Self {
            file: file.with_context(|| format!("cannot open {}", path.display()))?,
            who: who.to_owned(),
        })
    }

    /// Writes an entry, in one write, so that lines of several processes stay whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note(&self, what: What) -> Result<()> {
        let entry = Entry {
            at: now(),
            who: self.who.clone(),
            what,
        };
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        (&self.file).write_all(&line).context("cannot write the journal")
    }
}

/// Reads a journal in the order in which it was written; empty while there is no file.
///
/// # Errors
/// When it holds something else.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    lines
        .map(|line| serde_json::from_str(line).with_context(|| format!("no journal entry: {line}")))
        .collect()
}

/// The entry in which `who` was told to stop for the last time.
///
/// # Errors
/// When there is none.
pub fn term<'e>(entries: &'e [Entry], who: &str) -> Result<&'e Entry> {
    entries
        .iter()
        .rfind(|entry| entry.who == who && matches!(entry.what, What::Term { .. }))
        .with_context(|| format!("{who} was never told to stop"))
}
