//! Starting, restarts and critical processes.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{super::*, world::*};
use crate::config::Restart;

const MS: Duration = Duration::from_millis(1);

fn world(processes: Vec<Planned>, behaviours: Vec<Behaviour>) -> World {
    World::new(Plan::link(processes, 30 * SECOND, Duration::ZERO), behaviours)
}

fn spawned(world: &World, id: usize) -> Option<Duration> {
    world.when(id, |effect| *effect == ProcessEffect::Spawn)
}

#[test]
fn dependencies_are_ready_first_and_branches_start_side_by_side() {
    let processes = vec![
        planned("router", &[1, 2]),
        planned("left", &[3]),
        planned("right", &[]),
        planned("base", &[]),
    ];
    let slow = |ready| Behaviour {
        ready: Some(ready),
        ..Behaviour::default()
    };
    let mut world = world(
        processes,
        vec![slow(MS), slow(20 * MS), slow(500 * MS), slow(30 * MS)],
    );
    assert_eq!(world.machine.unready().as_deref(), Some("starting"));
    world.run(10 * SECOND);
    assert_eq!(spawned(&world, 3), Some(Duration::ZERO));
    assert_eq!(spawned(&world, 2), Some(Duration::ZERO));
    assert_eq!(spawned(&world, 1), Some(30 * MS));
    assert_eq!(spawned(&world, 0), Some(500 * MS));
    assert_eq!(world.machine.unready(), None);
    let view = world.machine.view(world.now);
    assert!(
        view.iter()
            .all(|process| process.state == ProcessState::Ready && process.pid == Some(101))
    );
}

#[test]
fn what_is_waited_for_is_told() {
    let processes = vec![
        planned("router", &[1, 2]),
        planned("left", &[]),
        planned("right", &[]),
    ];
    let mut world = world(processes, vec![Behaviour::default(); 3]);
    world.run(5 * MS);
    let view = world.machine.view(world.now);
    assert_eq!(view[0].waits_for, "left, right to be ready");
    assert_eq!(
        (view[1].state, view[1].waits_for.as_str()),
        (ProcessState::Starting, "its readiness check")
    );
    assert_eq!(view[1].uptime, Some(world.now - world.start));
}

#[test]
fn a_failed_start_stops_what_was_started_in_order_and_names_the_culprit() {
    let processes = vec![
        planned("top", &[1]),
        planned("middle", &[2]),
        planned("base", &[]),
        planned("beside", &[2]),
    ];
    let mut behaviours = vec![Behaviour::default(); 4];
    behaviours[1].ready = None;
    let mut world = world(processes, behaviours);
    world.run(20 * SECOND);
    assert_eq!(spawned(&world, 0), None);
    assert!(world.signalled(2) >= world.died(1) && world.signalled(2) >= world.died(3));
    assert_eq!(
        world.signalled(1),
        world.signalled(3),
        "independent branches stop side by side"
    );
    let cause = Cause::StartFailed(ProcessId(1), "connection refused".to_owned(), 1);
    assert!(
        world.told().contains(&What::ShutdownBegan(cause)),
        "{:?}",
        world.told()
    );
    assert_eq!(world.finished.expect("ended").1, 1);
}

#[test]
fn a_process_that_cannot_be_started_gives_its_code() {
    let mut behaviours = vec![Behaviour::default(); 2];
    behaviours[0].spawns = false;
    let mut world = world(vec![planned("a", &[]), planned("b", &[])], behaviours);
    world.run(20 * SECOND);
    assert!(world.died(1).is_some());
    assert_eq!(world.finished.expect("ended").1, 127);
}

#[test]
fn a_process_that_dies_before_it_is_ready_fails_the_start_with_its_code() {
    let dies = Some((5 * MS, 7));
    let mut world = world(
        vec![planned("a", &[])],
        vec![Behaviour {
            dies,
            ..Behaviour::default()
        }],
    );
    world.run(20 * SECOND);
    assert_eq!(world.finished, Some((5 * MS, 7)));
}

