//! The task that drives the machine: it reads the clock, feeds in what happens, and carries out what follows.

mod account;
mod act;
mod answer;
mod keep;
mod ready;

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{mpsc, watch};

use self::act::Supervised;
use super::{
    cut::{Account, Verdict},
    drains::Drains,
    evidence::Proxy,
    handle::{Handle, Request, Status, Told, report},
    machine::{Effect, Event, Force, Machine, ProcessEvent, Record, What},
    output::{Output, OutputFormat},
    plan::Plan,
    process::Children,
    signals::{Received, Signals},
    tell::{Severity, short},
};
use crate::{
    config::{Config, defaults},
    limits,
};

/// Requests and events that may wait for the task; beyond it the senders wait.
const QUEUE: usize = 1024;

/// The most that everything after the last process may take. Where the grace period leaves less, it is less.
const CLEAN_UP_MAX: Duration = Duration::from_secs(1);

/// How the run of a supervisor ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What to exit with.
    pub code: i32,
    /// When everything else of this program has to be over.
    pub until: Instant,
    /// What was cut, for the last line of the log; `None` where nothing has traffic that is waited for.
    pub verdict: Option<Verdict>,
}

/// A supervisor that has not started anything yet. Signals are armed already: none is lost, and none ends this process.
#[derive(Debug)]
pub struct Supervisor {
    processes: Vec<Supervised>,
    machine: Machine,
    children: Children,
    output: Output,
    signals: Signals,
    inbox: mpsc::Receiver<Request>,
    /// Also keeps the inbox open.
    requests: mpsc::Sender<Request>,
    /// Answers that are there at once, before anything else that happens.
    answers: VecDeque<Event>,
    status: watch::Sender<Status>,
    /// Those that are alive.
    proxies: watch::Sender<Vec<Proxy>>,
    shutdown_began: Option<Instant>,
    /// Why everything was killed, if it was.
    forced: Option<Force>,
    account: Account,
    kept: keep::Kept,
}

impl Supervisor {
    /// A supervisor for the processes of a configuration. One per process of the operating system: it reaps all
    /// children.
    ///
    /// # Errors
    /// The system refuses signals, threads or the role of the reaper.
    pub fn new(config: &Config, format: OutputFormat) -> io::Result<Self> {
        let signals = Signals::arm()?;
        let inherited = limits::raise();
        let (requests, inbox) = mpsc::channel(QUEUE);
        let machine = Machine::new(Plan::new(config), Instant::now());
        let status = Status {
            unready: machine.unready(),
            ..Status::default()
        };
        Ok(Self {
            processes: config.processes.iter().map(Supervised::new).collect(),
            machine,
            children: Children::new(inherited)?,
            output: Output::new(format)?,
            signals,
            inbox,
            requests,
            answers: VecDeque::from([Event::Start]),
            status: watch::Sender::new(status),
            proxies: watch::Sender::default(),
            shutdown_began: None,
            forced: None,
            account: Account::default(),
            kept: keep::Kept::default(),
        })
    }

