//! Carrying out what the machine wants of a process: starting, probing, draining, signalling.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    Supervisor,
    answer::{Answer, watch_life},
};
use crate::{
    address::Address,
    config::{Check, Command, Origin, Process},
    local::start_ticks,
    supervisor::{
        admin::Admin,
        attach::Attached,
        cut::{Left, Remains},
        drains::{DrainRequest, Drains},
        evidence::{self, Proxy},
        machine::{ExitStatus, ProcessEffect, ProcessEvent, ProcessState},
        output::Stream,
        owing::Envoy,
        plan::{Plan, Planned, ProcessId},
        probe,
        process::{Child, Children},
        signals::Received,
        succession::ProcessRecord,
    },
};

/// A process and what is being done for it.
#[derive(Debug)]
pub(super) struct Supervised {
    pub(super) config: Arc<Process>,
    body: Body,
    /// When its child was started, in ticks since the boot.
    started: u64,
    chore: Option<JoinHandle<()>>,
    /// The `node.id` of its Envoy: configured, or told by its admin endpoint.
    node: watch::Sender<Option<String>>,
    /// Asks for that.
    learning: Option<JoinHandle<()>>,
    /// What its last wait waited for.
    left: Left,
    /// Looks whether it can be drained as it is configured.
    pub(super) checkup: Option<JoinHandle<()>>,
}

/// Between two questions to an admin endpoint for whose it is.
const LEARN_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug)]
enum Body {
    None,
    Child(u32),
    Attached(Attached),
}

impl Supervisor {
    pub(super) fn act(&mut self, id: ProcessId, run: u32, effect: ProcessEffect, drains: &Drains) {
        let Some(process) = self.processes.get_mut(id.index()) else {
            return;
        };
        if effect != ProcessEffect::FailHealth {
            process.drop_chore();
        }
        let config = Arc::clone(&process.config);
        let admin = config
            .drain
            .as_ref()
            .and_then(|drain| drain.admin.clone())
            .map(Admin);
        let answer = Answer {
            id,
            run,
            requests: self.requests.clone(),
        };
        let envoy = Envoy {
            admin: admin.clone(),
            pid: process.proxy_pid(),
            tcp: drains.tcp(),
        };
        let remains = process.left.remains();
        if effect != ProcessEffect::FailHealth {
            // What was being done may still say something.
            process.left = Left::default();
        }
        let (node, left) = (process.node.clone(), process.left.clone());
        match effect {
            ProcessEffect::Spawn => {
                if let Some(asking) = process.learning.take() {
                    asking.abort();
                }
                if let Some(admin) = admin.filter(|_| node.borrow().is_none()) {
                    process.learning = Some(tokio::spawn(learn(admin, node)));
                }
                self.spawn(id, &config, answer);
            }
            ProcessEffect::Probe => {
                let children = self.children.clone();
                // What a check starts must not outlive a run that is killed meanwhile.
                let mark = self.kept.mark(&config.name);
                process.chore = Some(answer.after(async move { probed(&config, &children, &mark).await }));
            }
            ProcessEffect::FailHealth => {
                tokio::spawn(async move {
                    if let Some(admin) = admin
                        && let Err(error) = admin.fail_health().await
                    {
                        tracing::warn!(process = config.name, %error, "its health checks cannot be made to fail");
                    }
                });
            }
            ProcessEffect::Drain { announce, timeout } => {
                left.set(Remains::unknown("its filters have not answered".to_owned()));
                let drains = drains.clone();
                let request = DrainRequest {
                    process: config.name.clone(),
                    node: node.borrow().clone(),
                    listeners: config
                        .drain
                        .as_ref()
                        .map(|drain| drain.listeners.clone())
                        .unwrap_or_default(),
                    announce,
                    quiet_period: drains.quiet_period(),
                    timeout,
                    closable: admin.is_some(),
                };
                process.chore = Some(answer.after(async move {
                    let ended = evidence::drain(&drains, request, &envoy, &left).await;
                    ProcessEvent::DrainEnded(ended)
                }));
            }
            ProcessEffect::Close => {
                left.say("its admin endpoint has not answered", remains);
                process.chore = Some(answer.after(async move {
                    let closed = match admin {
                        Some(admin) => admin.stop_accepting().await.map_err(|error| error.to_string()),
                        None => Err("no admin endpoint is configured".to_owned()),
                    };
                    ProcessEvent::Closed(closed)
                }));
            }
            ProcessEffect::AwaitListeners { .. } => {
                let drains = drains.clone();
                process.chore = Some(answer.after(async move {
                    if let Some(admin) = admin {
                        evidence::listeners_quiet(&drains, &admin, &envoy, &left).await;
                    }
                    ProcessEvent::ListenersQuiet
                }));
            }
            ProcessEffect::AwaitGate { .. } => {
                let (drains, proxies) = (drains.clone(), self.proxies.subscribe());
                process.chore = Some(answer.after(async move {
                    let (name, gate) = (&config.name, &config.gate);
                    evidence::gate_quiet(&drains, name, gate, proxies, &left).await;
                    ProcessEvent::GateQuiet
                }));
            }
            ProcessEffect::Signal(signal) => process.signal(&self.children, signal),
            ProcessEffect::Kill => process.signal(&self.children, Signal::SIGKILL),
        }
    }

