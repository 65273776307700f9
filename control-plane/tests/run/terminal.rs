//! A terminal that goes away.

use std::{
    fs::{File, OpenOptions},
    os::fd::OwnedFd,
    process::Stdio,
};

use nix::sys::signal::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::world::World;

/// A terminal: closing the first end hangs it up.
fn terminal() -> (OwnedFd, File) {
    let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&user).expect("its rights");
    unlockpt(&user).expect("its lock");
    let name = ptsname(&user, Vec::new()).expect("its name");
    let name = name.into_string().expect("a plain name");
    let mut options = OpenOptions::new();
    let program = options.read(true).write(true).open(name).expect("its other end");
    (user, program)
}

fn config(world: &World) -> String {
    [
        world.recorder("top", "depends_on = [\"base\"]\nrelay = [\"SIGHUP\"]"),
        world.recorder("base", ""),
    ]
    .concat()
}

fn start(world: &mut World, wrapper: &[&str]) -> OwnedFd {
    let (user, program) = terminal();
    let config = config(world);
    world.start_through(wrapper, &config, Stdio::from(program));
    world.until_ready();
    world.noted("base start");
    world.noted("top start");
    user
}

#[test]
fn a_lost_terminal_is_a_stop_in_order() {
    let mut world = World::new();
    let user = start(&mut world, &["setsid", "--ctty", "--wait"]);
    // By itself the signal is no stop, and it is relayed.
    world.signal(Signal::SIGHUP);
    world.noted("top hup");
    drop(user);
    assert_eq!(world.ends(), 0);
    let journal = world.journal();
    let expected = ["top hup", "top term", "top exit", "base term", "base exit"];
    assert_eq!(journal[2..], expected, "{}", world.read("err"));
    assert!(world.read("err").contains("shutting down: the terminal is gone"));
}

#[test]
fn one_that_is_to_outlive_its_terminal_does() {
    let mut world = World::new();
    let nohup = [
        "setsid",
        "--ctty",
        "--wait",
        "sh",
        "-c",
        "trap '' HUP; exec \"$0\" \"$@\"",
    ];
    let user = start(&mut world, &nohup);
    drop(user);
    // The kernel has told it before the terminal's end is closed.
    world.signal(Signal::SIGHUP);
    world.noted("top hup");
    assert_eq!(world.health("/ready").map(|(status, _)| status), Some(200));
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
}
