//! The ordered shutdown.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{super::*, world::*};
use crate::{config::defaults, supervisor::plan::PlannedDrain};

const MS: Duration = Duration::from_millis(1);

/// The three-process gateway, stopped by SIGTERM after a second.
fn gateway(change: impl FnOnce(&mut Vec<Planned>, &mut Vec<Behaviour>)) -> World {
    let mut processes = vec![
        planned("router", &[1]),
        planned("policy", &[2]),
        planned("executor", &[]),
    ];
    processes[0].drain = DRAIN;
    let mut behaviours = vec![Behaviour::default(); 3];
    change(&mut processes, &mut behaviours);
    let mut world = World::new(Plan::link(processes, 30 * SECOND, Duration::ZERO), behaviours);
    world.at(SECOND, Event::Signal(Signal::SIGTERM));
    world
}

fn effects(world: &World, id: usize) -> Vec<&'static str> {
    world
        .log
        .iter()
        .filter_map(|(_, seen)| match seen {
            Seen::Effect(Effect::Process(process, _, effect)) if process.0 == id => Some(match effect {
                ProcessEffect::Spawn => "spawn",
                ProcessEffect::Probe => "probe",
                ProcessEffect::FailHealth => "fail health",
                ProcessEffect::Drain { .. } => "drain",
                ProcessEffect::Close => "close",
                ProcessEffect::AwaitListeners { .. } => "await listeners",
                ProcessEffect::AwaitGate { .. } => "await gate",
                ProcessEffect::Signal(_) => "signal",
                ProcessEffect::Kill => "kill",
            }),
            _ => None,
        })
        .collect()
}

#[test]
fn the_gateway_stops_in_order_and_waits_no_longer_than_events_tell() {
    let mut world = gateway(|processes, _| processes[1].gated = true);
    world.run(60 * SECOND);
    assert_eq!(
        effects(&world, 0),
        [
            "spawn",
            "probe",
            "fail health",
            "drain",
            "close",
            "await listeners",
            "signal"
        ]
    );
    assert_eq!(effects(&world, 1), ["spawn", "probe", "await gate", "signal"]);
    assert_eq!(effects(&world, 2), ["spawn", "probe", "signal"]);
    // Drain 50, close 2, quiet again 20, exit 5; gate 30, exit 5; exit 5.
    assert_eq!(world.signalled(0), Some(SECOND + 72 * MS));
    assert_eq!(world.signalled(1), Some(SECOND + 107 * MS));
    assert_eq!(world.signalled(2), Some(SECOND + 112 * MS));
    assert_eq!(world.finished, Some((SECOND + 117 * MS, 0)));
    let announced = world
        .log
        .iter()
        .position(|(_, seen)| *seen == Seen::Effect(Effect::Announce));
    let drained = world.log.iter().position(|(_, seen)| {
        matches!(
            seen,
            Seen::Effect(Effect::Process(_, _, ProcessEffect::Drain { .. }))
        )
    });
    assert!(announced < drained);
}

#[test]
fn while_it_stops_everybody_can_see_why() {
    let mut world = gateway(|_, behaviours| behaviours[0].drain = Some(5 * SECOND));
    world.run(2 * SECOND);
    assert_eq!(
        world.machine.unready().as_deref(),
        Some("shutting down: received SIGTERM")
    );
    let view = world.machine.view(world.now);
    assert_eq!(view[0].state, ProcessState::Draining);
    assert_eq!(view[0].waits_for, "its requests, at most 9s");
    assert_eq!(
        (view[1].state, view[1].waits_for.as_str()),
        (ProcessState::Holding, "router to exit")
    );
    assert_eq!(view[2].waits_for, "policy to exit");
}

