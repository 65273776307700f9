//! The one task that owns the state: it feeds the core, reads the clock and carries out what the core wants.
//!
//! Everybody else holds an [`Engine`]: a handle that sends requests to the task and awaits answers. Commands to a
//! filter go through a slot that keeps only the latest: each is the whole state, so a slow filter loses nothing and
//! holds up nobody.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the handle |
//! | `task` | the task |
//! | `admins` | calls to Envoy's admin endpoints |

mod admins;
mod task;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use ebb_proto::v1;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    core::{
        Event,
        drains::{StartError, StartRequest},
        fleet::StreamId,
        policies::Policies,
    },
    store::Store,
    supervisor::admin::Admin,
};

/// How long `ListNodes` and `ListBlockers` wait for answers.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(250);

/// Requests that may wait for the task; beyond it the senders wait.
const QUEUE: usize = 4096;

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
    /// The end: the control plane is going away. With the last command, which still holds.
    GoingAway(v1::FilterCommand),
}

/// The control plane is shutting down, so there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control plane is shutting down")]
pub struct Gone;

enum Request {
    Attach {
        stream: StreamId,
        hello: v1::FilterHello,
        report: v1::FilterReport,
        commands: watch::Sender<Outgoing>,
    },
    Happened(Event),
    AdminFound {
        node: String,
        started: SystemTime,
        admin: Admin,
    },
    Start(Box<StartRequest>, oneshot::Sender<Result<v1::Drain, StartError>>),
    Cancel(String, oneshot::Sender<Option<v1::Drain>>),
    Drain(String, oneshot::Sender<Option<v1::Drain>>),
    Drains(oneshot::Sender<Vec<v1::Drain>>),
    WatchDrain(String, oneshot::Sender<Option<watch::Receiver<v1::Drain>>>),
    Report(String, oneshot::Sender<Option<v1::DrainReport>>),
    Blockers {
        /// `None` = all.
        drain: Option<String>,
        limit: u32,
        reply: oneshot::Sender<Option<Vec<v1::NodeBlocker>>>,
    },
    Nodes(oneshot::Sender<Vec<v1::Node>>),
    WatchNodes(oneshot::Sender<watch::Receiver<Vec<v1::Node>>>),
    GoAway,
}

/// A handle to the task that owns the state.
#[derive(Clone, Debug)]
pub struct Engine {
    requests: mpsc::Sender<Request>,
    streams: Arc<AtomicU64>,
}

impl Engine {
    /// Starts the task, with the drains that the store kept, and these admin endpoints of Envoys.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn start(policies: Policies, store: Store, admins: Vec<Admin>) -> anyhow::Result<Self> {
        let kept = store.load()?;
        if !kept.drains.is_empty() {
            tracing::info!(
                drains = kept.drains.len(),
                "resuming what an earlier control plane left"
            );
        }
        let (requests, inbox) = mpsc::channel(QUEUE);
        for admin in admins {
            tokio::spawn(admins::look_after(admin, requests.downgrade()));
        }
        let task = task::Task::new(policies, kept, store, requests.downgrade());
        tokio::spawn(task.run(inbox));
        Ok(Self {
            requests,
            streams: Arc::new(AtomicU64::new(1)),
        })
    }

    /// A filter's stream: its number, and the slot from which its commands come.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn attach(
        &self,
        hello: v1::FilterHello,
        report: v1::FilterReport,
    ) -> Result<(StreamId, watch::Receiver<Outgoing>), Gone> {
        let stream = StreamId(self.streams.fetch_add(1, Ordering::Relaxed));
        let (commands, receiver) = watch::channel(Outgoing::Nothing);
        self.send(Request::Attach {
            stream,
            hello,
            report,
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

    /// A stream ended.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn detach(&self, stream: StreamId) -> Result<(), Gone> {
        self.send(Request::Happened(Event::Detached { stream })).await
    }

    /// Starts a drain.
    ///
    /// # Errors
    /// [`Gone`]; inside, [`StartError`].
    pub async fn start_drain(&self, request: StartRequest) -> Result<Result<v1::Drain, StartError>, Gone> {
        self.ask(|reply| Request::Start(Box::new(request), reply)).await
    }

    /// Cancels or releases a drain; `None` = there is none of that id.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn cancel(&self, id: String) -> Result<Option<v1::Drain>, Gone> {
        self.ask(|reply| Request::Cancel(id, reply)).await
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
        self.ask(Request::Drains).await
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
        self.ask(Request::Nodes).await
    }

    /// All nodes as they stand, and as they change.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn watch_nodes(&self) -> Result<watch::Receiver<Vec<v1::Node>>, Gone> {
        self.ask(Request::WatchNodes).await
    }

    /// Tells every filter to reconnect elsewhere and ends the task. Whatever is asked after that is [`Gone`].
    pub async fn go_away(&self) {
        // Gone already is just what is wanted.
        let _ = self.send(Request::GoAway).await;
        self.ended().await;
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