    fn spawn(&mut self, id: ProcessId, config: &Arc<Process>, answer: Answer) {
        let started = match &config.origin {
            Origin::Command(command) => {
                for socket in own_sockets(config) {
                    probe::clear_stale_socket(socket);
                }
                self.start_child(id, config, command, &answer)
            }
            Origin::Attach(to) => Attached::new(to)
                .map(|attached| {
                    let (pid, mut watched) = (attached.pid(), attached.clone());
                    if let Some(process) = self.processes.get_mut(id.index()) {
                        process.body = Body::Attached(attached);
                    }
                    answer.after(async move {
                        watched.exited().await;
                        ProcessEvent::Exited {
                            status: ExitStatus::Unknown,
                            leftovers: false,
                        }
                    });
                    ProcessEvent::Spawned { pid }
                })
                .map_err(|error| (error.to_string(), 1)),
        };
        let event = started.unwrap_or_else(|(error, code)| ProcessEvent::SpawnFailed { error, code });
        self.answers.push_back(answer.event(event));
    }

    fn start_child(
        &mut self,
        id: ProcessId,
        config: &Process,
        command: &Command,
        answer: &Answer,
    ) -> Result<ProcessEvent, (String, i32)> {
        let mark = self.kept.mark(&config.name);
        let child = self
            .children
            .spawn(command, &mark)
            .map_err(|error| (error.to_string(), error.code))?;
        let Child {
            pid,
            stdout,
            stderr,
            life,
        } = child;
        if let Some(pipe) = stdout {
            self.output.pass(&config.name, Stream::Stdout, pipe);
        }
        if let Some(pipe) = stderr {
            self.output.pass(&config.name, Stream::Stderr, pipe);
        }
        if let Some(process) = self.processes.get_mut(id.index()) {
            process.body = Body::Child(pid);
            process.started = start_ticks(pid.cast_signed()).unwrap_or_default();
        }
        tokio::spawn(watch_life(life, answer.clone()));
        Ok(ProcessEvent::Spawned { pid })
    }

    /// Proxies that are alive now.
    pub(super) fn living_proxies(&self) -> Vec<Proxy> {
        let view = self.machine.view(Instant::now());
        let alive = self
            .processes
            .iter()
            .zip(view)
            .filter(|(_, view)| view.pid.is_some());
        let proxies =
            alive.filter_map(|(process, view)| Some((process, view, process.config.drain.as_ref()?)));
        proxies
            .map(|(process, view, drain)| Proxy {
                name: view.name,
                admin: drain.admin.clone().map(Admin),
                node: process.node.borrow().clone(),
            })
            .collect()
    }

    /// What the last wait of a process waited for.
    pub(super) fn left(&self, id: ProcessId) -> Left {
        let process = self.processes.get(id.index());
        process.map(|process| process.left.clone()).unwrap_or_default()
    }

    /// Passes a signal on to the processes that list it, but for those that are not ready: they may not be prepared for it yet,
    /// and it would end them.
    pub(super) fn relay(&self, signal: Signal) {
        let (mut relayed, mut early) = (Vec::new(), Vec::new());
        for (process, view) in self.processes.iter().zip(self.machine.view(Instant::now())) {
            if view.pid.is_none() || !process.config.relay.contains(&signal) {
                continue;
            }
            if view.state == ProcessState::Starting {
                early.push(view.name);
            } else {
                process.relay(&self.children, signal);
                relayed.push(view.name);
            }
        }
        if relayed.is_empty() && early.is_empty() {
            return Received::Relay(signal).log_ignored();
        }
        let (relayed, early) = (relayed.join(", "), early.join(", "));
        if !relayed.is_empty() {
            tracing::info!(%signal, to = relayed, "relayed");
        }
        if !early.is_empty() {
            tracing::warn!(%signal, to = early, "not relayed: not ready yet, and perhaps not prepared for it");
        }
    }
}

