//! Twenty processes in a random graph, held against a naive model.

use std::time::Duration;

use nix::sys::signal::Signal;
use proptest::{collection::vec, option, prelude::*};

use super::{super::*, world::*};
use crate::{config::Restart, supervisor::plan::PlannedDrain};

const COUNT: usize = 20;

fn ms(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

/// Dependencies lead to higher indexes only, so that there is no cycle.
fn process(index: usize) -> impl Strategy<Value = Planned> {
    let dependencies = vec(any::<prop::sample::Index>(), 0..4);
    let drain = option::weighted(0.3, (ms(0..3000), ms(0..3000), any::<bool>()));
    let stop = (ms(0..2000), ms(0..2000));
    (dependencies, drain, any::<bool>(), stop).prop_map(move |(picks, drain, gated, stop)| {
        let mut dependencies: Vec<usize> = picks
            .iter()
            .filter(|_| index + 1 < COUNT)
            .map(|pick| index + 1 + pick.index(COUNT - index - 1))
            .collect();
        dependencies.sort_unstable();
        dependencies.dedup();
        Planned {
            drain: drain.map(|(timeout, kept, closable)| PlannedDrain {
                timeout,
                kept: kept.min(timeout),
                closable,
            }),
            gated,
            stop_timeout: stop.0,
            stop_kept: stop.1.min(stop.0),
            ..planned(&format!("p{index}"), &dependencies)
        }
    })
}

fn processes() -> impl Strategy<Value = Vec<Planned>> {
    (0..COUNT).map(process).collect::<Vec<_>>()
}

fn time() -> impl Strategy<Value = Option<Duration>> {
    option::weighted(0.85, ms(0..1500))
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    let close = prop_oneof![
        6 => ms(0..100).prop_map(|after| Some(Ok(after))),
        1 => Just(Some(Err(()))),
        1 => Just(None),
    ];
    let dies = option::weighted(0.15, (ms(0..8000), 0..3));
    let group = prop_oneof![3 => Just(Duration::ZERO), 1 => ms(1..1500)];
    (
        prop::bool::weighted(0.98),
        option::weighted(0.97, ms(0..400)),
        dies,
        time(),
        close,
        time(),
        time(),
        time(),
        group,
    )
        .prop_map(
            |(spawns, ready, dies, drain, close, listeners, gate, stops, group)| Behaviour {
                spawns,
                ready,
                dies,
                drain,
                close,
                listeners,
                gate,
                stops,
                group,
            },
        )
}

/// One that does all it is asked for, well within its bounds.
fn well_behaved() -> impl Strategy<Value = Behaviour> {
    (ms(0..400), ms(0..90), ms(0..10), ms(0..90), ms(0..90), ms(0..90)).prop_map(
        |(ready, drain, close, listeners, gate, stops)| Behaviour {
            ready: Some(ready),
            drain: Some(drain),
            close: Some(Ok(close)),
            listeners: Some(listeners),
            gate: Some(gate),
            stops: Some(stops),
            ..Behaviour::default()
        },
    )
}

/// When each process is told to stop and when it is gone, worked out from the definition: everything that can happen
/// at the same time does.
fn model(plan: &Plan, behaviours: &[Behaviour], began: Duration) -> Vec<(Duration, Duration)> {
    let mut times = vec![(Duration::ZERO, Duration::ZERO); COUNT];
    // Dependants have lower indexes.
    for index in 0..COUNT {
        let (planned, behaviour) = (&plan.processes[index], &behaviours[index]);
        let free = planned
            .dependants
            .iter()
            .map(|id| times[id.0].1)
            .max()
            .unwrap_or(began)
            .max(began);
        let announced = began + plan.announce;
        let mut signal = free;
        if let Some(drain) = planned.drain {
            signal += behaviour.drain.unwrap();
            if drain.closable {
                signal += behaviour.close.unwrap().unwrap() + behaviour.listeners.unwrap();
            }
        } else {
            signal = signal.max(announced);
        }
        if planned.gated {
            signal += behaviour.gate.unwrap();
        }
        times[index] = (signal, signal + behaviour.stops.unwrap());
    }
    times
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn a_shutdown_that_fits_is_as_the_model_says(
        processes in processes(),
        behaviours in vec(well_behaved(), COUNT),
        announce in ms(0..50),
    ) {
        let mut processes = processes;
        for process in &mut processes {
            process.stop_timeout = SECOND;
            process.stop_kept = SECOND;
            if let Some(drain) = &mut process.drain {
                drain.timeout = SECOND;
                drain.kept = SECOND;
            }
        }
        let plan = Plan::link(processes, 120 * SECOND, announce);
        let began = 20 * SECOND;
        let mut world = World::new(plan.clone(), behaviours.clone());
        world.at(began, Event::Signal(Signal::SIGTERM));
        world.run(300 * SECOND);
        let model = model(&plan, &behaviours, began);
        for (index, (signal, gone)) in model.iter().enumerate() {
            prop_assert_eq!(world.signalled(index), Some(*signal), "p{} signalled", index);
            prop_assert_eq!(world.died(index), Some(*gone), "p{} gone", index);
        }
        let end = model.iter().map(|(_, gone)| *gone).max();
        prop_assert_eq!(world.finished, end.map(|end| (end, 0)));
    }

    #[test]
    fn whatever_happens_the_order_and_the_deadline_hold(
        processes in processes(),
        behaviours in vec(behaviour(), COUNT),
        restarts in vec(option::weighted(0.3, (ms(1..500), option::weighted(0.5, 0..3_u32))), COUNT),
        critical in vec(prop::bool::weighted(0.1), COUNT),
        announce in ms(0..1000),
        grace in ms(0..20_000),
        signal_at in ms(0..10_000),
        again in vec(ms(0..10_000), 0..3),
    ) {
        let mut processes = processes;
        for ((process, restart), critical) in processes.iter_mut().zip(restarts).zip(critical) {
            process.critical = critical;
            if let Some((backoff, limit)) = restart {
                process.restart = Restart::OnFailure { backoff, limit };
            }
        }
        let plan = Plan::link(processes, grace, announce);
        let mut world = World::new(plan.clone(), behaviours);
        world.at(signal_at, Event::Signal(Signal::SIGTERM));
        for later in again {
            world.at(signal_at + later, Event::Signal(Signal::SIGTERM));
        }
        world.run(300 * SECOND);
        check(&plan, &world)?;
    }
}

/// Goes through the log and keeps its own account of who is alive.
fn check(plan: &Plan, world: &World) -> Result<(), TestCaseError> {
    let mut alive = [false; COUNT];
    let mut ready = [false; COUNT];
    let mut began = None;
    let mut forced = false;
    for (time, seen) in &world.log {
        match seen {
            Seen::Dead(id) => {
                alive[id.0] = false;
                ready[id.0] = false;
            }
            Seen::Effect(Effect::Process(id, _, ProcessEffect::Spawn)) => {
                prop_assert!(began.is_none(), "{} is started in a shutdown", plan.name(*id));
                prop_assert!(!alive[id.0], "{} is started twice", plan.name(*id));
                alive[id.0] = true;
                let first = !world
                    .log
                    .iter()
                    .any(|(before, seen)| before < time && matches!(seen, Seen::Dead(dead) if dead == id));
                let dependencies = &plan.processes[id.0].dependencies;
                let missing = dependencies.iter().find(|dependency| !ready[dependency.0]);
                prop_assert!(
                    !first || missing.is_none(),
                    "{} is started before {:?}",
                    plan.name(*id),
                    missing
                );
            }
            Seen::Effect(Effect::Record(Record {
                process: Some(id),
                what: What::Ready(_),
            })) => ready[id.0] = true,
            Seen::Effect(Effect::Record(Record {
                what: What::ShutdownBegan(_),
                ..
            })) => began = Some(*time),
            Seen::Effect(Effect::Record(Record {
                what: What::Forced(_),
                ..
            })) => forced = true,
            Seen::Effect(Effect::Process(id, _, ProcessEffect::Signal(_) | ProcessEffect::Kill))
                if began.is_some() && !forced =>
            {
                // One that had been told before, for a failed restart or for what it left behind, is on its way out.
                let told = world.log.iter().any(|(before, seen)| {
                    Some(*before) <= began
                        && matches!(seen, Seen::Effect(Effect::Process(p, _, ProcessEffect::Signal(_))) if p == id)
                });
                let died = world.log.iter().any(|(before, seen)| {
                    before <= time
                        && matches!(seen, Seen::Effect(Effect::Record(Record { process: Some(p), what: What::Leftovers(_) })) if p == id)
                });
                let dependant = plan.processes[id.0]
                    .dependants
                    .iter()
                    .find(|dependant| alive[dependant.0]);
                prop_assert!(
                    told || died || dependant.is_none(),
                    "{} is stopped while {:?} lives",
                    plan.name(*id),
                    dependant.map(|id| plan.name(*id))
                );
            }
            Seen::Effect(_) => {}
        }
    }
    let began = began.expect("a signal was sent");
    let (end, _) = world.finished.expect("it ends");
    let most = plan.grace_period.max(crate::config::defaults::RESERVE);
    prop_assert!(end - began <= most, "{:?} of {most:?}", end - began);
    prop_assert_eq!(alive, [false; COUNT]);
    Ok(())
}
