//! Readiness checks.

use std::{fs, io, net::SocketAddr, os::unix::fs::FileTypeExt, path::Path, time::Duration};

use hyper::Method;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use tokio::{
    net::{TcpStream, UnixStream, lookup_host},
    time::{Instant, sleep, timeout_at},
};

use super::{
    http,
    machine::ExitStatus,
    process::{Children, Life},
};
use crate::{
    address::Address,
    config::{Check, Command, Ready},
};

/// Bound of the only attempt where there is no time for another.
const ONLY_ATTEMPT: Duration = Duration::from_secs(1);

/// Asks until the check passes. What a command needs that is run for it: who starts it, and with which mark.
///
/// # Errors
/// It did not pass in its time; with the last answer, in words.
pub async fn until_ready(
    ready: &Ready,
    command: Option<&Command>,
    (children, mark): (&Children, &str),
) -> Result<(), String> {
    if let Check::Delay(delay) = ready.check {
        sleep(delay).await;
        return Ok(());
    }
    let until = Instant::now() + ready.timeout;
    let mut last = None;
    loop {
        let bound = if ready.timeout.is_zero() {
            until + ONLY_ATTEMPT
        } else {
            until
        };
        let answer = attempt(&ready.check, command, (children, mark), bound).await;
        let Err(why) = answer else { return Ok(()) };
        // An attempt that the end cut short says less than the one before it.
        let cut_short = !ready.timeout.is_zero() && Instant::now() >= until;
        let why = match last.take() {
            Some(before) if cut_short => before,
            _ => why,
        };
        if Instant::now() + ready.interval >= until {
            return Err(match ready.timeout {
                Duration::ZERO => format!("not ready at once: {why}"),
                timeout => format!("not ready within {}: {why}", humantime::format_duration(timeout)),
            });
        }
        last = Some(why);
        sleep(ready.interval).await;
    }
}

async fn attempt(
    check: &Check,
    command: Option<&Command>,
    starts: (&Children, &str),
    until: Instant,
) -> Result<(), String> {
    match check {
        Check::Http(target) => {
            // It is told to people, for whom milliseconds are enough.
            let within = until.saturating_duration_since(Instant::now()).as_millis();
            let within = Duration::from_millis(u64::try_from(within).unwrap_or(u64::MAX));
            let answer = http::request(Method::GET, &target.address, &target.path, within).await;
            match answer {
                Ok((status, _)) if status.is_success() => Ok(()),
                Ok((status, _)) => Err(format!("{target} answered {status}")),
                Err(error) => Err(error.to_string()),
            }
        }
        Check::Tcp(Address::Tcp { host, port }) => {
            let connected = timeout_at(until, connect_tcp(host, *port)).await;
            let failed = |why: String| format!("cannot connect to {host}:{port}: {why}");
            match connected {
                Ok(result) => result.map_err(|error| failed(error.to_string())),
                Err(_) => Err(failed("no answer".to_owned())),
            }
        }
        Check::Tcp(Address::Unix(path)) | Check::Unix(path) => {
            let failed = |why: String| format!("cannot connect to {}: {why}", path.display());
            match timeout_at(until, UnixStream::connect(path)).await {
                Ok(result) => result.map(drop).map_err(|error| failed(error.to_string())),
                Err(_) => Err(failed("no answer".to_owned())),
            }
        }
        Check::Exec(program, arguments) => execute(program, arguments, command, starts, until).await,
        Check::Delay(_) => Ok(()),
    }
}

async fn connect_tcp(host: &str, port: u16) -> io::Result<()> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in lookup_host((host, port)).await? {
        match TcpStream::connect(address).await {
            Ok(stream) if !is_self(&stream, address) => return Ok(()),
            Ok(_) => last = io::ErrorKind::ConnectionRefused.into(),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A connection to a free local port of the ephemeral range can be to itself.
fn is_self(stream: &TcpStream, peer: SocketAddr) -> bool {
    stream.local_addr().is_ok_and(|local| local == peer)
}

/// Runs a command in the surroundings of the process that it asks for.
async fn execute(
    program: &str,
    arguments: &[String],
    command: Option<&Command>,
    (children, mark): (&Children, &str),
    until: Instant,
) -> Result<(), String> {
    let command = Command {
        program: program.to_owned(),
        arguments: arguments.to_vec(),
        env: command.map(|command| command.env.clone()).unwrap_or_default(),
        working_dir: command.and_then(|command| command.working_dir.clone()),
        user: command.and_then(|command| command.user),
    };
    // Its output is of no interest: the pipes are closed at once.
    let mut child = children
        .spawn(&command, mark)
        .map_err(|error| error.to_string())?;
    let guard = KillOnDrop(children, child.pid);
    let exited = timeout_at(until, child.life.wait_for(|life| *life != Life::Alive)).await;
    let status = match exited {
        Ok(Ok(life)) => match *life {
            Life::Leftovers(status) | Life::Gone(status) => status,
            Life::Alive => ExitStatus::Unknown,
        },
        Ok(Err(_)) => ExitStatus::Unknown,
        Err(_) => return Err(format!("{program} did not end in time")),
    };
    drop(guard);
    if status.is_success() {
        Ok(())
    } else {
        Err(format!("{program} {status}"))
    }
}

/// An attempt that is given up, or that ends and leaves others of its group, leaves nothing behind.
struct KillOnDrop<'c>(&'c Children, u32);

impl Drop for KillOnDrop<'_> {
    fn drop(&mut self) {
        self.0.signal(self.1, nix::sys::signal::Signal::SIGKILL);
    }
}

/// Removes the socket that a dead run left at this path, so that it is not in the way of the next. Never waits: only a
/// connection that is refused shows that nobody is there, and one for which there is no room just now shows the opposite.
pub fn clear_stale_socket(path: &Path) {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket && connect_at_once(path) == Err(Errno::CONNREFUSED) {
        match fs::remove_file(path) {
            Ok(()) => tracing::info!(path = %path.display(), "removed the socket of a dead process"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot remove a stale socket"),
        }
    }
}

fn connect_at_once(path: &Path) -> rustix::io::Result<()> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)
}
