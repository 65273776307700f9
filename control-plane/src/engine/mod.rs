//! The one task that owns the state: it feeds the core, reads the clock and carries out what the core wants.
//!
//! Everybody else holds an [`Engine`]: a handle that sends requests to the task and awaits answers. Commands to a
//! filter go through a slot that keeps only the latest: each is the whole state, so a slow filter loses nothing and
//! holds up nobody.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the handle |
//! | `task`, `end` | the task, and its end; in `task/`: starting drains, looking at Envoys, carrying out effects, showing |
//! | `admins` | calls to Envoy's admin endpoints |
//! | `restore` | Envoys that are told to serve again because somebody asks for it |
//! | `views` | views of the nodes, made beside the task |
//! | `peers` | which processes of this machine the filters' streams come from |

mod admins;
mod end;
mod peers;
mod restore;
mod task;
mod views;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use ebb_proto::v1;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::{
    core::{
        Event,
        drains::{StartError, StartRequest},
        fleet::{Peer, StreamId},
        leaving::ForgetError,
        policies::Policies,
        record::Kept,
        restoring::RestoreError,
        scope::Scope,
        snapshot::Snapshot,
    },
    local,
    store::{Store, Told},
    supervisor::{admin::Admin, succession::RunRecord},
};

/// How long `ListNodes` and `ListBlockers` wait for answers.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(250);

/// Requests that may wait for the task; beyond it the senders wait.
const QUEUE: usize = 4096;

/// A page of a list takes no more than this, in bytes on the wire.
pub const PAGE: usize = 2 << 20;

/// So many views are made at once; each may take a core for a while.
const VIEWS_AT_ONCE: usize = 2;

/// All nodes, shared by those who watch them.
pub type Nodes = Arc<Vec<v1::Node>>;

/// What goes down a filter's stream next.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Outgoing {
    /// Nothing yet.
    #[default]
    Nothing,
    /// The latest command.
    Command(v1::FilterCommand),
    /// The end: another stream of the same VM took over.
    Replaced,
    /// The end: the stream claims to be of another's VM; in words.
    Refused(String),
    /// The end: the control plane is going away. With the last command, which still holds.
    GoingAway(v1::FilterCommand),
}

/// The control plane is shutting down, so there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control plane is shutting down")]
pub struct Gone;

/// Why Envoys of a node are not told to serve again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRestored {
    /// They are not to be, or cannot.
    #[error(transparent)]
    Refused(#[from] RestoreError),
    /// One has not done it; why, in words.
    #[error("its Envoy does not pass its health checks again yet, and is told again: {0}")]
    Failed(String),
}

enum Request {
    Attach {
        stream: StreamId,
        hello: v1::FilterHello,
        report: v1::FilterReport,
        /// Where it comes from, if the system tells.
        peer: Option<Peer>,
        /// Whether that is an Envoy itself.
        is_envoy: bool,
        commands: watch::Sender<Outgoing>,
    },
    Happened(Event),
    /// A process of this machine that is an Envoy has ended, or the whole group that it led.
    ProcessEnded {
        pid: u32,
    },
    AdminFound {
        node: String,
        started: SystemTime,
        admin: Admin,
        /// Whether it fails its health checks.
        fails: bool,
    },
    Start(Box<StartRequest>, oneshot::Sender<Result<v1::Drain, StartError>>),
    /// Whether a drain of a scope could be started.
    Check(Scope, oneshot::Sender<Result<(), StartError>>),
    Cancel(String, oneshot::Sender<Option<v1::Drain>>),
    Forget(String, oneshot::Sender<Result<usize, ForgetError>>),
    Restore(String, oneshot::Sender<Result<usize, NotRestored>>),
    Drain(String, oneshot::Sender<Option<v1::Drain>>),
    Drains {
        /// The place that they come after; `None` = all.
        after: Option<u64>,
        limit: usize,
        reply: oneshot::Sender<(Vec<v1::Drain>, Option<u64>)>,
    },
    WatchDrain(String, oneshot::Sender<Option<watch::Receiver<v1::Drain>>>),
    Report(String, oneshot::Sender<Option<v1::DrainReport>>),
    Blockers {
        /// `None` = all.
        drain: Option<String>,
        limit: u32,
        reply: oneshot::Sender<Option<Vec<v1::NodeBlocker>>>,
    },
    Nodes {
        /// The id that they come after; `None` = all.
        after: Option<String>,
        reply: oneshot::Sender<Snapshot>,
    },
    WatchNodes(oneshot::Sender<watch::Receiver<Nodes>>),
    KeepRun(Option<RunRecord>, oneshot::Sender<()>),
    Store(Told),
    /// Answered once all is done.
    GoAway(oneshot::Sender<()>),
}

