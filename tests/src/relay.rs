//! A relay between two Unix sockets that can go silent: it holds back what comes, both ways, and closes nothing. So a
//! network behaves that drops every packet. And it can cut its connections, as one does that resets them.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// A running relay; dropping it closes its socket and its connections.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    to: PathBuf,
    /// Of each connection, in the order in which they were made, what it does.
    connections: Mutex<Vec<watch::Sender<Flow>>>,
    /// What connections do from their start.
    from_start: watch::Sender<Flow>,
}

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// It passes everything on.
    Speaks,
    /// It holds everything back.
    Silent,
    /// It is closed on both sides.
    Cut,
}

impl Flow {
    fn silent(silent: bool) -> Self {
        if silent { Self::Silent } else { Self::Speaks }
    }
}

impl Relay {
    /// Accepts at `from` and connects each to `to`.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn start(from: &Path, to: &Path) -> Result<Self> {
        let listener = UnixListener::bind(from).with_context(|| format!("cannot bind {}", from.display()))?;
        let shared = Arc::new(Shared {
            to: to.to_path_buf(),
            connections: Mutex::default(),
            from_start: watch::Sender::new(Flow::Speaks),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { shared, accepting })
    }

    /// The connections that are open, by number, oldest first.
    #[must_use]
    pub fn connections(&self) -> Vec<usize> {
        let connections = self.shared.connections();
        let open = connections.iter().enumerate();
        open.filter(|(_, flow)| !flow.is_closed())
            .map(|(number, _)| number)
            .collect()
    }

    /// Has one connection go silent, or speak again.
    pub fn silence(&self, number: usize, silent: bool) {
        if let Some(connection) = self.shared.connections().get(number) {
            connection.send_replace(Flow::silent(silent));
        }
    }

    /// Closes every connection on both sides, and those to come as soon as they are made; or takes new ones again.
    pub fn cut_all(&self, cut: bool) {
        self.shared
            .from_start
            .send_replace(if cut { Flow::Cut } else { Flow::Speaks });
        if cut {
            for connection in self.shared.connections().iter() {
                connection.send_replace(Flow::Cut);
            }
        }
    }

    /// Has every connection go silent, also those to come, or speak again.
    pub fn silence_all(&self, silent: bool) {
        self.shared.from_start.send_replace(Flow::silent(silent));
        for connection in self.shared.connections().iter() {
            connection.send_replace(Flow::silent(silent));
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The connections are tasks of the accepting task's set and end with it.
        self.accepting.abort();
    }
}

impl Shared {
    fn connections(&self) -> std::sync::MutexGuard<'_, Vec<watch::Sender<Flow>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: UnixListener, shared: Arc<Shared>) {
    let mut relaying = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((near, _)) = accepted {
                    let (sender, flow) = watch::channel(*shared.from_start.borrow());
                    shared.connections().push(sender);
                    relaying.spawn(relay(near, shared.to.clone(), flow));
                }
            }
            Some(_) = relaying.join_next() => {}
        }
    }
}

async fn relay(near: UnixStream, to: PathBuf, mut flow: watch::Receiver<Flow>) {
    // Whom it connects to may be away: the near side then sees a connection that is closed, as by any proxy.
    let Ok(far) = UnixStream::connect(to).await else {
        return;
    };
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    // The end of either direction ends both: this is for HTTP/2 and for short requests, which need no half-open end.
    tokio::select! {
        () = pump(near_read, far_write, flow.clone()) => {}
        () = pump(far_read, near_write, flow.clone()) => {}
        _ = flow.wait_for(|flow| *flow == Flow::Cut) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut flow: watch::Receiver<Flow>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await;
        if flow.wait_for(|flow| *flow == Flow::Speaks).await.is_err() {
            return;
        }
        let Ok(length @ 1..) = read else { return };
        let Some(bytes) = buffer.get(..length) else {
            return;
        };
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}
