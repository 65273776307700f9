//! Grandchildren, orphans and zombies.

use std::fs;

use nix::sys::signal::Signal;

use crate::world::{World, eventually, zombies_of};

/// Leaves children in its group, one out of it, and an orphan.
const FORKS: &str = "sleep 1000 & setsid sleep 1001 & (sleep 1002 &) ; (setsid sleep 1003 &) ; echo \"$NAME start\" >> \"$JOURNAL\"; ";

const LEFT: [&str; 4] = ["sleep 1000", "sleep 1001", "sleep 1002", "sleep 1003"];

fn all_are_there(world: &World) {
    eventually("all descendants are there", || {
        let marked = world.marked();
        let sleeps = marked
            .iter()
            .filter(|(_, line)| LEFT.iter().any(|left| line.starts_with(left)))
            .count();
        (sleeps == 4).then_some(())
    });
}

#[test]
fn a_process_that_forks_leaves_nothing_behind() {
    for (end, wait) in [
        ("wait", true),
        ("exec sleep 1004", true),
        ("sleep 0.3; exit 0", false),
    ] {
        let mut world = World::new();
        let config = [
            world.process("forks", &["sh", "-c", &format!("{FORKS}{end}")], ""),
            world.recorder("other", ""),
        ]
        .concat();
        world.ready(&config);
        world.noted("other start");
        all_are_there(&world);
        if wait {
            world.signal(Signal::SIGTERM);
        } else {
            world.logged("others of its group are still alive");
            world.signal(Signal::SIGTERM);
        }
        // That nothing is left is part of `ends`.
        assert_eq!(world.ends(), 0, "{end}");
    }
}

#[test]
fn a_group_that_takes_its_time_is_waited_for_although_its_first_process_has_gone() {
    let mut world = World::new();
    // The shell ends by the signal at once; its child takes half a second to end.
    let child = "trap 'sleep 0.5; echo \"$NAME child exit\" >> \"$JOURNAL\"; exit 0' TERM; echo \"$NAME child start\" >> \"$JOURNAL\"; while :; do sleep 0.02 & wait $!; done";
    fs::write(world.path("child.sh"), child).expect("script");
    let parent = format!("sh {} & wait", world.path("child.sh").display());
    let config = [
        world.process("parent", &["sh", "-c", &parent], "depends_on = [\"base\"]"),
        world.recorder("base", ""),
    ]
    .concat();
    world.ready(&config);
    world.noted("parent child start");
    world.noted("base start");
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
    assert_eq!(
        world.journal()[2..],
        ["parent child exit", "base term", "base exit"]
    );
}

#[test]
fn orphans_are_reaped_while_it_runs() {
    let mut world = World::new();
    let config = world.process(
        "maker",
        &["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do (sleep 0.05 &); done; sleep 0.3; echo \"$NAME made\" >> \"$JOURNAL\"; sleep 1000"],
        "",
    );
    world.ready(&config);
    world.noted("maker made");
    let pid = world.pid();
    eventually("no zombie is left", || (zombies_of(pid) == 0).then_some(()));
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
}

#[test]
fn a_real_time_signal_ends_a_process_like_any_other() {
    let mut world = World::new();
    let config = world.process("odd", &["sh", "-c", "sleep 0.2; kill -40 $$"], "critical = true");
    world.start(&config);
    assert_eq!(world.ends(), 168);
}

#[test]
fn as_pid_1_it_is_the_same() {
    let mut world = World::new();
    let config = [
        world.process(
            "forks",
            &["sh", "-c", &format!("{FORKS}wait")],
            "depends_on = [\"base\"]",
        ),
        world.recorder("base", ""),
    ]
    .concat();
    if !world.start_as_pid_1(&config) {
        assert!(std::env::var_os("CI").is_none(), "unshare has to work in CI");
        eprintln!("skipped: no pid namespace can be made here");
        return;
    }
    world.until_ready();
    world.noted("base start");
    all_are_there(&world);
    let pid = world.pid();
    eventually("no zombie is left", || (zombies_of(pid) == 0).then_some(()));
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
    let journal = world.journal();
    assert_eq!(journal[journal.len() - 2..], ["base term", "base exit"]);
}