/// A handle to the task that owns the state.
#[derive(Clone, Debug)]
pub struct Engine {
    requests: mpsc::Sender<Request>,
    streams: Arc<AtomicU64>,
    views: Arc<Semaphore>,
}

impl Engine {
    /// Starts the task, with the drains that the store kept, and these admin endpoints of Envoys.
    pub fn start(policies: Policies, kept: Kept, store: Store, admins: Vec<Admin>) -> Self {
        let (requests, inbox) = mpsc::channel(QUEUE);
        let (shots, snapshots) = watch::channel(None);
        let views = watch::Sender::new(Nodes::default());
        tokio::spawn(views::show(snapshots, views.clone()));
        let show = task::Shown { shots, views };
        let task = task::Task::new(policies, kept, store, admins.clone(), show, requests.downgrade());
        tokio::spawn(task.run(inbox));
        for admin in admins {
            tokio::spawn(admins::look_after(admin, requests.downgrade()));
        }
        Self {
            requests,
            streams: Arc::new(AtomicU64::new(1)),
            views: Arc::new(Semaphore::new(VIEWS_AT_ONCE)),
        }
    }

    /// A filter's stream: its number, and the slot from which its commands come.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn attach(
        &self,
        hello: v1::FilterHello,
        report: v1::FilterReport,
        peer: Option<Peer>,
    ) -> Result<(StreamId, watch::Receiver<Outgoing>), Gone> {
        let stream = StreamId(self.streams.fetch_add(1, Ordering::Relaxed));
        let (commands, receiver) = watch::channel(Outgoing::Nothing);
        let is_envoy = matches!(peer, Some(Peer::Local(local)) if local::is_envoy(local));
        self.send(Request::Attach {
            stream,
            hello,
            report,
            peer,
            is_envoy,
            commands,
        })
        .await?;
        Ok((stream, receiver))
    }

    /// A report came on a stream.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn report(&self, stream: StreamId, report: v1::FilterReport) -> Result<(), Gone> {
        self.send(Request::Happened(Event::Reported { stream, report }))
            .await
    }

    /// A stream says what is not remembered of anybody, and is to end; why, in words.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn refuse(&self, stream: StreamId, why: String) -> Result<(), Gone> {
        self.send(Request::Happened(Event::Refused { stream, why })).await
    }

    /// A stream ended.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn detach(&self, stream: StreamId) -> Result<(), Gone> {
        self.send(Request::Happened(Event::Detached { stream })).await
    }

    /// An Envoy that runs on this machine, as `pid` or in the group that `pid` leads, has ended: nothing of it can be in
    /// flight any more. To be said only of an Envoy, not of what passes on the streams of one.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn process_ended(&self, pid: u32) -> Result<(), Gone> {
        self.send(Request::ProcessEnded { pid }).await
    }

    /// Starts a drain.
    ///
    /// # Errors
    /// [`Gone`]; inside, [`StartError`].
    pub async fn start_drain(&self, request: StartRequest) -> Result<Result<v1::Drain, StartError>, Gone> {
        self.ask(|reply| Request::Start(Box::new(request), reply)).await
    }

    /// Whether a drain of a scope could be started, by what everybody says of it now.
    ///
    /// # Errors
    /// [`Gone`]; inside, [`StartError`].
    pub async fn check(&self, scope: Scope) -> Result<Result<(), StartError>, Gone> {
        self.ask(|reply| Request::Check(scope, reply)).await
    }

    /// Cancels or releases a drain; `None` = there is none of that id.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn cancel(&self, id: String) -> Result<Option<v1::Drain>, Gone> {
        self.ask(|reply| Request::Cancel(id, reply)).await
    }

    /// Says that reporters of a node which are not attached are gone for good. Returns how many there were.
    ///
    /// # Errors
    /// [`Gone`]; inside, [`ForgetError`].
    pub async fn forget_node(&self, node: String) -> Result<Result<usize, ForgetError>, Gone> {
        self.ask(|reply| Request::Forget(node, reply)).await
    }

    /// Has the Envoys of a node pass their health checks again. Returns how many there are, once they have been told.
    ///
    /// # Errors
    /// [`Gone`]; inside, [`NotRestored`].
    pub async fn restore_node(&self, node: String) -> Result<Result<usize, NotRestored>, Gone> {
        self.ask(|reply| Request::Restore(node, reply)).await
    }

    /// One drain.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn drain(&self, id: String) -> Result<Option<v1::Drain>, Gone> {
        self.ask(|reply| Request::Drain(id, reply)).await
    }

    /// All drains, oldest first.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn drains(&self) -> Result<Vec<v1::Drain>, Gone> {
        let (mut drains, mut after) = (Vec::new(), None);
        loop {
            let (page, next) = self.drains_after(after, usize::MAX).await?;
            drains.extend(page);
            match next {
                None => return Ok(drains),
                next => after = next,
            }
        }
    }

    /// Drains, oldest first: those after a place, if one is given, as many as are wanted and fit into [`PAGE`], but at least one. With the place
    /// of the last of them, if others follow.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn drains_after(
        &self,
        after: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<v1::Drain>, Option<u64>), Gone> {
        self.ask(|reply| Request::Drains { after, limit, reply }).await
    }

    /// A drain as it stands, and as it changes.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn watch_drain(&self, id: String) -> Result<Option<watch::Receiver<v1::Drain>>, Gone> {
        self.ask(|reply| Request::WatchDrain(id, reply)).await
    }

    /// What a drain did so far, or did.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn report_of(&self, id: String) -> Result<Option<v1::DrainReport>, Gone> {
        self.ask(|reply| Request::Report(id, reply)).await
    }

    /// The oldest requests in flight, `limit` per node and listener, of a drain or of all nodes; who does not answer
    /// within [`ANSWER_WITHIN`] is left out. `None` = there is no drain of that id.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn blockers(
        &self,
        drain: Option<String>,
        limit: u32,
    ) -> Result<Option<Vec<v1::NodeBlocker>>, Gone> {
        self.ask(|reply| Request::Blockers { drain, limit, reply }).await
    }

    /// All nodes, with counts no older than [`ANSWER_WITHIN`].
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn nodes(&self) -> Result<Vec<v1::Node>, Gone> {
        let snapshot = self.ask(|reply| Request::Nodes { after: None, reply }).await?;
        self.view(move || snapshot.nodes().collect()).await
    }

    /// The same, page by page: those after an id, as many as are wanted and fit into [`PAGE`], but at least one; and whether
    /// others follow.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn nodes_after(
        &self,
        after: Option<String>,
        limit: usize,
    ) -> Result<(Vec<v1::Node>, bool), Gone> {
        let snapshot = self.ask(|reply| Request::Nodes { after, reply }).await?;
        self.view(move || views::page(snapshot.nodes(), limit)).await
    }

    /// Makes a view where nobody waits for it but its caller.
    async fn view<T: Send + 'static>(&self, make: impl FnOnce() -> T + Send + 'static) -> Result<T, Gone> {
        let _one_of_few = self.views.acquire().await.map_err(|_| Gone)?;
        tokio::task::spawn_blocking(make).await.map_err(|_| Gone)
    }

    /// All nodes as they stand, and as they change: the first change is how they stand now.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn watch_nodes(&self) -> Result<watch::Receiver<Nodes>, Gone> {
        self.ask(Request::WatchNodes).await
    }

    /// Keeps what a successor of this run of processes has to know; `None` = nothing any more. It is on disk, or the log
    /// says why not, when this returns.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn keep_run(&self, run: Option<RunRecord>) -> Result<(), Gone> {
        self.ask(|reply| Request::KeepRun(run, reply)).await
    }

    /// Tells every filter to reconnect elsewhere and ends the task. Whatever is asked after that is [`Gone`].
    pub async fn go_away(&self) {
        let (reply, over) = oneshot::channel();
        // Gone already is just what is wanted.
        let _ = self.send(Request::GoAway(reply)).await;
        self.ended().await;
        let _ = over.await;
    }

    /// Waits until the task has ended, by [`Engine::go_away`] or by a fault of its own.
    pub async fn ended(&self) {
        self.requests.closed().await;
    }

    async fn send(&self, request: Request) -> Result<(), Gone> {
        self.requests.send(request).await.map_err(|_| Gone)
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        self.send(request(reply)).await?;
        answer.await.map_err(|_| Gone)
    }
}

#[cfg(test)]
mod tests;
