//! Signals that are no stop.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::world::{World, eventually};

/// All that would end a process which does not care, but for stops, faults, SIGKILL and SIGPIPE.
fn harmful() -> Vec<String> {
    let named = [
        "HUP", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "PWR", "XCPU", "XFSZ",
    ];
    let nameless = std::iter::once(16)
        .chain(34..=64)
        .map(|number: u8| number.to_string());
    named.map(str::to_owned).into_iter().chain(nameless).collect()
}

#[test]
fn they_do_nothing_unless_a_process_lists_them() {
    let mut world = World::new();
    let config = [
        world.recorder("listener", "relay = [\"SIGHUP\", \"USR1\"]"),
        world.recorder("other", ""),
        world.process("sleeper", &["sleep", "1000"], "relay = \"SIGWINCH\""),
    ]
    .concat();
    world.ready(&config);
    world.noted("listener start");
    world.noted("other start");
    let before = ["listener", "other", "sleeper"].map(|name| world.pid_of(name));
    for name in harmful() {
        world.signal_by_name(&name);
    }
    world.noted("listener hup");
    world.noted("listener usr1");
    world.logged("number=64");
    assert_eq!(
        ["listener", "other", "sleeper"].map(|name| world.pid_of(name)),
        before
    );
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
    let journal = world.journal();
    assert!(
        !journal
            .iter()
            .any(|line| line == "other hup" || line == "other usr1")
    );
}

#[test]
fn one_that_is_relayed_is_for_the_process_and_not_for_its_group() {
    let mut world = World::new();
    let script = "trap 'echo \"$NAME usr1\" >> \"$JOURNAL\"' USR1; sleep 1000 & echo \"$NAME start\" >> \"$JOURNAL\"; \
                  while :; do wait; done";
    let config = world.process(
        "parent",
        &["sh", "-c", script],
        "relay = \"SIGUSR1\"\nstop = { timeout = 0 }",
    );
    world.ready(&config);
    world.noted("parent start");
    world.signal(Signal::SIGUSR1);
    world.noted("parent usr1");
    assert!(
        world
            .marked()
            .iter()
            .any(|(_, line)| line.starts_with("sleep 1000"))
    );
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
}

#[test]
fn one_that_comes_before_a_process_is_ready_for_it_does_not_end_it() {
    let mut world = World::new();
    let go = world.path("go");
    let check =
        format!("ready = {{ exec = [\"test\", \"-e\", {go:?}], interval = \"10ms\" }}\nrelay = \"USR2\"");
    world.start(&world.process("late", &["sleep", "1000"], &check));
    world.logged("started as pid");
    world.signal(Signal::SIGUSR2);
    world.logged("not relayed: not ready yet");
    std::fs::write(&go, "").expect("written");
    world.until_ready();
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
}

#[test]
fn an_attached_process_gets_those_that_it_lists() {
    let mut world = World::new();
    let mut attached = Command::new("sh")
        .arg(world.path("recorder.sh"))
        .env("NAME", "attached")
        .env("JOURNAL", world.path("journal"))
        .spawn()
        .expect("started");
    world.noted("attached start");
    let config = format!(
        "[[process]]\nname = \"attached\"\nattach = {}\nrelay = \"HUP\"\n",
        attached.id()
    );
    world.ready(&config);
    world.signal(Signal::SIGHUP);
    world.noted("attached hup");
    world.signal(Signal::SIGTERM);
    eventually("it is stopped", || attached.try_wait().expect("waited"));
    assert_eq!(world.ends(), 0);
}
