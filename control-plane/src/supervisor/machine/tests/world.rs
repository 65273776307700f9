//! A world for the machine to act on: processes that answer after given times, in simulated time.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use super::super::*;
use crate::{config::Restart, supervisor::plan::PlannedDrain};

/// How one process behaves. `None` as a time means never.
#[derive(Clone, Debug)]
pub(super) struct Behaviour {
    pub spawns: bool,
    pub ready: Option<Duration>,
    /// Exits by itself this long after its start, with this code; in every run.
    pub dies: Option<(Duration, i32)>,
    pub drain: Option<Duration>,
    pub close: Option<Result<Duration, ()>>,
    pub listeners: Option<Duration>,
    pub gate: Option<Duration>,
    /// From its signal to its exit.
    pub stops: Option<Duration>,
    /// Others of its group live this much longer.
    pub group: Duration,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            spawns: true,
            ready: Some(Duration::from_millis(10)),
            dies: None,
            drain: Some(Duration::from_millis(50)),
            close: Some(Ok(Duration::from_millis(2))),
            listeners: Some(Duration::from_millis(20)),
            gate: Some(Duration::from_millis(30)),
            stops: Some(Duration::from_millis(5)),
            group: Duration::ZERO,
        }
    }
}

pub(super) const SECOND: Duration = Duration::from_secs(1);
/// From SIGKILL to the exit.
pub(super) const KILL: Duration = Duration::from_millis(1);

/// A process with these dependencies and otherwise harmless settings.
pub(super) fn planned(name: &str, dependencies: &[usize]) -> Planned {
    Planned {
        name: name.to_owned(),
        dependencies: dependencies.iter().copied().map(ProcessId).collect(),
        dependants: Vec::new(),
        probed: true,
        stop_signal: None,
        stop_timeout: 4 * SECOND,
        stop_kept: 4 * SECOND,
        drain: None,
        gated: false,
        restart: Restart::Never,
        critical: false,
        tail: Duration::ZERO,
    }
}

pub(super) const DRAIN: Option<PlannedDrain> = Some(PlannedDrain {
    timeout: Duration::from_secs(10),
    kept: Duration::from_secs(10),
    closable: true,
});

/// Something in the log of a world.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Seen {
    Effect(Effect),
    /// The process is really dead.
    Dead(ProcessId),
}

pub(super) struct World {
    pub machine: Machine,
    behaviours: Vec<Behaviour>,
    pub start: Instant,
    pub now: Instant,
    queue: BinaryHeap<Reverse<(Instant, usize)>>,
    events: Vec<Event>,
    /// The run in which each process is really alive.
    pub alive: Vec<Option<u32>>,
    pub log: Vec<(Duration, Seen)>,
    pub finished: Option<(Duration, i32)>,
}

impl World {
    pub(super) fn new(plan: Plan, behaviours: Vec<Behaviour>) -> Self {
        let start = Instant::now();
        let mut world = Self {
            alive: vec![None; behaviours.len()],
            machine: Machine::new(plan, start),
            behaviours,
            start,
            now: start,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            log: Vec::new(),
            finished: None,
        };
        world.at(Duration::ZERO, Event::Start);
        world
    }

    /// Schedules an event for a time since the start.
    pub(super) fn at(&mut self, time: Duration, event: Event) {
        self.events.push(event);
        self.queue
            .push(Reverse((self.start + time, self.events.len() - 1)));
    }

    /// Runs until nothing more happens or the time is over.
    pub(super) fn run(&mut self, most: Duration) {
        let end = self.start + most;
        for _ in 0..100_000 {
            if self.finished.is_some() {
                return;
            }
            let event = self.queue.peek().map(|Reverse((time, _))| *time);
            let deadline = self.machine.next_deadline();
            match [event, deadline].into_iter().flatten().min() {
                Some(next) if next <= end => self.now = self.now.max(next),
                _ => {
                    self.now = end;
                    return;
                }
            }
            let event = match self.queue.peek() {
                Some(Reverse((time, index))) if *time <= self.now => {
                    let event = self.events[*index].clone();
                    self.queue.pop();
                    event
                }
                _ => Event::Tick,
            };
            self.deliver(event);
        }
        panic!("the machine spins at {:?}", self.now - self.start);
    }

