//! Sockets to serve on.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt},
    path::Path,
};

use anyhow::{Context, bail};
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    sync::watch,
};
use tonic::transport::server::Router;

use super::incoming::{Room, incoming};
use crate::{
    address::Address,
    socket::{self, SocketFile},
};

/// A bound socket.
#[derive(Debug)]
pub(super) enum Listener {
    Unix(UnixListener, SocketFile),
    Tcp(TcpListener),
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
        let (listener, file) = socket::bind(path)?;
        Ok(Self::Unix(listener, file))
    }

    /// Where it is, with the port that the system chose.
    pub(super) fn address(&self) -> anyhow::Result<Address> {
        Ok(match self {
            Self::Unix(_, file) => Address::Unix(file.path().to_owned()),
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
        room: Room,
        mut stopped: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let stop = async move {
            // An error is the same: whoever could stop it is gone.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        match self {
            Self::Unix(listener, _file) => {
                router
                    .serve_with_incoming_shutdown(incoming(listener, room), stop)
                    .await?;
            }
            Self::Tcp(listener) => {
                router
                    .serve_with_incoming_shutdown(incoming(listener, room), stop)
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
