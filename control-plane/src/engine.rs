//! The one task that owns the state: it feeds the core, reads the clock and carries out what the core wants.
//!
//! Everybody else holds an [`Engine`]: a handle that sends requests to the task and awaits answers. Commands to a
//! filter go through a slot that keeps only the latest: each is the whole state, so a slow filter loses nothing and
//! holds up nobody.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ebb_proto::v1;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    core::{
        Core, Effect, Event, Now,
        drains::{StartError, StartRequest},
        fleet::StreamId,
        policy::Policy,
    },
    store::Store,
};

/// How long `ListNodes` waits for answers.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(250);

/// Counts of a drain are shown at most this often; its phases at once.
const SHOW_DRAIN_EVERY: Duration = Duration::from_millis(50);

/// The fleet is shown at most this often.
const SHOW_FLEET_EVERY: Duration = Duration::from_millis(200);

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
    Start(Box<StartRequest>, oneshot::Sender<Result<v1::Drain, StartError>>),
    Cancel(String, oneshot::Sender<Option<v1::Drain>>),
    Drain(String, oneshot::Sender<Option<v1::Drain>>),
    Drains(oneshot::Sender<Vec<v1::Drain>>),
    WatchDrain(String, oneshot::Sender<Option<watch::Receiver<v1::Drain>>>),
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
    /// Starts the task, with the drains that the store kept.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn start(defaults: Policy, store: Store) -> anyhow::Result<Self> {
        let records = store.load()?;
        if !records.is_empty() {
            tracing::info!(
                drains = records.len(),
                "resuming what an earlier control plane left"
            );
        }
        let (requests, inbox) = mpsc::channel(QUEUE);
        let task = Task {
            core: Core::new(defaults, records, Now::read()),
            store,
            streams: HashMap::new(),
            drains: HashMap::new(),
            changed: HashSet::new(),
            show_drains_at: None,
            nodes: watch::Sender::new(Vec::new()),
            show_nodes_at: None,
            queries: HashMap::new(),
        };
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

/// Somebody who waits for the answers to an ask.
struct Query {
    reply: oneshot::Sender<Vec<v1::Node>>,
    until: Instant,
}