    /// A handle to it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle {
            requests: self.requests.clone(),
            status: self.status.subscribe(),
            nodes: self.processes.iter().filter_map(Supervised::node).collect(),
        }
    }

    /// The signals that come before it runs.
    pub(super) fn signals(&mut self) -> &mut Signals {
        &mut self.signals
    }

    /// How an end is that comes before it runs: nothing was started.
    pub(super) fn never_ran() -> Ended {
        Ended {
            code: 0,
            until: Instant::now() + defaults::CLEAN_UP,
            verdict: None,
        }
    }

    /// Starts the processes, keeps them, and stops them in order.
    pub async fn run(mut self, drains: Drains) -> Ended {
        self.tell_times();
        let code = loop {
            let event = match self.answers.pop_front() {
                Some(event) => event,
                None => self.next().await,
            };
            self.tell_of_end(&event, &drains).await;
            let effects = self.machine.handle(event, Instant::now());
            self.publish_proxies();
            // Kept before anything follows from it.
            self.keep(&effects, &drains).await;
            let mut finished = None;
            for effect in effects {
                if let Effect::Finish { code } = effect {
                    finished = Some(code);
                } else {
                    self.carry_out(effect, &drains);
                }
            }
            if let Some(code) = finished {
                break code;
            }
            self.publish(None);
        };
        self.end(code, &drains).await
    }

    /// Says what the grace period comes to, as long as it can still be changed.
    fn tell_times(&self) {
        let plan = self.machine.plan();
        for id in plan.ids() {
            if let Some((least, most)) = plan.drain_times(id) {
                let (process, grace) = (plan.name(id), short(plan.grace_period()));
                let (least, most) = (short(least), short(most));
                tracing::info!(
                    process,
                    "a stop drains it for at least {least} and at most {most}, of a grace period of {grace}"
                );
            }
        }
    }

    /// Everything after the last process.
    async fn end(mut self, code: i32, drains: &Drains) -> Ended {
        let grace = self.machine.plan().grace_period();
        let clean_up = clean_up(
            self.shutdown_began
                .map(|began| grace.saturating_sub(began.elapsed())),
        );
        let until = Instant::now() + clean_up;
        // What is not known by then is told as it was.
        let _ = tokio::time::timeout(clean_up / 4, self.account.settled()).await;
        // The last that is told of it.
        let verdict = self.verdict();
        if let Some(Verdict { text, severity }) = verdict.clone() {
            self.tell_all(None, text, severity);
        }
        self.publish(Some(code));
        for line in report(&self.status.borrow().shutdown) {
            tracing::info!("{line}");
        }
        // What outlived its process is killed, then the last output is awaited, as long as there is time; what is left is for the
        // control plane.
        self.children.sweep(clean_up / 4).await;
        drains.release().await;
        drains.keep_run(None).await;
        let written = Instant::now();
        // Who repeats a signal does not want to wait.
        let waits = self.shutdown_began.filter(|_| self.forced.is_none());
        let spare = waits.map(|began| began + grace);
        let spare = spare.and_then(|end| end.checked_sub(defaults::CLEAN_UP));
        let signals = &mut self.signals;
        // Nothing is left that a signal could stop but this wait.
        let unwanted = async { while !matches!(signals.next().await, Received::Stop(_)) {} };
        let by = (written + clean_up / 4).max(spare.unwrap_or(written));
        self.output.finish(by, unwanted).await;
        let until = until.max((Instant::now() + defaults::CLEAN_UP).min(until + written.elapsed()));
        Ended { code, until, verdict }
    }

    /// A proxy that is gone with its whole group has nothing in flight: the drains need not wait for its filters.
    async fn tell_of_end(&self, event: &Event, drains: &Drains) {
        if let Event::Process(id, _, ProcessEvent::Exited { leftovers: false, .. } | ProcessEvent::GroupGone) =
            event
            && let Some(pid) = self.processes.get(id.index()).and_then(Supervised::proxy_pid)
        {
            drains.process_ended(pid).await;
        }
    }

    async fn next(&mut self) -> Event {
        loop {
            let deadline = self.machine.next_deadline();
            let sleep = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                received = self.signals.next() => match received {
                    Received::Stop(signal) => return Event::Signal(signal),
                    Received::TerminalLost => return Event::TerminalLost,
                    Received::Relay(signal) => self.relay(signal),
                    Received::Nobodys(_) => received.log_ignored(),
                },
                Some(request) = self.inbox.recv() => match request {
                    Request::Event(event) => {
                        // Whatever was being done for a process that has ended is of no use any more.
                        if let Event::Process(id, _, ProcessEvent::Exited { .. } | ProcessEvent::GroupGone) = &event
                            && let Some(process) = self.processes.get_mut(id.index())
                        {
                            process.drop_chore();
                        }
                        return event;
                    }
                    // Who asked and went away needs no answer.
                    Request::View(reply) => drop(reply.send(self.machine.view(Instant::now()))),
                },
                () = sleep => return Event::Tick,
            }
        }
    }

    fn carry_out(&mut self, effect: Effect, drains: &Drains) {
        match effect {
            // The status that is published after it says so.
            Effect::Announce | Effect::Finish { .. } => {}
            Effect::Record(record) => {
                self.check_up(&record, drains);
                self.tell(&record);
            }
            Effect::Process(id, run, effect) => self.act(id, run, effect, drains),
        }
    }

    fn tell(&mut self, record: &Record) {
        let process = record.process.map(|id| self.machine.plan().name(id).to_owned());
        let mut text = record.text(self.machine.plan());
        if let (What::WaitTimedOut(_), Some(id)) = (&record.what, record.process) {
            let left = self.left(id).text();
            if !left.is_empty() {
                text = format!("{text}; left: {left}");
            }
        }
        match (record.severity(), &process) {
            (Severity::Info, Some(process)) => tracing::info!(process, "{text}"),
            (Severity::Info, None) => tracing::info!("{text}"),
            (Severity::Warning, Some(process)) => tracing::warn!(process, "{text}"),
            (Severity::Warning, None) => tracing::warn!("{text}"),
        }
        if matches!(record.what, What::ShutdownBegan(_)) {
            self.shutdown_began = Some(Instant::now());
        }
        if let What::Forced(why) = record.what {
            self.forced = Some(why);
        }
        self.account(record);
        self.tell_all(process, text, record.severity());
    }

    /// Tells whoever follows the shutdown, once it has begun.
    fn tell_all(&self, process: Option<String>, text: String, severity: Severity) {
        let Some(began) = self.shutdown_began else {
            return;
        };
        let told = Arc::new(Told {
            at: SystemTime::now(),
            since: began.elapsed(),
            process,
            text,
            severity,
        });
        self.status.send_modify(|status| status.shutdown.push(told));
    }

    /// Before a gate is asked for, which has to know who is alive.
    fn publish_proxies(&self) {
        let proxies = self.living_proxies();
        self.proxies.send_if_modified(|known| {
            let changed = *known != proxies;
            *known = proxies;
            changed
        });
    }

    fn publish(&self, code: Option<i32>) {
        self.status.send_modify(|status| {
            status.generation += 1;
            status.unready = self.machine.unready();
            status.code = code;
        });
    }
}

/// How long everything after the last process may take, by what is left of the grace period.
fn clean_up(left: Option<Duration>) -> Duration {
    left.unwrap_or(CLEAN_UP_MAX)
        .clamp(defaults::CLEAN_UP, CLEAN_UP_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_keeps_to_the_grace_period_and_to_what_is_reserved_of_it() {
        let ms = Duration::from_millis;
        assert_eq!(clean_up(Some(ms(20_000))), CLEAN_UP_MAX);
        assert_eq!(clean_up(Some(ms(700))), ms(700));
        assert_eq!(clean_up(Some(Duration::ZERO)), defaults::CLEAN_UP);
        // The last SIGKILL, and what follows it.
        assert!(defaults::KILL_WITHIN + defaults::CLEAN_UP <= defaults::RESERVE);
    }
}
