//! Child processes: started in a process group of their own, signalled as a group, and reaped together with every orphan
//! that falls to Ebb, as PID 1 or as their subreaper.
//!
//! A child is gone only when the last process of its group is: a pid is signalled only before that, and both happen
//! under one lock, so that a reused pid is never signalled.

use std::{
    collections::HashMap,
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{ChildStderr, ChildStdout, Command as StdCommand, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{Signal, kill, killpg},
    },
    unistd::{Pid, getpgid},
};
use rustix::process::{WaitOptions, wait};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::{machine::ExitStatus, spawner::Spawner, succession::MARK};
use crate::{config::Command, limits::Inherited};

/// How often a group whose first process has exited is looked at besides every SIGCHLD: the last of it may be reaped by
/// somebody else.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Where a child is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Its first process is alive.
    Alive,
    /// Its first process has exited; others of its group are alive.
    Leftovers(ExitStatus),
    /// Its whole group is gone.
    Gone(ExitStatus),
}

/// A child that was just started.
#[derive(Debug)]
pub struct Child {
    /// Its pid, which is its process group too.
    pub pid: u32,
    /// Its standard output.
    pub stdout: Option<ChildStdout>,
    /// Its standard error.
    pub stderr: Option<ChildStderr>,
    /// Its life.
    pub life: watch::Receiver<Life>,
}

/// Why a child could not be started.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SpawnError {
    /// In words, with what to look at.
    message: String,
    /// As shells give it: 127 not found, 126 not executable.
    pub code: i32,
}

/// All children of this process. There must be one only: it reaps whatever is a child, also what it did not start.
#[derive(Clone, Debug)]
pub struct Children {
    lives: Arc<Mutex<HashMap<i32, watch::Sender<Life>>>>,
    spawner: Spawner,
    inherited: Inherited,
}

/// A process and the others of the group that it leads, as they are now.
#[must_use]
pub fn group(leader: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let others = pids.filter(|pid| *pid != leader && is_of_group(*pid, leader));
    std::iter::once(leader).chain(others).collect()
}

/// Whether a process is of this group now.
#[must_use]
pub fn is_of_group(pid: u32, leader: u32) -> bool {
    // Not that of `rustix`, which panics at the group 0 of kernel threads.
    let group = getpgid(Some(Pid::from_raw(pid.cast_signed())));
    group.is_ok_and(|group| group.as_raw().unsigned_abs() == leader)
}

impl Children {
    /// Becomes the reaper of every descendant and begins to reap. What it starts gets the `inherited` limit of open files.
    ///
    /// # Errors
    /// The system refuses that, or a thread.
    pub fn new(inherited: Inherited) -> io::Result<Self> {
        prctl::set_child_subreaper(true)?;
        let mut exits = signal(SignalKind::child())?;
        let children = Self {
            lives: Arc::default(),
            spawner: Spawner::new()?,
            inherited,
        };
        let reaper = children.clone();
        tokio::spawn(async move {
            loop {
                let leftovers = reaper.reap();
                let look_again = async {
                    if leftovers {
                        tokio::time::sleep(LOOK_AGAIN).await;
                    } else {
                        std::future::pending().await
                    }
                };
                tokio::select! {
                    received = exits.recv() => if received.is_none() { return },
                    () = look_again => {}
                }
            }
        });
        Ok(children)
    }

    /// Starts a child, with its output in pipes. Its environment holds the `mark`, by which a successor finds it.
    ///
    /// # Errors
    /// [`SpawnError`].
    pub fn spawn(&self, command: &Command, mark: &str) -> Result<Child, SpawnError> {
        let mut prepared = prepare(command);
        prepared.env(MARK, mark);
        // It must be known before it can be reaped.
        let mut children = self.lock();
        let mut child = self
            .spawner
            .spawn(prepared)
            .map_err(|error| explain(command, &error))?;
        let pid = child.id();
        self.inherited.give(pid);
        let (sender, life) = watch::channel(Life::Alive);
        children.insert(pid.cast_signed(), sender);
        Ok(Child {
            pid,
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            life,
        })
    }

