//! Sockets to serve on.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use rustix::{fs::Mode, process::umask};
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    sync::watch,
};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::server::Router;

use crate::address::Address;

/// A bound socket.
#[derive(Debug)]
pub(super) enum Listener {
    Unix(UnixListener, SocketFile),
    Tcp(TcpListener),
}

/// A Unix socket's file; removed with it, unless another process has put its own in the place.
#[derive(Debug)]
pub(super) struct SocketFile {
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

impl Listener {
    /// Binds an address. A Unix socket gets mode 0600; one that a dead process left is replaced.
    pub(super) async fn bind(address: &Address) -> anyhow::Result<Self> {
        match address {
            Address::Unix(path) => Self::bind_unix(path)
                .await
                .with_context(|| format!("listen unix:{}", path.display())),
            Address::Tcp { host, port } => {
                let listener = TcpListener::bind((host.as_str(), *port)).await;
                Ok(Self::Tcp(listener.with_context(|| format!("listen {address}"))?))
            }
        }
    }

    async fn bind_unix(path: &Path) -> anyhow::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .context("cannot make its folder")?;
        }
        if let Some(folder) = path.parent() {
            check_owner(folder)?;
        }
        clear_stale(path).await?;
        // The mode has to be right from the first instant, and only the mask does that.
        let before = umask(Mode::from_raw_mode(0o177));
        let bound = UnixListener::bind(path);
        umask(before);
        let listener = bound?;
        let inode = fs::symlink_metadata(path)?.ino();
        Ok(Self::Unix(
            listener,
            SocketFile {
                path: path.to_owned(),
                inode,
            },
        ))
    }

    /// Where it is, with the port that the system chose.
    pub(super) fn address(&self) -> anyhow::Result<Address> {
        Ok(match self {
            Self::Unix(_, file) => Address::Unix(file.path.clone()),
            Self::Tcp(listener) => {
                let local = listener.local_addr()?;
                Address::Tcp {
                    host: local.ip().to_string(),
                    port: local.port(),
                }
            }
        })
    }

    /// Serves until `stopped` turns true and every connection is closed.
    pub(super) async fn serve(
        self,
        router: Router,
        mut stopped: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let stop = async move {
            // An error is the same: whoever could stop it is gone.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        match self {
            Self::Unix(listener, _file) => {
                router
                    .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
                    .await?;
            }
            Self::Tcp(listener) => {
                router
                    .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop)
                    .await?;
            }
        }
        Ok(())
    }
}

/// In a folder like `/tmp` somebody else may have made ours before us, and would then own what we put there.
fn check_owner(folder: &Path) -> anyhow::Result<()> {
    let owner = fs::metadata(if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    })?
    .uid();
    let own = rustix::process::geteuid().as_raw();
    if owner != 0 && owner != own {
        bail!(
            "its folder belongs to user {owner}, who could replace the socket; choose a folder of user {own}'s"
        );
    }
    Ok(())
}

async fn clear_stale(path: &Path) -> anyhow::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(file) if !file.file_type().is_socket() => bail!("there is a file of another kind; remove it"),
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Ok(_) => bail!("another process is listening there; stop it, or choose another address"),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "removing the socket of a dead process");
            match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
                _ => Ok(()),
            }
        }
        Err(error) => Err(error.into()),
    }
}