#[test]
fn a_dependency_lost_for_good_while_others_wait_fails_the_start() {
    let processes = vec![
        planned("top", &[1, 2]),
        planned("quick", &[]),
        planned("slow", &[]),
    ];
    let mut behaviours = vec![Behaviour::default(); 3];
    behaviours[1].dies = Some((20 * MS, 0));
    behaviours[2].ready = Some(500 * MS);
    let mut world = world(processes, behaviours);
    world.run(20 * SECOND);
    assert_eq!(spawned(&world, 0), None);
    assert_eq!(world.finished.expect("ended").1, 1);
}

#[test]
fn an_asked_for_stop_during_the_start_stops_what_runs_and_starts_nothing_more() {
    let processes = vec![planned("top", &[1]), planned("base", &[])];
    let mut behaviours = vec![Behaviour::default(); 2];
    behaviours[1].ready = Some(100 * MS);
    let mut world = world(processes, behaviours);
    world.at(50 * MS, Event::Signal(Signal::SIGINT));
    world.run(20 * SECOND);
    assert_eq!(spawned(&world, 0), None);
    assert_eq!(
        world.when(1, |effect| *effect == ProcessEffect::Signal(Signal::SIGINT)),
        Some(50 * MS)
    );
    assert_eq!(world.finished, Some((55 * MS, 0)));
}

#[test]
fn restarts_back_off_and_are_limited() {
    let restart = Restart::OnFailure {
        backoff: 100 * MS,
        limit: Some(3),
    };
    let processes = vec![
        Planned {
            restart,
            ..planned("a", &[])
        },
        planned("b", &[]),
    ];
    let dies = Some((20 * MS, 9));
    let mut world = world(
        processes,
        vec![
            Behaviour {
                dies,
                ..Behaviour::default()
            },
            Behaviour::default(),
        ],
    );
    world.run(50 * SECOND);
    let waits: Vec<Duration> = world
        .told()
        .iter()
        .filter_map(|what| match what {
            What::Restarting(wait, _) => Some(*wait),
            _ => None,
        })
        .collect();
    assert_eq!(waits, [100 * MS, 200 * MS, 400 * MS]);
    assert_eq!(world.machine.unready().as_deref(), Some("a is exited"));
    let view = world.machine.view(world.now);
    assert_eq!((view[0].restarts, view[0].exit), (3, Some(ExitStatus::Code(9))));
    assert_eq!(world.finished, None, "it is not critical");
}

#[test]
fn a_restart_that_is_due_as_a_shutdown_begins_does_not_happen() {
    let processes = vec![
        Planned {
            restart: Restart::OnFailure {
                backoff: 100 * MS,
                limit: None,
            },
            ..planned("a", &[])
        },
        planned("b", &[]),
    ];
    let dies = Behaviour {
        dies: Some((20 * MS, 9)),
        ..Behaviour::default()
    };
    let mut world = world(processes, vec![dies, Behaviour::default()]);
    world.at(120 * MS, Event::Signal(Signal::SIGTERM));
    world.run(50 * SECOND);
    let spawns = world.log.iter().filter(|(_, seen)| {
        matches!(
            seen,
            Seen::Effect(Effect::Process(ProcessId(0), _, ProcessEffect::Spawn))
        )
    });
    assert_eq!(spawns.count(), 1);
    assert!(world.finished.is_some());
}

