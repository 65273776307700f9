//! Processes of a run, by the mark in their environment: also those whose pids it had no time to keep.

use std::fs;

use super::succession::{MARK, RunRecord, mark};
use crate::local::start_ticks;

/// A process of a dead run, by the mark in its environment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Marked {
    /// In ticks since the boot.
    pub(super) started: u64,
    /// Its pid.
    pub(super) pid: u32,
    /// The process of the configuration that it is, or descends from.
    pub(super) name: String,
}

/// Every living process with the mark of this run, oldest first.
pub(super) fn all(run: &RunRecord) -> Vec<Marked> {
    if run.id.is_empty() {
        return Vec::new();
    }
    let prefix = format!("{MARK}={}", mark(&run.id, ""));
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let others = pids.filter(|pid| *pid != std::process::id());
    let mut marked: Vec<Marked> = others
        .filter_map(|pid| {
            // Empty of a zombie; not to be read of another user's.
            let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
            let mut variables = environment.split(|byte| *byte == 0);
            let name = variables.find_map(|variable| variable.strip_prefix(prefix.as_bytes()))?;
            Some(Marked {
                started: start_ticks(pid.cast_signed())?,
                pid,
                name: String::from_utf8_lossy(name).into_owned(),
            })
        })
        .collect();
    marked.sort();
    marked
}
