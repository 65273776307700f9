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
            envoy: first_line(&bins::envoy(EnvoyVersion::V1_40)?, "--version")?,
            haproxy: first_line(&bins::haproxy()?, "-v")?,
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

/// The first line that is not empty of what a program tells of its version; of a path in it only the last part.
fn first_line(program: &Path, argument: &str) -> Result<String> {
    let output = Command::new(program)
        .arg(argument)
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| !line.trim().is_empty());
    let words = line.unwrap_or_default().split_whitespace();
    let words = words.map(|word| word.rsplit('/').find(|part| !part.is_empty() && word.starts_with('/')).unwrap_or(word));
    Ok(words.collect::<Vec<_>>().join(" "))
}
