//! Stopping what a dead run left: the shell around [`Succession`].
//!
//! A process is the one that was kept only if its pid, its start time and the boot are; it is held by a pidfd before that is
//! looked at, so that a reused pid is never signalled. One that was started in the moment in which the run died was not kept:
//! it is found by the mark in its environment.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant, SystemTime},
};

use nix::sys::signal::Signal;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use tokio::{sync::mpsc, time::sleep};

use super::{
    admin::Admin,
    attach::Attached,
    evidence,
    machine::FORCE_WITHIN,
    marked::{self, Marked},
    owing::Envoy,
    process,
    signals::{Asked, Signals},
    succession::{Effect, Event, ProcessRecord, RunRecord, Succession, Survivor},
    tell::short,
};
use crate::{
    address::Address,
    config::{AttachTo, defaults},
    core::policy::Tcp,
    local::{boot, start_ticks},
};

/// How long a killed process may take to vanish. One that hangs in the kernel must not keep everything from starting.
const VANISH_WITHIN: Duration = Duration::from_secs(2);

/// A survivor, held.
#[derive(Debug)]
struct Held {
    record: ProcessRecord,
    process: Attached,
    /// The others of its process group.
    group: Vec<OwnedFd>,
}

/// Stops what is still alive of a dead run, in order, and says so. Returns when it is gone: what asked this process to stop
/// meanwhile, if anything did. Then all of it took no longer than this grace period from there on.
pub async fn stop(run: &RunRecord, signals: &mut Signals, grace_period: Duration) -> Option<Asked> {
    let mut held: Vec<Held> = Vec::new();
    let mut marked: Vec<Marked> = Vec::new();
    if run.boot == boot() {
        held.extend(run.processes.iter().filter_map(Held::find));
        marked = marked::all(run);
        held.extend(not_kept(run, &held, &marked));
    }
    match &run.shutdown {
        Some(shutdown) => {
            tracing::warn!(
                why = shutdown.why,
                alive = held.len(),
                "the last run died in its shutdown, which goes on"
            );
            tracing::warn!("{}", shutdown.cut_short(SystemTime::now()));
        }
        None if held.is_empty() && marked.is_empty() => {}
        None => tracing::warn!(alive = held.len(), "the last run died: stopping what it left"),
    }
    let mut asked = None;
    if !held.is_empty() {
        let now = Instant::now();
        let shutdown = run.shutdown.as_ref();
        let drains_until = shutdown.map(|shutdown| now + shutdown.left(SystemTime::now()));
        let survivors = held.iter().map(|held| Survivor::new(&held.record)).collect();
        let succession = Succession::new(survivors, drains_until);
        asked = drive(succession, held, Stops::new(signals, grace_period)).await;
    }
    if !marked.is_empty() {
        sweep(run).await;
    }
    asked
}

async fn drive(mut succession: Succession, mut held: Vec<Held>, mut stops: Stops<'_>) -> Option<Asked> {
    let (sender, mut events) = mpsc::unbounded_channel();
    for (index, held) in held.iter().enumerate() {
        let (mut process, sender) = (held.process.clone(), sender.clone());
        tokio::spawn(async move {
            process.exited().await;
            // Nobody waits for it any more after that.
            let _ = sender.send(Event::Gone(index));
        });
    }
    let mut effects = succession.handle(Event::Tick, Instant::now());
    loop {
        for effect in effects.drain(..) {
            match effect {
                Effect::Drain(index) => {
                    if let Some(held) = held.get(index) {
                        held.drain(index, sender.clone());
                    }
                }
                Effect::Signal(index, signal) => with(&mut held, index, |held| held.tell(signal)),
                Effect::Kill(index) => with(&mut held, index, |held| held.tell(Signal::SIGKILL)),
            }
        }
        if succession.is_over() {
            return stops.asked;
        }
        let until = succession.next_deadline();
        let wait = async {
            match until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => sleep(VANISH_WITHIN).await,
            }
        };
        let event = tokio::select! {
            Some(event) = events.recv() => event,
            until = stops.next() => Event::Hurry(until),
            () = wait => {
                if until.is_none() {
                    tracing::error!("what the last run left cannot be killed; going on without its end");
                    return stops.asked;
                }
                Event::Tick
            }
        };
        if let Event::Gone(index) = event {
            with(&mut held, index, Held::gone);
        }
        effects = succession.handle(event, Instant::now());
    }
}

fn with(held: &mut [Held], index: usize, act: impl FnOnce(&mut Held)) {
    if let Some(held) = held.get_mut(index) {
        act(held);
    }
}

impl Held {
    /// The process that was kept, if it is still alive.
    fn find(record: &ProcessRecord) -> Option<Self> {
        let pid = i32::try_from(record.pid).ok().filter(|pid| *pid > 1)?;
        let process = Attached::new(&AttachTo::Pid(pid)).ok()?;
        // Only now, with the process held, is its start that of the one that will be signalled.
        (start_ticks(pid)? == record.started).then(|| Self {
            record: record.clone(),
            process,
            group: Vec::new(),
        })
    }

