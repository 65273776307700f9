//! The machine and the versions that figures belong to.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use ebb_e2e::bins::{self, EnvoyVersion};
use serde::{Deserialize, Serialize};

/// Where a run took place, and of what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor, in its own words.
    pub processor: String,
    /// Number of cores.
    pub cores: usize,
    /// Memory, in bytes.
    pub memory: u64,
    /// The kernel's release.
    pub kernel: String,
    /// Of Ebb.
    pub ebb: String,
    /// Of Envoy.
    pub envoy: String,
    /// Of HAProxy.
    pub haproxy: String,
}

impl Machine {
    /// This one, with the parts that lie here.
    ///
    /// # Errors
    /// When a part is not there or does not tell its version.
    pub fn read() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
        let processor = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned());
        let meminfo = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
        let memory = meminfo.lines().find_map(|line| {
            let kilobytes = line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?;
            kilobytes.parse::<u64>().ok()
        });
        Ok(Self {
            processor,
            cores: std::thread::available_parallelism()?.get(),
            memory: memory.context("/proc/meminfo has no MemTotal")? * 1024,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            ebb: first_line(&bins::ebb()?, "--version")?,
            envoy: envoy(&first_line(&bins::envoy(EnvoyVersion::V1_40)?, "--version")?),
            haproxy: haproxy(&first_line(&bins::haproxy()?, "-v")?),
        })
    }

    /// In one line.
    #[must_use]
    pub fn in_words(&self) -> String {
        let gibibytes = self.memory as f64 / f64::from(1 << 30);
        format!(
            "{} cores of {}, {gibibytes:.0} GiB, Linux {}; {}, {}, {}",
            self.cores, self.processor, self.kernel, self.ebb, self.envoy, self.haproxy
        )
    }
}

/// `…/envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`, in short.
fn envoy(line: &str) -> String {
    let version = line.rsplit_once("version: ").map_or(line, |(_, version)| version);
    format!("Envoy {}", version.split('/').nth(1).unwrap_or(version))
}

/// `HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://…`, in short.
fn haproxy(line: &str) -> String {
    line.split_whitespace()
        .filter(|word| *word != "version")
        .take(2)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The first line that is not empty of what a program tells of its version.
fn first_line(program: &Path, argument: &str) -> Result<String> {
    let output = Command::new(program)
        .arg(argument)
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| !line.trim().is_empty());
    Ok(line.unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_short_and_name_no_path() {
        let line = "/opt/x/envoy  version: 9e55809/1.40.0/Clean/RELEASE/BoringSSL";
        assert_eq!(envoy(line), "Envoy 1.40.0");
        assert_eq!(
            haproxy("HAProxy version 2.6.12-1 2026/10/17 - https://haproxy.org/"),
            "HAProxy 2.6.12-1"
        );
    }
}