#[test]
fn the_signal_relayed_is_the_one_received_unless_configured() {
    let mut processes = vec![planned("a", &[]), planned("b", &[])];
    processes[1].stop_signal = Some(Signal::SIGUSR2);
    let mut world = World::new(
        Plan::link(processes, 30 * SECOND, Duration::ZERO),
        vec![Behaviour::default(); 2],
    );
    world.at(SECOND, Event::Signal(Signal::SIGQUIT));
    world.run(60 * SECOND);
    assert!(
        world
            .when(0, |effect| *effect == ProcessEffect::Signal(Signal::SIGQUIT))
            .is_some()
    );
    assert!(
        world
            .when(1, |effect| *effect == ProcessEffect::Signal(Signal::SIGUSR2))
            .is_some()
    );
}

#[test]
fn a_request_or_a_lost_terminal_stops_with_sigterm_and_repeating_it_does_nothing() {
    for event in [Event::ShutdownRequested, Event::TerminalLost] {
        let mut world = World::new(
            Plan::link(vec![planned("a", &[])], 30 * SECOND, Duration::ZERO),
            vec![Behaviour {
                stops: Some(SECOND),
                ..Behaviour::default()
            }],
        );
        for time in [SECOND, SECOND + 10 * MS, SECOND + 20 * MS] {
            world.at(time, event.clone());
        }
        world.run(60 * SECOND);
        assert!(
            world
                .when(0, |effect| *effect == ProcessEffect::Signal(Signal::SIGTERM))
                .is_some()
        );
        assert_eq!(world.finished, Some((2 * SECOND, 0)));
    }
}

#[test]
fn a_process_that_ignores_its_signal_is_killed_at_its_timeout() {
    let mut world = gateway(|_, behaviours| behaviours[1].stops = None);
    world.run(60 * SECOND);
    let killed = world
        .when(1, |effect| *effect == ProcessEffect::Kill)
        .expect("killed");
    assert_eq!(killed - world.signalled(1).expect("signalled"), 4 * SECOND);
    assert!(world.signalled(2) >= world.died(1));
    assert!(world.told().contains(&What::Killed(4 * SECOND)));
    assert_eq!(world.finished.expect("ended").1, 0, "asked for");
}

#[test]
fn a_stop_timeout_of_zero_kills_without_a_signal() {
    let mut world = gateway(|processes, _| processes[1].stop_timeout = Duration::ZERO);
    world.run(60 * SECOND);
    assert_eq!(effects(&world, 1), ["spawn", "probe", "kill"]);
}

#[test]
fn the_group_counts_not_only_its_first_process() {
    let mut world = gateway(|_, behaviours| behaviours[1].group = 300 * MS);
    world.run(60 * SECOND);
    let gone = world.died(1).expect("dead");
    assert_eq!(gone - world.signalled(1).expect("signalled"), 305 * MS);
    assert!(world.signalled(2) >= Some(gone));
}

#[test]
fn a_drain_that_does_not_end_is_left_at_its_deadline() {
    let mut world = gateway(|_, behaviours| behaviours[0].drain = None);
    world.run(60 * SECOND);
    assert_eq!(world.signalled(0), Some(11 * SECOND));
    assert!(
        !effects(&world, 0).contains(&"close"),
        "there is no time left for it"
    );
    assert!(world.told().contains(&What::WaitTimedOut(Wait::Drain)));
}

#[test]
fn listeners_that_cannot_be_closed_do_not_hold_it_up() {
    for close in [Some(Err(())), None] {
        let mut world = gateway(|_, behaviours| behaviours[0].close = close);
        world.run(60 * SECOND);
        assert!(world.signalled(0) <= Some(11 * SECOND), "{close:?}");
        assert_eq!(world.finished.expect("ended").1, 0);
    }
    let mut world = gateway(|processes, _| {
        processes[0].drain = Some(PlannedDrain {
            timeout: SECOND,
            kept: SECOND,
            closable: false,
        });
    });
    world.run(60 * SECOND);
    assert_eq!(effects(&world, 0), ["spawn", "probe", "drain", "signal"]);
}