    /// Signals the group of a child; nothing happens if it is gone.
    pub fn signal(&self, pid: u32, signal: Signal) {
        let children = self.lock();
        let pid = pid.cast_signed();
        let alive = children
            .get(&pid)
            .is_some_and(|life| !matches!(*life.borrow(), Life::Gone(_)));
        // A group whose members have all exited but are not yet reaped takes no signal, and needs none.
        if alive
            && let Err(error) = killpg(Pid::from_raw(pid), signal)
            && error != Errno::ESRCH
        {
            tracing::warn!(pid, %signal, %error, "cannot signal");
        }
    }

    /// Signals a child itself, and not the others of its group; nothing happens if it has exited.
    pub fn relay(&self, pid: u32, signal: Signal) {
        let children = self.lock();
        let pid = pid.cast_signed();
        // Not reaped, so its pid is its own.
        let alive = children
            .get(&pid)
            .is_some_and(|life| *life.borrow() == Life::Alive);
        if alive && let Err(error) = kill(Pid::from_raw(pid), signal) {
            tracing::warn!(pid, %signal, %error, "cannot signal");
        }
    }

    /// Kills every remaining descendant, also those that left their group, until there is none. Takes at most `within`.
    pub async fn sweep(&self, within: Duration) {
        let until = tokio::time::Instant::now() + within;
        while tokio::time::Instant::now() < until {
            self.reap();
            let left = orphans();
            if left.is_empty() {
                return;
            }
            for pid in left {
                tracing::warn!(pid, "killing a process that outlived the one that started it");
                // One that exits meanwhile stays a zombie, and its pid taken, until it is reaped here.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Reaps whatever has exited. Whether there are groups without their first process.
    fn reap(&self) -> bool {
        let mut children = self.lock();
        // Not the one of `nix`, which loses a child that a real-time signal ended. An error: there is no child.
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let status = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => ExitStatus::Code(code),
                (None, Some(signal)) => ExitStatus::Signal(signal),
                (None, None) => continue,
            };
            if let Some(life) = children.get(&pid.as_raw_nonzero().get()) {
                life.send_replace(Life::Leftovers(status));
            }
        }
        let mut leftovers = false;
        children.retain(|pid, life| {
            let Life::Leftovers(status) = *life.borrow() else {
                return true;
            };
            let empty = killpg(Pid::from_raw(*pid), None) == Err(Errno::ESRCH);
            leftovers |= !empty;
            if empty {
                life.send_replace(Life::Gone(status));
            }
            !empty
        });
        leftovers
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, watch::Sender<Life>>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn prepare(command: &Command) -> StdCommand {
    let mut prepared = StdCommand::new(&command.program);
    prepared
        .args(&command.arguments)
        .envs(&command.env)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    if let Some(directory) = &command.working_dir {
        prepared.current_dir(directory);
    }
    if let Some(identity) = command.user {
        // As root this also drops the supplementary groups.
        prepared.uid(identity.uid).gid(identity.gid);
    }
    prepared
}

fn explain(command: &Command, error: &io::Error) -> SpawnError {
    let directory = command
        .working_dir
        .as_deref()
        .filter(|directory| !directory.is_dir());
    let code = match error.kind() {
        io::ErrorKind::NotFound => 127,
        _ => 126,
    };
    let message = match (directory, error.kind()) {
        (Some(directory), _) => format!("working_dir {} is not a directory", directory.display()),
        (None, io::ErrorKind::NotFound) => format!("command {:?} is not found", command.program),
        (None, io::ErrorKind::PermissionDenied) if command.user.is_some() => {
            format!(
                "command {:?} cannot be run as that user: {error}",
                command.program
            )
        }
        _ => format!("command {:?} cannot be run: {error}", command.program),
    };
    SpawnError { message, code }
}

/// Children of this process that are not zombies.
fn orphans() -> Vec<i32> {
    let parent = std::process::id().to_string();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.flatten().filter_map(|entry| {
        entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
    });
    pids.filter(|pid| is_child(&Path::new("/proc").join(pid.to_string()), &parent))
        .collect()
}

fn is_child(process: &Path, parent: &str) -> bool {
    let Ok(stat) = std::fs::read_to_string(process.join("stat")) else {
        return false;
    };
    // `pid (name) state ppid …`, where the name may hold anything.
    let mut fields = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace();
    let state = fields.next();
    let ppid = fields.next();
    ppid == Some(parent) && !matches!(state, Some("Z" | "X"))
}