struct Task {
    core: Core,
    store: Store,
    streams: HashMap<StreamId, watch::Sender<Outgoing>>,
    /// Drains that somebody watches.
    drains: HashMap<String, watch::Sender<v1::Drain>>,
    /// Of those, the ones whose counts changed since they were last shown.
    changed: HashSet<String>,
    show_drains_at: Option<Instant>,
    nodes: watch::Sender<Vec<v1::Node>>,
    show_nodes_at: Option<Instant>,
    queries: HashMap<u64, Query>,
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::Receiver<Request>) {
        loop {
            let until = self.next_deadline();
            let sleep = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            let request = tokio::select! {
                request = inbox.recv() => request,
                () = sleep => {
                    self.tick(Now::read());
                    continue;
                }
            };
            match request {
                None | Some(Request::GoAway) => break,
                Some(request) => {
                    let now = Now::read();
                    self.take(request, now);
                    // A busy inbox must not hold up what is due.
                    if until.is_some_and(|until| until <= now.instant) {
                        self.tick(now);
                    }
                }
            }
        }
        for commands in self.streams.values() {
            commands.send_modify(|slot| {
                let last = match std::mem::take(slot) {
                    Outgoing::Command(command) => command,
                    _ => v1::FilterCommand::default(),
                };
                *slot = Outgoing::GoingAway(v1::FilterCommand {
                    going_away: true,
                    ..last
                });
            });
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let query = self.queries.values().map(|query| query.until).min();
        [
            self.core.next_deadline(),
            self.show_drains_at,
            self.show_nodes_at,
            query,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn take(&mut self, request: Request, now: Now) {
        // Who asked and went away meanwhile needs no answer: the result of sending one is of no interest.
        match request {
            Request::Attach {
                stream,
                hello,
                report,
                commands,
            } => {
                tracing::info!(
                    node = hello.node_id,
                    reporter = format!("{:016x}", hello.epoch),
                    "filter attached"
                );
                self.streams.insert(stream, commands);
                let effects = self.core.handle(
                    Event::Attached {
                        stream,
                        hello,
                        report,
                    },
                    now,
                );
                self.carry_out(effects, now);
            }
            Request::Happened(event) => {
                if let Event::Detached { stream } = event {
                    self.streams.remove(&stream);
                }
                let effects = self.core.handle(event, now);
                self.carry_out(effects, now);
            }
            Request::Start(request, reply) => {
                let started = self.core.start(*request, now).map(|(id, effects)| {
                    self.carry_out(effects, now);
                    self.core.drain(&id, now).unwrap_or_default()
                });
                let _ = reply.send(started);
            }
            Request::Cancel(id, reply) => {
                if let Some(effects) = self.core.cancel(&id, now) {
                    self.carry_out(effects, now);
                }
                let _ = reply.send(self.core.drain(&id, now));
            }
            Request::Drain(id, reply) => {
                let _ = reply.send(self.core.drain(&id, now));
            }
            Request::Drains(reply) => {
                let _ = reply.send(self.core.drains(now));
            }
            Request::WatchDrain(id, reply) => {
                let _ = reply.send(self.watch_drain(id, now));
            }
            Request::Nodes(reply) => {
                let (ask, effects) = self.core.query(now);
                self.queries.insert(
                    ask,
                    Query {
                        reply,
                        until: now.instant + ANSWER_WITHIN,
                    },
                );
                self.carry_out(effects, now);
            }
            Request::WatchNodes(reply) => {
                let receiver = self.nodes.subscribe();
                self.nodes.send_replace(self.core.nodes(None, now));
                let _ = reply.send(receiver);
            }
            Request::GoAway => {}
        }
    }

    fn watch_drain(&mut self, id: String, now: Now) -> Option<watch::Receiver<v1::Drain>> {
        let view = self.core.drain(&id, now)?;
        let sender = self
            .drains
            .entry(id)
            .or_insert_with(|| watch::Sender::new(view.clone()));
        let receiver = sender.subscribe();
        sender.send_replace(view);
        Some(receiver)
    }

    fn tick(&mut self, now: Now) {
        if self.core.next_deadline().is_some_and(|at| at <= now.instant) {
            let effects = self.core.handle(Event::Tick, now);
            self.carry_out(effects, now);
        }
        let late: Vec<u64> = self
            .queries
            .iter()
            .filter(|(_, query)| query.until <= now.instant)
            .map(|(ask, _)| *ask)
            .collect();
        for ask in late {
            self.answer(ask, now);
        }
        if self.show_drains_at.is_some_and(|at| at <= now.instant) {
            self.show_drains_at = None;
            for id in std::mem::take(&mut self.changed) {
                self.show_drain(&id, now);
            }
        }
        if self.show_nodes_at.is_some_and(|at| at <= now.instant) {
            self.show_nodes_at = None;
            self.nodes.send_replace(self.core.nodes(None, now));
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>, now: Now) {
        for effect in effects {
            match effect {
                Effect::Store(record) => self.store(&record),
                Effect::Forget(id) => {
                    self.drains.remove(&id);
                    if let Err(error) = self.store.forget(&id) {
                        tracing::error!(drain = id, error = format!("{error:#}"), "cannot forget a drain");
                    }
                }
                Effect::Send { stream, command } => {
                    if let Some(commands) = self.streams.get(&stream) {
                        commands.send_replace(Outgoing::Command(command));
                    }
                }
                Effect::End(stream) => {
                    if let Some(commands) = self.streams.remove(&stream) {
                        commands.send_replace(Outgoing::Replaced);
                    }
                }
                Effect::DrainChanged { id, phase: true } => {
                    self.changed.remove(&id);
                    self.show_drain(&id, now);
                }
                Effect::DrainChanged { id, phase: false } if self.drains.contains_key(&id) => {
                    self.changed.insert(id);
                    self.show_drains_at.get_or_insert(now.instant + SHOW_DRAIN_EVERY);
                }
                Effect::DrainChanged { .. } => {}
                Effect::FleetChanged if self.nodes.receiver_count() > 0 => {
                    self.show_nodes_at.get_or_insert(now.instant + SHOW_FLEET_EVERY);
                }
                Effect::FleetChanged => {}
                Effect::Answered(ask) => self.answer(ask, now),
            }
        }
    }

    /// A drain that cannot be kept is still carried out: it is lost only if the control plane dies before its end.
    fn store(&self, record: &crate::core::record::Record) {
        if let Some(drain) = &record.drain {
            tracing::info!(
                drain = drain.id,
                phase = drain.phase().as_str_name(),
                in_flight = drain.in_flight,
                "drain"
            );
        }
        if let Err(error) = self.store.put(record) {
            tracing::error!(
                error = format!("{error:#}"),
                "cannot keep a drain; it goes on, but would not survive a restart"
            );
        }
    }

    fn show_drain(&mut self, id: &str, now: Now) {
        let Some(sender) = self.drains.get(id) else { return };
        match self.core.drain(id, now) {
            Some(view) if sender.receiver_count() > 0 => {
                sender.send_replace(view);
            }
            _ => {
                self.drains.remove(id);
            }
        }
    }

    fn answer(&mut self, ask: u64, now: Now) {
        if let Some(query) = self.queries.remove(&ask) {
            let _ = query.reply.send(self.core.nodes(Some(ask), now));
        }
    }
}