impl Supervised {
    pub(super) fn new(config: &Process) -> Self {
        Self {
            config: Arc::new(config.clone()),
            body: Body::None,
            started: 0,
            chore: None,
            node: watch::Sender::new(config.drain.as_ref().and_then(|drain| drain.node.clone())),
            learning: None,
            left: Left::default(),
            checkup: None,
        }
    }

    /// What is kept of it; `None` of what was not started here.
    pub(super) fn record(&self, planned: &Planned, plan: &Plan, pid: Option<u32>) -> Option<ProcessRecord> {
        let Origin::Command(_) = self.config.origin else {
            return None;
        };
        let wire = |span: Duration| span.try_into().ok();
        let drain = self.config.drain.as_ref();
        let admin = drain.and_then(|drain| drain.admin.as_ref());
        Some(ProcessRecord {
            name: planned.name.clone(),
            pid: pid.unwrap_or_default(),
            started: pid.map_or(0, |_| self.started),
            depends_on: planned
                .dependencies
                .iter()
                .map(|id| plan.name(*id).to_owned())
                .collect(),
            stop_signal: planned.stop_signal.unwrap_or(Signal::SIGTERM) as i32,
            stop_timeout: wire(planned.stop_timeout),
            admin: admin.map(ToString::to_string).unwrap_or_default(),
            drain_timeout: planned.drain.and_then(|drain| wire(drain.timeout)),
        })
    }

    pub(super) fn drop_chore(&mut self) {
        if let Some(chore) = self.chore.take() {
            chore.abort();
        }
    }

    /// What its last wait waited for, which is nobody's matter any more.
    pub(super) fn take_left(&mut self) -> Left {
        std::mem::take(&mut self.left)
    }

    /// Whether it has traffic that is waited for.
    pub(super) fn is_accounted(&self) -> bool {
        self.is_proxy() || !self.config.gate.is_empty()
    }

    /// Whether it is a proxy.
    pub(super) fn is_proxy(&self) -> bool {
        self.config.drain.is_some()
    }

    /// The `node.id` of a proxy, once it is known.
    pub(super) fn node(&self) -> Option<watch::Receiver<Option<String>>> {
        self.is_proxy().then(|| self.node.subscribe())
    }

    /// The pid of a proxy, which leads a group if it was started here.
    pub(super) fn proxy_pid(&self) -> Option<u32> {
        if !self.is_proxy() {
            return None;
        }
        match &self.body {
            Body::None => None,
            Body::Child(pid) => Some(*pid),
            Body::Attached(attached) => Some(attached.pid()),
        }
    }

    fn relay(&self, children: &Children, signal: Signal) {
        match &self.body {
            Body::None => {}
            Body::Child(pid) => children.relay(*pid, signal),
            Body::Attached(attached) => attached.signal(signal),
        }
    }

    fn signal(&self, children: &Children, signal: Signal) {
        match &self.body {
            Body::None => {}
            Body::Child(pid) => children.signal(*pid, signal),
            Body::Attached(attached) => attached.signal(signal),
        }
    }
}

async fn probed(config: &Process, children: &Children, mark: &str) -> ProcessEvent {
    let command = match &config.origin {
        Origin::Command(command) => Some(command),
        Origin::Attach(_) => None,
    };
    let ready = match &config.ready {
        Some(ready) => probe::until_ready(ready, command, (children, mark)).await,
        None => Ok(()),
    };
    match ready {
        Ok(()) => ProcessEvent::Ready,
        Err(why) => ProcessEvent::NotReady { why },
    }
}

/// Asks an admin endpoint whose it is until it says so: a drain must not have to wait for that, nor be for everybody.
async fn learn(admin: Admin, node: watch::Sender<Option<String>>) {
    loop {
        match admin.identity().await {
            Ok((id, _)) if !id.is_empty() => {
                node.send_replace(Some(id));
                return;
            }
            _ => tokio::time::sleep(LEARN_EVERY).await,
        }
    }
}

/// Sockets that the process will make, as far as the configuration names them.
fn own_sockets(config: &Process) -> Vec<&Path> {
    let mut own: Vec<&Path> = Vec::new();
    match config.ready.as_ref().map(|ready| &ready.check) {
        Some(Check::Unix(path)) => own.push(path),
        Some(Check::Http(target)) => own.extend(unix_path(&target.address)),
        _ => {}
    }
    if let Some(admin) = config.drain.as_ref().and_then(|drain| drain.admin.as_ref()) {
        own.extend(unix_path(admin));
    }
    own.extend(config.gate.iter().filter_map(unix_path));
    own
}

fn unix_path(address: &Address) -> Option<&Path> {
    match address {
        Address::Unix(path) => Some(path),
        Address::Tcp { .. } => None,
    }
}