#[test]
fn restarts_are_forgotten_after_a_long_life_and_success_is_not_restarted() {
    let restart = Restart::OnFailure {
        backoff: MS,
        limit: Some(1),
    };
    let long = Behaviour {
        dies: Some((61 * SECOND, 1)),
        ..Behaviour::default()
    };
    let done = Behaviour {
        dies: Some((SECOND, 0)),
        ..Behaviour::default()
    };
    let processes = vec![
        Planned {
            restart: restart.clone(),
            ..planned("a", &[])
        },
        Planned {
            restart,
            ..planned("b", &[])
        },
    ];
    let mut world = world(processes, vec![long, done]);
    world.run(400 * SECOND);
    let restarts = world
        .told()
        .iter()
        .filter(|what| matches!(what, What::Restarting(_, 1)))
        .count();
    assert_eq!(restarts, 6, "each is the first again");
    assert_eq!(world.machine.view(world.now)[1].state, ProcessState::Exited);
}

#[test]
fn no_restarts_for_a_limit_of_zero() {
    let restart = Restart::OnFailure {
        backoff: MS,
        limit: Some(0),
    };
    let dies = Some((SECOND, 1));
    let mut world = world(
        vec![Planned {
            restart,
            ..planned("a", &[])
        }],
        vec![Behaviour {
            dies,
            ..Behaviour::default()
        }],
    );
    world.run(400 * SECOND);
    assert_eq!(world.finished, Some((SECOND, 1)), "nothing is left");
}

#[test]
fn the_death_of_a_critical_process_stops_all_in_order_with_its_code() {
    let mut processes = vec![
        planned("router", &[1]),
        planned("policy", &[2]),
        planned("executor", &[]),
    ];
    processes[0].drain = DRAIN;
    processes[2].critical = true;
    let mut behaviours = vec![Behaviour::default(); 3];
    behaviours[2].dies = Some((SECOND, 42));
    let mut world = world(processes, behaviours);
    world.run(60 * SECOND);
    let drained = world.when(0, |effect| matches!(effect, ProcessEffect::Drain { .. }));
    assert_eq!(drained, Some(SECOND), "the drain is part of it");
    assert!(world.signalled(1) >= world.died(0));
    assert_eq!(world.finished.expect("ended").1, 42);
    assert!(world.told().contains(&What::Died(ExitStatus::Code(42))));
}

#[test]
fn a_restart_that_does_not_become_ready_counts_as_a_failure() {
    let restart = Restart::OnFailure {
        backoff: MS,
        limit: Some(1),
    };
    let mut world = world(
        vec![
            Planned {
                restart,
                ..planned("a", &[])
            },
            planned("b", &[]),
        ],
        vec![
            Behaviour {
                dies: Some((5 * SECOND, 3)),
                ..Behaviour::default()
            },
            Behaviour::default(),
        ],
    );
    world.run(4 * SECOND);
    world.never_ready(0);
    world.run(40 * SECOND);
    let view = world.machine.view(world.now);
    assert_eq!(view[0].state, ProcessState::Exited);
    assert!(
        world
            .told()
            .contains(&What::NotReady("connection refused".to_owned()))
    );
    assert_eq!(world.finished, None);
}

#[test]
fn leftovers_of_a_dead_process_are_stopped_before_it_is_started_again() {
    let restart = Restart::OnFailure {
        backoff: MS,
        limit: Some(1),
    };
    let group = 10 * SECOND;
    let behaviour = Behaviour {
        dies: Some((SECOND, 3)),
        group,
        ..Behaviour::default()
    };
    let mut world = world(
        vec![Planned {
            restart,
            ..planned("a", &[])
        }],
        vec![behaviour],
    );
    world.run(6 * SECOND);
    let told = world.told();
    assert!(told.contains(&What::Leftovers(ExitStatus::Code(3))), "{told:?}");
    assert_eq!(world.signalled(0), Some(SECOND));
    assert_eq!(
        world.when(0, |effect| *effect == ProcessEffect::Kill),
        Some(5 * SECOND)
    );
    let second = world
        .log
        .iter()
        .filter(|(_, seen)| matches!(seen, Seen::Effect(Effect::Process(_, 2, ProcessEffect::Spawn))));
    assert_eq!(second.map(|(time, _)| *time).next(), Some(5 * SECOND + KILL + MS));
}
