//! A process that Ebb did not start, held by a pidfd: it is that process, or none; a reused pid is never signalled.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::sys::signal::Signal;
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal},
};
use tokio::sync::watch;

use crate::{config::AttachTo, local::start_ticks};

/// The system tells when a process was started to the second, and in ticks since its boot.
const CLOCKS_DIFFER: Duration = Duration::from_secs(2);

/// An attached process.
#[derive(Clone, Debug)]
pub struct Attached {
    pid: u32,
    fd: Arc<OwnedFd>,
    exited: watch::Receiver<bool>,
}

/// Why a process cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The pid file cannot be read.
    #[error("cannot read the pid file {0}: {1}")]
    Unreadable(String, io::Error),
    /// The pid file holds something else.
    #[error("the pid file {0} holds no pid")]
    NoPid(String),
    /// The process is younger than the pid file: it has the pid of one that is gone.
    #[error("the pid file {0} is older than pid {1}, which is another process now: remove the file")]
    Stale(String, i32),
    /// There is no such process, or the system does not tell of it.
    #[error("cannot attach to pid {0}: {1}")]
    NoProcess(i32, io::Error),
}

impl Attached {
    /// Finds the process and holds it.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn new(to: &AttachTo) -> Result<Self, AttachError> {
        let raw = match to {
            AttachTo::Pid(pid) => *pid,
            AttachTo::PidFile(path) => read(path)?,
        };
        let failed = |error: io::Error| AttachError::NoProcess(raw, error);
        let pid = Pid::from_raw(raw).ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| failed(error.into()))?;
        // Only now, with the process held, is its age that of the one that will be signalled.
        if let AttachTo::PidFile(path) = to
            && let (Some(started), Ok(written)) =
                (started(raw), fs::metadata(path).and_then(|file| file.modified()))
            && started > written + CLOCKS_DIFFER
        {
            return Err(AttachError::Stale(path.display().to_string(), raw));
        }
        let fd = Arc::new(fd);
        let (sender, exited) = watch::channel(false);
        let held = Arc::clone(&fd);
        // A thread, which costs nothing while it waits: asynchronous waiting for a foreign descriptor is not safe code.
        std::thread::Builder::new()
            .name(format!("ebb-pid-{raw}"))
            .spawn(move || {
                // A pidfd turns readable at the exit.
                while poll(&mut [PollFd::new(&held, PollFlags::IN)], None) == Err(rustix::io::Errno::INTR) {}
                sender.send_replace(true);
            })
            .map_err(failed)?;
        Ok(Self {
            pid: raw.unsigned_abs(),
            fd,
            exited,
        })
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Signals it, and only it: its process group is not Ebb's.
    pub fn signal(&self, signal: Signal) {
        let Some(raw) = rustix::process::Signal::from_named_raw(signal as i32) else {
            return;
        };
        match pidfd_send_signal(&self.fd, raw) {
            // It is gone already, which is as good.
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => tracing::warn!(pid = self.pid, %signal, %error, "cannot signal"),
        }
    }

    /// Returns when it has exited.
    pub async fn exited(&mut self) {
        // The sender is dropped only after it has said so.
        let _ = self.exited.wait_for(|exited| *exited).await;
    }
}

fn read(path: &Path) -> Result<i32, AttachError> {
    let name = || path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| AttachError::Unreadable(name(), error))?;
    match text.trim().parse() {
        Ok(pid) if pid > 1 => Ok(pid),
        _ => Err(AttachError::NoPid(name())),
    }
}

/// When a process was started; `None` if the system does not tell.
fn started(pid: i32) -> Option<SystemTime> {
    let ticks = start_ticks(pid)?;
    let system = fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = system
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Some(UNIX_EPOCH + Duration::from_secs(boot + ticks / per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_process_is_read() {
        let age = started(std::process::id().cast_signed())
            .expect("known")
            .elapsed();
        let age = age.unwrap_or_default();
        assert!(age < Duration::from_secs(24 * 3600), "{age:?}");
    }

    #[test]
    fn a_pid_file_older_than_its_process_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("pid");
        fs::write(&path, format!("{}\n", std::process::id())).expect("written");
        assert!(Attached::new(&AttachTo::PidFile(path.clone())).is_ok());
        let file = fs::File::options().write(true).open(&path).expect("opened");
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1))
            .expect("dated");
        let refused = Attached::new(&AttachTo::PidFile(path))
            .expect_err("stale")
            .to_string();
        assert!(refused.contains("another process now"), "{refused}");
    }

    #[test]
    fn what_is_no_process_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("pid");
        let refuse = |to: &AttachTo| Attached::new(to).expect_err("refused").to_string();
        assert!(refuse(&AttachTo::PidFile(path.clone())).contains("cannot read the pid file"));
        fs::write(&path, "soon").expect("written");
        assert!(refuse(&AttachTo::PidFile(path)).contains("holds no pid"));
        assert!(refuse(&AttachTo::Pid(i32::MAX)).contains("cannot attach to pid 2147483647"));
    }
}
