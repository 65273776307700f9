//! Unix sockets of this process, and accepting on whatever is bound.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{fs::Mode, process::umask};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// After a connection that could not be accepted. Out of file descriptors, usually: others have to close some first.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Between two lines in the log on that.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// A Unix socket's file; removed with it, unless another process has put its own in the place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

impl SocketFile {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Binds a Unix socket, with mode 0600.
///
/// # Errors
/// As `bind` of the system.
pub(crate) fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    // The mode has to be right from the first instant, and only the mask does that.
    let before = umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound?;
    let file = SocketFile {
        path: path.to_owned(),
        inode: fs::symlink_metadata(path)?.ino(),
    };
    Ok((listener, file))
}

/// What accepts connections.
pub(crate) trait Accept: Send + Sync + 'static {
    /// A connection.
    type Io: Send + 'static;

    /// The next one, whatever the system says meanwhile: `faults` tells of it.
    fn next(&self, faults: &mut Faults) -> impl Future<Output = Self::Io> + Send;
}

impl Accept for TcpListener {
    type Io = TcpStream;

    async fn next(&self, faults: &mut Faults) -> TcpStream {
        loop {
            match self.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => faults.pause(&error).await,
            }
        }
    }
}

impl Accept for UnixListener {
    type Io = UnixStream;

    async fn next(&self, faults: &mut Faults) -> UnixStream {
        loop {
            match self.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => faults.pause(&error).await,
            }
        }
    }
}

/// Something that may go wrong many times in a row, and is said once in a while.
#[derive(Debug)]
pub(crate) struct Faults {
    /// Of what.
    what: &'static str,
    said: Option<Instant>,
}

impl Faults {
    /// None yet.
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, said: None }
    }

    /// Whether it is time to speak of it again; then it is taken for said.
    pub(crate) fn is_to_say(&mut self) -> bool {
        let now = Instant::now();
        let due = self.said.is_none_or(|at| now - at >= SAY_EVERY);
        if due {
            self.said = Some(now);
        }
        due
    }

    async fn pause(&mut self, error: &io::Error) {
        if self.is_to_say() {
            tracing::warn!(%error, "{} cannot accept connections; trying again", self.what);
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}