    fn deliver(&mut self, event: Event) {
        let mut event = event;
        if let Event::Process(id, run, ProcessEvent::Exited { leftovers, .. }) = &mut event {
            if self.alive[id.0] != Some(*run) {
                return;
            }
            let group = self.behaviours[id.0].group;
            *leftovers = !group.is_zero();
            if *leftovers {
                let since = self.now - self.start;
                self.at(since + group, Event::Process(*id, *run, ProcessEvent::GroupGone));
            } else {
                self.dead(*id);
            }
        } else if let Event::Process(id, run, ProcessEvent::GroupGone) = &event {
            if self.alive[id.0] != Some(*run) {
                return;
            }
            self.dead(*id);
        }
        if let Event::Process(id, _, ProcessEvent::SpawnFailed { .. }) = &event {
            self.log.push((self.now - self.start, Seen::Dead(*id)));
        }
        let effects = self.machine.handle(event, self.now);
        for effect in effects {
            let since = self.now - self.start;
            self.log.push((since, Seen::Effect(effect.clone())));
            match effect {
                Effect::Process(id, run, effect) => self.act(id, run, &effect),
                Effect::Finish { code } => self.finished = Some((since, code)),
                Effect::Announce | Effect::Record(_) => {}
            }
        }
    }

    /// From now on its readiness checks fail.
    pub(super) fn never_ready(&mut self, id: usize) {
        self.behaviours[id].ready = None;
    }

    fn dead(&mut self, id: ProcessId) {
        self.alive[id.0] = None;
        self.log.push((self.now - self.start, Seen::Dead(id)));
    }

    fn act(&mut self, id: ProcessId, run: u32, effect: &ProcessEffect) {
        let since = self.now - self.start;
        let behaviour = self.behaviours[id.0].clone();
        if *effect == ProcessEffect::Kill {
            self.behaviours[id.0].group = Duration::ZERO;
        }
        let mut answer = |after: Option<Duration>, event: ProcessEvent| {
            if let Some(after) = after {
                self.at(since + after, Event::Process(id, run, event));
            }
        };
        match effect {
            ProcessEffect::Spawn if !behaviour.spawns => {
                let failed = ProcessEvent::SpawnFailed {
                    error: "not found".to_owned(),
                    code: 127,
                };
                answer(Some(Duration::ZERO), failed);
            }
            ProcessEffect::Spawn => {
                answer(Some(Duration::ZERO), ProcessEvent::Spawned { pid: 100 * run + 1 });
                if let Some((after, code)) = behaviour.dies {
                    let died = ProcessEvent::Exited {
                        status: ExitStatus::Code(code),
                        leftovers: false,
                    };
                    answer(Some(after), died);
                }
                self.alive[id.0] = Some(run);
            }
            ProcessEffect::Probe => match behaviour.ready {
                Some(after) => answer(Some(after), ProcessEvent::Ready),
                None => {
                    let why = "connection refused".to_owned();
                    answer(Some(SECOND), ProcessEvent::NotReady { why });
                }
            },
            ProcessEffect::Drain { .. } => {
                answer(behaviour.drain, ProcessEvent::DrainEnded(DrainOutcome::Drained));
            }
            ProcessEffect::Close => match behaviour.close {
                Some(Ok(after)) => answer(Some(after), ProcessEvent::Closed(Ok(()))),
                Some(Err(())) => answer(Some(SECOND), ProcessEvent::Closed(Err("no answer".to_owned()))),
                None => {}
            },
            ProcessEffect::AwaitListeners { .. } => answer(behaviour.listeners, ProcessEvent::ListenersQuiet),
            ProcessEffect::AwaitGate { .. } => answer(behaviour.gate, ProcessEvent::GateQuiet),
            ProcessEffect::Signal(signal) => {
                let status = ExitStatus::Signal(*signal as i32);
                answer(
                    behaviour.stops,
                    ProcessEvent::Exited {
                        status,
                        leftovers: false,
                    },
                );
            }
            ProcessEffect::Kill => {
                answer(
                    Some(KILL),
                    ProcessEvent::Exited {
                        status: ExitStatus::Signal(9),
                        leftovers: false,
                    },
                );
            }
            ProcessEffect::FailHealth => {}
        }
    }

    /// When an effect of this process was first seen that satisfies the condition.
    pub(super) fn when(&self, id: usize, wanted: impl Fn(&ProcessEffect) -> bool) -> Option<Duration> {
        self.log.iter().find_map(|(time, seen)| match seen {
            Seen::Effect(Effect::Process(process, _, effect)) if process.0 == id && wanted(effect) => {
                Some(*time)
            }
            _ => None,
        })
    }

    pub(super) fn signalled(&self, id: usize) -> Option<Duration> {
        self.when(id, |effect| matches!(effect, ProcessEffect::Signal(_)))
    }

    pub(super) fn died(&self, id: usize) -> Option<Duration> {
        let dead = |(time, seen): &(Duration, Seen)| (*seen == Seen::Dead(ProcessId(id))).then_some(*time);
        self.log.iter().rev().find_map(dead)
    }

    /// Everything that was told, as text.
    pub(super) fn told(&self) -> Vec<What> {
        self.log
            .iter()
            .filter_map(|(_, seen)| match seen {
                Seen::Effect(Effect::Record(record)) => Some(record.what.clone()),
                _ => None,
            })
            .collect()
    }
}
