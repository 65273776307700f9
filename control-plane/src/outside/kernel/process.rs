//! Whether processes share this network namespace, and which sockets they hold.

use std::{collections::BTreeSet, fs, io, path::Path};

use super::Blind;

/// Those of the processes that are alive, if all of these are in this network namespace. Which one a process is in can be
/// read by whoever may trace it.
///
/// # Errors
/// [`Blind`].
pub(super) fn here(pids: &[u32]) -> Result<Vec<u32>, Blind> {
    let own = fs::read_link("/proc/self/ns/net")?;
    let mut alive = Vec::new();
    for pid in pids {
        match fs::read_link(format!("/proc/{pid}/ns/net")) {
            Ok(other) if other == own => alive.push(*pid),
            Ok(_) => return Err(Blind::Elsewhere),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    if alive.is_empty() {
        return Err(Blind::NoProcess);
    }
    Ok(alive)
}

/// The inodes of the sockets that these processes hold.
///
/// # Errors
/// The system's: another user's processes cannot be looked into.
pub(super) fn sockets(pids: &[u32]) -> io::Result<BTreeSet<u32>> {
    let mut inodes = BTreeSet::new();
    for pid in pids {
        let entries = match fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        // A descriptor may be closed before it is looked at.
        inodes.extend(entries.flatten().filter_map(|entry| inode(&entry.path())));
    }
    Ok(inodes)
}

fn inode(descriptor: &Path) -> Option<u32> {
    let target = fs::read_link(descriptor).ok()?;
    let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
    inode.parse().ok()
}

/// Which process listens on a Unix socket, as the system tells; `None` = it does not, as across pid namespaces.
pub(in crate::outside) async fn peer_of(socket: &Path) -> Option<u32> {
    let stream = tokio::net::UnixStream::connect(socket).await.ok()?;
    let pid = stream.peer_cred().ok()?.pid()?;
    u32::try_from(pid).ok().filter(|pid| *pid > 0)
}