#[test]
fn a_gate_takes_what_those_below_can_spare_and_no_more() {
    let mut world = gateway(|processes, behaviours| {
        processes[1].gated = true;
        behaviours[1].gate = None;
        behaviours[1].stops = None;
        behaviours[2].stops = None;
    });
    world.run(60 * SECOND);
    // 30 s - 0.5 s reserve - 2 x 4 s of stop timeouts.
    assert_eq!(world.signalled(1), Some(SECOND + 21_500 * MS));
    assert!(world.told().contains(&What::WaitTimedOut(Wait::Gate)));
    let killed = world
        .when(2, |effect| *effect == ProcessEffect::Kill)
        .expect("killed");
    let spared = killed - world.signalled(2).expect("signalled");
    assert!(
        spared >= 4 * SECOND - KILL,
        "those below still have their time: {spared:?}"
    );
    assert!(world.finished.expect("ended").0 <= 31 * SECOND);
}

/// The gateway with a drain that has no bound of its own, and stops that are lent to it but for a second each.
fn lending(change: impl FnOnce(&mut Vec<Behaviour>)) -> World {
    gateway(|processes, behaviours| {
        for process in processes.iter_mut() {
            process.stop_kept = SECOND;
        }
        processes[0].drain = Some(PlannedDrain {
            timeout: 30 * SECOND,
            kept: SECOND,
            closable: true,
        });
        change(behaviours);
    })
}

#[test]
fn a_drain_takes_what_stops_lend_to_it() {
    let mut world = lending(|behaviours| behaviours[0].drain = Some(26 * SECOND));
    world.run(60 * SECOND);
    // 30 s - 0.5 s reserve - 3 x 1 s.
    assert_eq!(world.signalled(0), Some(SECOND + 26_022 * MS));
    assert!(
        world.told().contains(&What::DrainEnded(DrainOutcome::Drained)),
        "{:?}",
        world.told()
    );
    let mut world = lending(|behaviours| {
        for behaviour in behaviours {
            (behaviour.drain, behaviour.stops) = (None, None);
        }
    });
    world.run(60 * SECOND);
    assert_eq!(world.signalled(0), Some(SECOND + 26_500 * MS));
    for id in 0..3 {
        let killed = world.when(id, |effect| *effect == ProcessEffect::Kill);
        let spared = killed.expect("killed") - world.signalled(id).expect("signalled");
        assert!(
            spared >= SECOND - KILL * 3 && spared <= SECOND,
            "{id}: {spared:?}"
        );
    }
    assert!(world.finished.expect("ended").0 <= 31 * SECOND);
}

#[test]
fn what_a_drain_does_not_need_is_there_for_the_stops() {
    let mut world = lending(|behaviours| behaviours[1].stops = Some(3 * SECOND));
    world.run(60 * SECOND);
    let took = world.died(1).expect("dead") - world.signalled(1).expect("signalled");
    assert_eq!(took, 3 * SECOND);
    assert_eq!(world.finished.expect("ended").1, 0);
    assert!(!world.told().iter().any(|what| matches!(what, What::Killed(_))));
}

#[test]
fn the_announcement_is_waited_for_also_without_a_drain() {
    let mut processes = vec![planned("edge", &[1]), planned("base", &[]), planned("proxy", &[])];
    processes[2].drain = DRAIN;
    let mut world = World::new(
        Plan::link(processes, 30 * SECOND, 2 * SECOND),
        vec![Behaviour::default(); 3],
    );
    world.at(SECOND, Event::Signal(Signal::SIGTERM));
    world.run(60 * SECOND);
    assert_eq!(world.signalled(0), Some(3 * SECOND));
    assert_eq!(
        world.signalled(1),
        Some(3 * SECOND + 5 * MS),
        "once, not for each"
    );
    let drain = world.log.iter().find_map(|(_, seen)| match seen {
        Seen::Effect(Effect::Process(_, _, ProcessEffect::Drain { announce, timeout })) => {
            Some((*announce, *timeout))
        }
        _ => None,
    });
    assert_eq!(
        drain,
        Some((2 * SECOND, 10 * SECOND)),
        "a drain announces for itself"
    );
}

