//! Processes of this machine, as `/proc` tells of them: whether one is an Envoy, and when it ends.

use std::{fs, io, os::fd::OwnedFd};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::core::fleet::Local;

/// How Envoy names its worker threads.
const WORKER: &str = "wrk:worker_";

/// A process by its pid; `None` if there is none, or it cannot be seen from here, as one of another pid namespace.
#[must_use]
pub fn find(pid: i32) -> Option<Local> {
    let started = start_ticks(pid)?;
    // 0 where the leader of the group is in a namespace outside of this one.
    let group = nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(pid))).ok();
    let group = group.map_or(pid, nix::unistd::Pid::as_raw);
    Some(Local {
        pid: pid.unsigned_abs(),
        group: if group > 0 { group } else { pid }.unsigned_abs(),
        started,
    })
}

/// When a process was started, in ticks since the boot of the system; `None` if the system does not tell.
#[must_use]
pub fn start_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The 22nd field; the second is a name in brackets, which may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The boot of the system; empty if it does not tell, and then nothing is known of any process.
#[must_use]
pub fn boot() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// Where pids mean what they mean here: the boot of the system, and the namespace of its pids.
#[must_use]
pub fn place() -> String {
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{} {}", boot(), namespace.display())
}

/// Whether a process is an Envoy and not one that passes the streams of an Envoy on: an Envoy has worker threads of a name
/// of their own.
#[must_use]
pub fn is_envoy(local: Local) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{}/task", local.pid)) else {
        return false;
    };
    threads.flatten().any(|thread| {
        fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| name.starts_with(WORKER))
    })
}

/// Calls `then` when a process has ended; at once if it is not there any more.
///
/// # Errors
/// The system has no thread for it.
pub fn when_ended(local: Local, then: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let held = hold(local);
    // A thread, which costs nothing while it waits: asynchronous waiting for a foreign descriptor is not safe code.
    let wait = move || {
        if let Some(held) = held {
            // A pidfd turns readable at the exit.
            while poll(&mut [PollFd::new(&held, PollFlags::IN)], None) == Err(Errno::INTR) {}
        }
        then();
    };
    let thread = std::thread::Builder::new().name(format!("ebb-pid-{}", local.pid));
    thread.spawn(wait).map(drop)
}

/// Holds a process; `None` if it has ended.
fn hold(local: Local) -> Option<OwnedFd> {
    let pid = local.pid.cast_signed();
    let held = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    // Only now, with the process held, is its age that of the one that is watched.
    (start_ticks(pid) == Some(local.started)).then_some(held)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_end_of_a_process_is_seen_and_one_that_has_ended_is_told_at_once() {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("started");
        let local = find(child.id().cast_signed()).expect("found");
        assert_eq!(local.pid, child.id());
        let (sender, ended) = std::sync::mpsc::channel();
        let watch = |local: Local| {
            let sender = sender.clone();
            when_ended(local, move || sender.send(local).expect("heard")).expect("watched");
        };
        let older = Local {
            started: local.started + 1,
            ..local
        };
        watch(older);
        assert_eq!(ended.recv(), Ok(older), "another process of that pid");
        watch(local);
        child.kill().expect("killed");
        assert_eq!(ended.recv(), Ok(local));
        child.wait().expect("reaped");
        watch(local);
        assert_eq!(ended.recv(), Ok(local));
        assert_eq!(find(local.pid.cast_signed()), None);
    }

    #[test]
    fn this_process_is_no_envoy() {
        let own = find(std::process::id().cast_signed()).expect("found");
        assert!(!is_envoy(own));
        assert!(place().contains("pid:["), "{}", place());
    }
}
