//! Loopback ports for what cannot bind port 0, such as a server that has to come back on the same port.

use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};

/// Below the range from which the kernel takes the ports of outgoing connections, so that none of those collides.
const RANGE: std::ops::Range<u16> = 20_000..30_000;
const ATTEMPTS: usize = 200;

/// A port that no other test process takes while this is alive.
#[derive(Debug)]
pub struct Port {
    number: u16,
    path: PathBuf,
    _lock: File,
}

impl Port {
    /// Reserves a free port: a lock file keeps other test processes off it, a trial bind shows that it is free.
    ///
    /// # Errors
    /// When the lock folder cannot be written, or no free port is found.
    pub fn reserve() -> Result<Self> {
        let folder = std::env::temp_dir().join("ebb-e2e-ports");
        for _ in 0..ATTEMPTS {
            // Whoever gives the last port back removes the folder.
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
            let number = fastrand::u16(RANGE);
            let path = folder.join(number.to_string());
            let lock = match File::options()
                .create(true)
                .write(true)
                .truncate(false)
                .open(&path)
            {
                Ok(lock) => lock,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
            };
            let locked = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
            if !locked || !is_still(&path, &lock) {
                continue;
            }
            // From here on its end removes the file: also if another program has the port.
            let port = Self {
                number,
                path,
                _lock: lock,
            };
            if TcpListener::bind(port.address()).is_ok() {
                return Ok(port);
            }
        }
        bail!("found no free loopback port in {RANGE:?} after {ATTEMPTS} attempts")
    }

    /// The port's loopback address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // Under the lock: nobody else has locked a file of this name. Others may have removed theirs meanwhile, or the folder.
        let _ = fs::remove_file(&self.path);
        let _ = self.path.parent().map(fs::remove_dir);
    }
}

/// Whether the path still names this file: it may have been removed before it was locked.
fn is_still(path: &Path, file: &File) -> bool {
    let (Ok(named), Ok(locked)) = (fs::metadata(path), file.metadata()) else {
        return false;
    };
    named.ino() == locked.ino()
}
