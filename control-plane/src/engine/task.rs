//! The task that owns the core: one request or deadline after the other.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use ebb_proto::v1;
use tokio::sync::{mpsc, oneshot, watch};

mod effects;
mod look;
mod show;
mod start;

use start::Parked;

use super::{ANSWER_WITHIN, Nodes, Outgoing, PAGE, Request, peers::Peers, restore::Restoring};
use crate::{
    core::{
        Core, Effect, Event, Now,
        drains::StartError,
        fleet::{Peer, StreamId},
        policies::Policies,
        record::Kept,
        scope::Scope,
        snapshot::Snapshot,
    },
    store::{Changes, Keeper, Store, Told},
    supervisor::{admin::Admin, succession::RunRecord},
};

/// Somebody who waits for the answers to an ask.
struct Query {
    reply: Reply,
    until: Instant,
}

/// What is wanted of the answers.
enum Reply {
    Nodes(Option<String>, oneshot::Sender<Snapshot>),
    Blockers(oneshot::Sender<Option<Vec<v1::NodeBlocker>>>),
    /// That the filters have done what the start of a drain asks of them.
    Started(String, oneshot::Sender<Result<v1::Drain, StartError>>),
    /// The same of its cancellation.
    Cancelled(String, oneshot::Sender<Option<v1::Drain>>),
    /// Whether a drain could be started.
    Checked(Scope, oneshot::Sender<Result<(), StartError>>),
    /// Whether a drain that was refused can be started after all.
    Retry(Parked),
}

/// How nodes are shown: what views are to be made of, and who watches these.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) shots: watch::Sender<Option<Arc<Snapshot>>>,
    pub(super) views: watch::Sender<Nodes>,
}

pub(super) struct Task {
    pub(super) core: Core,
    /// When filters began to come back.
    started: Instant,
    parked: Vec<Parked>,
    /// To itself, for what it has others do.
    requests: mpsc::WeakSender<Request>,
    /// By the name that the core has for each.
    pub(super) admins: HashMap<String, Admin>,
    /// All that are configured, by address.
    endpoints: HashMap<String, Admin>,
    peers: Peers,
    pub(super) store: Keeper,
    /// Of the processes that this control plane is with, as kept last.
    run: Option<RunRecord>,
    pub(super) streams: HashMap<StreamId, watch::Sender<Outgoing>>,
    /// Drains that somebody watches.
    drains: HashMap<String, watch::Sender<v1::Drain>>,
    /// Of those, the ones whose counts changed since they were last shown.
    changed: HashSet<String>,
    show_drains_at: Option<Instant>,
    nodes: Shown,
    show_nodes_at: Option<Instant>,
    nodes_shown: Option<Instant>,
    queries: HashMap<u64, Query>,
    pub(super) restoring: Vec<Restoring>,
}

