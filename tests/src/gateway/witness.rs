//! Who is alive: the processes of a gateway, known by what stands in their environment.

use std::{collections::BTreeSet, fs, path::Path};

use rustix::process::{Pid, Signal, kill_process};

/// In the environment of everything that a gateway starts: its folder.
pub const GATEWAY: &str = "EBB_TEST_GATEWAY";
/// In the environment of each of its processes, and of what that starts: its name in the configuration.
pub const PROCESS: &str = "EBB_TEST_PROCESS";

/// A living process of a gateway. A zombie is not alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witnessed {
    /// Its pid, as the looker sees it.
    pub pid: i32,
    /// Its name in the configuration; none for `ebb run` itself.
    pub process: Option<String>,
    /// What the system calls it.
    pub command: String,
}

/// Everything alive of the gateway in `folder`.
#[must_use]
pub fn all(folder: &Path) -> Vec<Witnessed> {
    let mark = format!("{GATEWAY}={}", folder.display());
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            // Empty for a zombie, and for one that is about to be.
            let environment = fs::read(entry.path().join("environ")).ok()?;
            let environment = String::from_utf8_lossy(&environment);
            let mut variables = environment.split('\0');
            variables.clone().find(|variable| *variable == mark)?;
            let process = variables.find_map(|variable| variable.strip_prefix(PROCESS)?.strip_prefix('='));
            let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            Some(Witnessed {
                pid,
                process: process.map(str::to_owned),
                command: command.trim_end().to_owned(),
            })
        })
        .collect()
}

/// The names of the living processes of the gateway in `folder`, each once.
#[must_use]
pub fn alive(folder: &Path) -> Vec<String> {
    let names: BTreeSet<String> = all(folder).into_iter().filter_map(|one| one.process).collect();
    names.into_iter().collect()
}

/// As [`alive`], of the gateway that the calling process belongs to.
#[must_use]
pub fn alive_beside_us() -> Vec<String> {
    let folder = std::env::var_os(GATEWAY).unwrap_or_default();
    alive(Path::new(&folder))
}

/// Kills everything of the gateway in `folder`.
pub fn kill_all(folder: &Path) {
    for one in all(folder) {
        if let Some(pid) = Pid::from_raw(one.pid) {
            // It may have ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