#[test]
fn a_repeated_signal_is_ignored_and_one_soon_after_it_forces() {
    let slow = |_: &mut Vec<Planned>, behaviours: &mut Vec<Behaviour>| behaviours[0].drain = Some(9 * SECOND);
    let mut world = gateway(slow);
    for time in [2, 5, 8] {
        world.at(time * SECOND, Event::Signal(Signal::SIGTERM));
    }
    world.run(60 * SECOND);
    let ignored = world
        .told()
        .iter()
        .filter(|what| matches!(what, What::SignalIgnored(_)))
        .count();
    assert_eq!(ignored, 3, "they come too slowly to force");
    assert_eq!(world.signalled(0), Some(10 * SECOND + 22 * MS));

    let mut world = gateway(slow);
    for time in [2 * SECOND, 2 * SECOND + 900 * MS] {
        world.at(time, Event::Signal(Signal::SIGTERM));
    }
    world.run(60 * SECOND);
    assert!(
        world
            .told()
            .contains(&What::Forced(Force::Signal(Signal::SIGTERM)))
    );
    assert_eq!(world.finished, Some((2 * SECOND + 900 * MS + KILL, 0)));
}

#[test]
fn the_grace_period_ends_everything() {
    let processes = vec![planned("a", &[1]), planned("b", &[])];
    let stuck = Behaviour {
        stops: None,
        ..Behaviour::default()
    };
    let mut world = World::new(Plan::link(processes, 2 * SECOND, Duration::ZERO), vec![stuck; 2]);
    world.at(SECOND, Event::Signal(Signal::SIGTERM));
    world.run(60 * SECOND);
    assert!(world.told().contains(&What::Forced(Force::Deadline)));
    assert_eq!(world.finished, Some((2 * SECOND + 500 * MS + KILL, 0)));
}

#[test]
fn a_grace_period_of_zero_kills_at_once() {
    let mut world = World::new(
        Plan::link(vec![planned("a", &[])], Duration::ZERO, SECOND),
        vec![Behaviour::default()],
    );
    world.at(SECOND, Event::Signal(Signal::SIGTERM));
    world.run(60 * SECOND);
    assert_eq!(effects(&world, 0), ["spawn", "probe", "kill"]);
    assert_eq!(world.finished, Some((SECOND + KILL, 0)));
}

#[test]
fn what_does_not_even_die_by_sigkill_is_named() {
    let stuck = Instant::now();
    let plan = Plan::link(vec![planned("stuck", &[])], SECOND, Duration::ZERO);
    let mut machine = Machine::new(plan, stuck);
    machine.handle(Event::Start, stuck);
    machine.handle(
        Event::Process(ProcessId(0), 1, ProcessEvent::Spawned { pid: 2 }),
        stuck,
    );
    machine.handle(Event::Signal(Signal::SIGTERM), stuck);
    machine.handle(Event::Tick, stuck + SECOND / 2);
    let given_up = stuck + SECOND / 2 + defaults::KILL_WITHIN;
    assert_eq!(machine.next_deadline(), Some(given_up));
    let effects = machine.handle(Event::Tick, given_up);
    let abandoned = Record {
        process: None,
        what: What::Abandoned(vec!["stuck".to_owned()]),
    };
    assert_eq!(
        effects,
        [
            Effect::Record(abandoned),
            Effect::Record(Record {
                process: None,
                what: What::Ended(0)
            }),
            Effect::Finish { code: 0 }
        ]
    );
    assert_eq!(machine.next_deadline(), None);
}

#[test]
fn the_proxy_that_dies_while_it_drains_releases_the_rest_at_once() {
    let mut world = gateway(|_, behaviours| {
        behaviours[0].drain = None;
        behaviours[0].dies = Some((1500 * MS, 139));
    });
    world.run(60 * SECOND);
    assert_eq!(world.signalled(0), None);
    assert_eq!(world.signalled(1), world.died(0));
    assert_eq!(world.finished.expect("ended").1, 0, "asked for");
}
