//! Many simulated filters, on two threads.

use std::{
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    thread::JoinHandle,
};

use anyhow::{Context as _, Result, bail};
use ebb_filter::config::LinkConfig;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{sync::watch, task::LocalSet};

use super::{
    board::Board,
    filter::{Filter, link_config},
    link::Link,
};

/// As many as the machines have cores that Ebb's figures are told of.
const THREADS: usize = 2;

/// Files that a process has open besides the sockets of its streams; generous.
const OTHER_FILES: u64 = 256;

/// How many filters, and how they share connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) streams: usize,
    pub(super) per_connection: usize,
}

/// Running filters; dropping it ends them.
#[derive(Debug)]
pub(super) struct Swarm {
    pub(super) board: Arc<Board>,
    hold: watch::Sender<bool>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Swarm {
    /// Starts them all at once.
    pub(super) fn start(socket: &Path, layout: Layout) -> Result<Self> {
        let board = Arc::new(Board::new(layout.streams));
        let (hold, holding) = watch::channel(false);
        let (stop, stopped) = watch::channel(false);
        let mut swarm = Self {
            board,
            hold,
            stop,
            threads: Vec::new(),
        };
        let share = layout
            .streams
            .div_ceil(THREADS)
            .next_multiple_of(layout.per_connection);
        for first in (0..layout.streams).step_by(share.max(1)) {
            let part = Part {
                socket: socket.to_path_buf(),
                config: link_config()?,
                streams: first..(first + share).min(layout.streams),
                per_connection: layout.per_connection,
                board: Arc::clone(&swarm.board),
                holding: holding.clone(),
                stopped: stopped.clone(),
            };
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let thread = std::thread::Builder::new().name("filters".to_owned());
            let thread = thread.spawn(move || LocalSet::new().block_on(&runtime, part.speak()));
            swarm.threads.push(thread.context("cannot start a thread")?);
        }
        Ok(swarm)
    }

    /// Has every filter hold a request in flight, or end it.
    pub(super) fn hold(&self, hold: bool) {
        self.hold.send_replace(hold);
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("a thread of simulated filters has panicked");
            }
        }
    }
}

/// The filters of one thread.
struct Part {
    socket: PathBuf,
    config: LinkConfig,
    streams: std::ops::Range<usize>,
    per_connection: usize,
    board: Arc<Board>,
    holding: watch::Receiver<bool>,
    stopped: watch::Receiver<bool>,
}

impl Part {
    async fn speak(mut self) {
        let mut link = Rc::new(Link::new(self.socket.clone()));
        for (place, index) in self.streams.enumerate() {
            if place > 0 && place.is_multiple_of(self.per_connection.max(1)) {
                link = Rc::new(Link::new(self.socket.clone()));
            }
            let (link, board) = (Rc::clone(&link), Arc::clone(&self.board));
            let filter = Filter::new(index, self.config.clone(), link, board, self.holding.clone());
            tokio::task::spawn_local(filter.speak());
        }
        // An error is the same: whoever could stop it is gone.
        let _ = self.stopped.wait_for(|stopped| *stopped).await;
    }
}

/// Allows this process, and those that it starts, as many open files as it may have, which has to be enough for so many
/// connections.
pub(super) fn allow_connections(connections: usize) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let needed = connections as u64 + OTHER_FILES;
    // No maximum = no limit.
    if limit.maximum.is_some_and(|maximum| maximum < needed) {
        bail!(
            "{connections} connections need {needed} open files, and this process may have {}: raise the hard limit \
             (`ulimit -Hn`)",
            limit.maximum.unwrap_or_default()
        );
    }
    if limit.current.is_some_and(|current| current < needed) {
        let all = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        setrlimit(Resource::Nofile, all).context("cannot raise the limit of open files")?;
    }
    Ok(())
}
