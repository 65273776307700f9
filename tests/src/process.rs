//! A child process that cannot outlive its test.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};
use tokio::process::{Child, Command};

use crate::wait;

const SHOWN_LINES: usize = 60;
const REAP_BOUND: Duration = Duration::from_secs(10);

/// What to start.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What messages and the log file call it.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Added to the environment.
    pub env: Vec<(OsString, OsString)>,
    /// Where standard output and standard error go; appended to.
    pub log: PathBuf,
    /// Whether the end of the log is printed when the process is dropped.
    pub show_log: bool,
}

/// A running child in its own process group. Dropping it kills the group and reaps the child; if this process dies
/// first, the kernel kills the child.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    show_log: bool,
    group: Option<Pid>,
    child: Child,
}

impl Process {
    /// Starts the process.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be started.
    pub fn spawn(spec: Spec) -> Result<Self> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&spec.log)
            .with_context(|| format!("cannot open {}", spec.log.display()))?;
        let mut command = Command::new(&spec.program);
        command
            .args(&spec.args)
            .envs(spec.env)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = spawn_bound_to_us(&mut command)
            .with_context(|| format!("cannot start {} ({})", spec.name, spec.program.display()))?;
        let group = group_of(&child);
        Ok(Self {
            name: spec.name,
            log: spec.log,
            show_log: spec.show_log,
            group,
            child,
        })
    }

    /// The process id; none once it has been reaped.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends `signal` to the process group.
    ///
    /// # Errors
    /// When the process has ended already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let (Some(group), Some(_)) = (self.group, self.child.id()) else {
            bail!("cannot send {signal:?} to {}: it has ended", self.name)
        };
        kill_process_group(group, signal).with_context(|| format!("cannot send {signal:?} to {}", self.name))
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// When it still runs after `bound`.
    pub async fn exit(&mut self, bound: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        Ok(wait::within(what, bound, self.child.wait()).await??)
    }

    /// Fails if the process has ended.
    ///
    /// # Errors
    /// When it has ended: with its status and the end of its log.
    pub fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!(
                "{} has ended with {}\n{}",
                self.name,
                describe(status),
                self.log_tail()
            ),
        }
    }

    /// Everything it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        read_lossy(&self.log)
    }

    fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        let skipped = lines.len().saturating_sub(SHOWN_LINES);
        let tail = lines.get(skipped..).unwrap_or_default().join("\n");
        format!(
            "--- log of {} ({skipped} lines above) ---\n{tail}\n---",
            self.name
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.id().is_some() {
            if let Some(group) = self.group {
                // It may have ended by itself meanwhile; then there is nothing to kill.
                let _ = kill_process_group(group, Signal::KILL);
            }
            let start = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) {
                if start.elapsed() > REAP_BOUND {
                    eprintln!("{} could not be reaped within {REAP_BOUND:?}", self.name);
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        if self.show_log {
            eprintln!("{}", self.log_tail());
        }
    }
}

/// Starts `command` in its own process group and has the kernel kill it if the starting thread dies.
///
/// # Errors
/// When it cannot be started.
pub fn spawn_bound_to_us(command: &mut Command) -> io::Result<Child> {
    command.process_group(0).kill_on_drop(true);
    let die_with_parent = || set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from);
    #[allow(unsafe_code)]
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; the closure makes one system call.
    unsafe {
        command.pre_exec(die_with_parent);
    }
    command.spawn()
}

/// What an exit status says, in words.
#[must_use]
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn group_of(child: &Child) -> Option<Pid> {
    child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw)
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