    fn drain(&self, index: usize, sender: mpsc::UnboundedSender<Event>) {
        let Ok(address) = self.record.admin.parse::<Address>() else {
            // Whoever waits for it is this very caller.
            let _ = sender.send(Event::Quiet(index));
            return;
        };
        tracing::info!(
            process = self.record.name,
            "left by the last run: waiting for its requests to end"
        );
        let name = self.record.name.clone();
        let pid = Some(self.record.pid);
        tokio::spawn(async move {
            let admin = Admin(address);
            let envoy = Envoy {
                admin: Some(admin.clone()),
                pid,
                // What the dead run was told of them is not known.
                tcp: Tcp::Wait,
            };
            for told in [admin.fail_health().await, admin.stop_accepting().await] {
                if let Err(error) = told {
                    tracing::warn!(process = name, %error, "cannot be told to close");
                }
            }
            evidence::admin_quiet(&admin, &envoy).await;
            // Nobody waits for it any more after its time.
            let _ = sender.send(Event::Quiet(index));
        });
    }

    /// Signals the whole group, each of them held.
    fn tell(&mut self, signal: Signal) {
        tracing::warn!(
            process = self.record.name,
            pid = self.record.pid,
            %signal,
            timeout = %short(Survivor::new(&self.record).stop_timeout),
            "left by the last run: stopping it"
        );
        self.group = others_of_group(self.record.pid);
        self.process.signal(signal);
        for member in &self.group {
            send(member, signal);
        }
    }

    /// Its first process is gone; nothing of its group may outlive it.
    fn gone(&mut self) {
        for member in &self.group {
            send(member, Signal::SIGKILL);
        }
        tracing::info!(process = self.record.name, "left by the last run: gone");
    }
}

/// Those that were started and not kept before the run died: what leads a group, and is the oldest of its name.
fn not_kept(run: &RunRecord, held: &[Held], marked: &[Marked]) -> Vec<Held> {
    let missing = run.processes.iter().filter(|record| {
        let mut names = held.iter().map(|held| &held.record.name);
        !names.any(|name| *name == record.name)
    });
    let found = missing.filter_map(|record| {
        let mut of_it = marked.iter().filter(|one| one.name == record.name);
        let leader = of_it.find(|one| process::is_of_group(one.pid, one.pid))?;
        Held::find(&ProcessRecord {
            pid: leader.pid,
            started: leader.started,
            ..record.clone()
        })
    });
    found.collect()
}

/// Kills what outlived the processes that started it, until there is none: as a run does at its end.
async fn sweep(run: &RunRecord) {
    let until = Instant::now() + VANISH_WITHIN;
    while Instant::now() < until {
        let left = marked::all(run);
        if left.is_empty() {
            return;
        }
        for Marked { pid, started, name } in left {
            let record = ProcessRecord {
                pid,
                started,
                ..ProcessRecord::default()
            };
            if let Some(held) = Held::find(&record) {
                tracing::warn!(
                    process = name,
                    pid,
                    "left by the last run: killing what outlived it"
                );
                held.process.signal(Signal::SIGKILL);
            }
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// What asks this process to stop while it stops others.
struct Stops<'s> {
    signals: &'s mut Signals,
    grace_period: Duration,
    asked: Option<Asked>,
    /// When it was last asked again.
    repeated: Option<Instant>,
}

impl<'s> Stops<'s> {
    fn new(signals: &'s mut Signals, grace_period: Duration) -> Self {
        Self {
            signals,
            grace_period,
            asked: None,
            repeated: None,
        }
    }

    /// When all has to be over, as somebody asks for it: the first time by the grace period, and at once who insists.
    async fn next(&mut self) -> Instant {
        loop {
            let asked = self.signals.stop().await;
            let now = Instant::now();
            if self.asked.is_none() {
                self.asked = Some(asked);
                tracing::warn!(
                    "{asked}: nothing is started, and what the last run left is stopped within the grace period ({})",
                    short(self.grace_period)
                );
                return now + self.grace_period.saturating_sub(defaults::RESERVE);
            }
            let Asked::Signal(signal) = asked else { continue };
            match self.repeated.replace(now) {
                Some(before) if now - before <= FORCE_WITHIN => {
                    tracing::warn!("{signal} repeated: killing what the last run left");
                    return now;
                }
                _ => tracing::info!("{signal} again: it goes on; once more within 2s kills everything"),
            }
        }
    }
}

fn send(process: &OwnedFd, signal: Signal) {
    if let Some(raw) = rustix::process::Signal::from_named_raw(signal as i32) {
        // One that is gone already is as good.
        let _ = pidfd_send_signal(process, raw);
    }
}

/// The members of a group but its leader, which is alive and held: so nobody else has that number.
fn others_of_group(leader: u32) -> Vec<OwnedFd> {
    let others = process::group(leader).into_iter().filter(|pid| *pid != leader);
    let members = others.filter_map(|raw| {
        let pid = Pid::from_raw(raw.cast_signed())?;
        let held = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // It may have been another process until it was held.
        process::is_of_group(raw, leader).then_some(held)
    });
    members.collect()
}