impl Task {
    pub(super) fn new(
        policies: Policies,
        kept: Kept,
        mut store: Store,
        endpoints: Vec<Admin>,
        nodes: Shown,
        requests: mpsc::WeakSender<Request>,
    ) -> Self {
        let now = Now::read();
        let kept_drains = kept.drains.len();
        let mut peers = Peers::default();
        let mut kept = kept;
        let ended = peers.resume(&mut kept.reporters, &requests);
        let (mut core, left_out) = Core::new(policies, kept, now);
        let endpoints: HashMap<_, _> = endpoints
            .into_iter()
            .map(|admin| (admin.0.to_string(), admin))
            .collect();
        core.expect_endpoints(endpoints.keys().cloned());
        store.drop_senseless(&left_out);
        let drains = kept_drains - left_out.len();
        if drains > 0 {
            tracing::info!(drains, "resuming what an earlier control plane left");
        }
        let to_itself = requests.clone();
        let tell = move |told| {
            if let Some(requests) = to_itself.upgrade() {
                // One that has ended needs no word of it.
                let _ = requests.blocking_send(Request::Store(told));
            }
        };
        let mut task = Self {
            core,
            started: now.instant,
            parked: Vec::new(),
            requests,
            admins: HashMap::new(),
            endpoints,
            peers,
            store: Keeper::start(store, tell),
            run: None,
            streams: HashMap::new(),
            drains: HashMap::new(),
            changed: HashSet::new(),
            show_drains_at: None,
            nodes,
            show_nodes_at: None,
            nodes_shown: None,
            queries: HashMap::new(),
            restoring: Vec::new(),
        };
        for process in ended {
            let effects = task.core.handle(Event::ProcessEnded { process }, now);
            task.carry_out(effects, now);
        }
        task
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Request>) {
        let over = loop {
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
                None => break None,
                Some(Request::GoAway(over)) => break Some(over),
                Some(request) => {
                    let now = Now::read();
                    self.take(request, now);
                    // A busy inbox must not hold up what is due.
                    if until.is_some_and(|until| until <= now.instant) {
                        self.tick(now);
                    }
                }
            }
        };
        // From here on whoever asks is refused, also who waits in the queue.
        drop(inbox);
        self.parked.clear();
        self.queries.clear();
        self.restoring.clear();
        self.end().await;
        // Who wanted it may not wait for it.
        let _ = over.map(|over| over.send(()));
    }

    fn next_deadline(&self) -> Option<Instant> {
        let query = self.queries.values().map(|query| query.until).min();
        let parked = self.parked.iter().map(|parked| parked.until).min();
        [
            self.core.next_deadline(),
            self.show_drains_at,
            self.show_nodes_at,
            query,
            parked,
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
                peer,
                is_envoy,
                commands,
            } => {
                if let Some(Peer::Local(local)) = peer {
                    let (node, process) = (&hello.node_id, hello.process);
                    self.peers.met(local, is_envoy, node, process, &self.requests);
                }
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
                        peer,
                        report,
                    },
                    now,
                );
                self.carry_out(effects, now);
                self.start_parked(now);
            }
            Request::Happened(event) => {
                if let Event::Detached { stream } = event {
                    self.streams.remove(&stream);
                }
                let of_admin = matches!(event, Event::AdminAnswered { .. });
                self.was_told(&event);
                let effects = self.core.handle(event, now);
                self.carry_out(effects, now);
                // It may have told of what a drain was parked for.
                if of_admin {
                    self.start_parked(now);
                }
            }
            Request::ProcessEnded { pid } => {
                for process in self.peers.ended(pid) {
                    tracing::info!(pid, "an Envoy has ended: nothing of it is in flight any more");
                    let effects = self.core.handle(Event::ProcessEnded { process }, now);
                    self.carry_out(effects, now);
                }
            }
            Request::AdminFound {
                node,
                started,
                admin,
                fails,
            } => {
                tracing::info!(node, address = %admin.0, "admin endpoint found");
                if fails && !self.core.may_have_failed(&node) {
                    tracing::warn!(
                        node,
                        address = %admin.0,
                        "it fails its health checks, and no drain here has it do so: if a control plane that kept nothing was \
                         killed, `ebb cancel --node` undoes it"
                    );
                }
                let found = Event::AdminFound {
                    address: admin.0.to_string(),
                    node,
                    started,
                };
                let effects = self.core.handle(found, now);
                self.carry_out(effects, now);
                self.start_parked(now);
            }
            Request::Start(request, reply) => self.start(
                Parked {
                    request,
                    asked: false,
                    until: now.instant,
                    reply,
                },
                now,
            ),
            Request::Check(scope, reply) => {
                let asked = self.core.query_names(now);
                self.wait_for(asked, Reply::Checked(scope, reply), now);
            }
            Request::Cancel(id, reply) => match self.core.cancel(&id, now) {
                Some(effects) if !effects.is_empty() => {
                    self.carry_out(effects, now);
                    let asked = self.core.query_drain(&id, now);
                    self.wait_for(asked, Reply::Cancelled(id, reply), now);
                }
                _ => drop(reply.send(self.core.drain(&id, now))),
            },
            Request::Forget(node, reply) => {
                let forgotten = self.core.forget(&node, now).map(|(reporters, effects)| {
                    tracing::info!(node, reporters, "forgotten: an operator says that it is gone");
                    self.carry_out(effects, now);
                    reporters
                });
                let _ = reply.send(forgotten);
            }
            Request::Restore(node, reply) => self.restore(&node, reply, now),
            Request::Drain(id, reply) => {
                let _ = reply.send(self.core.drain(&id, now));
            }
            Request::Drains { after, limit, reply } => {
                let _ = reply.send(self.core.drains_after(after, limit, PAGE, now));
            }
            Request::WatchDrain(id, reply) => {
                let _ = reply.send(self.watch_drain(id, now));
            }
            Request::Report(id, reply) => {
                let _ = reply.send(self.core.report(&id, now));
            }
            Request::Nodes { after, reply } => {
                let asked = self.core.query(now);
                self.wait_for(asked, Reply::Nodes(after, reply), now);
            }
            Request::Blockers { drain, limit, reply } => {
                match self.core.ask_blockers(drain.as_deref(), limit, now) {
                    Some(asked) => self.wait_for(asked, Reply::Blockers(reply), now),
                    None => drop(reply.send(None)),
                }
            }
            Request::WatchNodes(reply) => {
                let _ = reply.send(self.nodes.views.subscribe());
                self.show_nodes_soon(now);
            }
            Request::KeepRun(run, reply) => {
                if let Err(error) = self.store.keep(Changes::run(run.as_ref())) {
                    tracing::error!(
                        %error,
                        "cannot keep what a successor of this run has to know"
                    );
                }
                self.run = run;
                let _ = reply.send(());
            }
            Request::Store(Told::Written) => self.all_kept(now),
            Request::Store(Told::Renewed) => self.keep_everything(now),
            Request::GoAway(_) => {}
        }
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
            self.core.give_up(ask);
        }
        if self.parked.iter().any(|parked| parked.until <= now.instant) {
            self.start_parked(now);
        }
        self.show_what_is_due(now);
    }

    /// Answers somebody once every live reporter has answered, and so has done what it was told before; or after
    /// [`ANSWER_WITHIN`].
    fn wait_for(&mut self, (ask, effects): (u64, Vec<Effect>), reply: Reply, now: Now) {
        let until = now.instant + ANSWER_WITHIN;
        self.queries.insert(ask, Query { reply, until });
        self.carry_out(effects, now);
    }

    fn answer(&mut self, ask: u64, now: Now) {
        match self.queries.remove(&ask).map(|query| query.reply) {
            Some(Reply::Nodes(after, reply)) => {
                let _ = reply.send(self.core.snapshot(Some(ask), after.as_deref(), now));
            }
            Some(Reply::Blockers(reply)) => drop(reply.send(Some(self.core.take_blockers(ask)))),
            Some(Reply::Started(id, reply)) => {
                let _ = reply.send(Ok(self.core.drain(&id, now).unwrap_or_default()));
            }
            Some(Reply::Cancelled(id, reply)) => drop(reply.send(self.core.drain(&id, now))),
            Some(Reply::Checked(scope, reply)) => drop(reply.send(self.core.check(&scope))),
            Some(Reply::Retry(wanted)) => self.start(wanted, now),
            None => {}
        }
    }
}
