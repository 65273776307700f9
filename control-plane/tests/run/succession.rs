//! What a run that was killed leaves: the next one stops it in order before it starts the same again.

use std::{fs, path::Path};

use ebb::{
    local::{boot, start_ticks},
    store::{Changes, Store},
    supervisor::succession::{ProcessRecord, RunRecord},
};
use nix::sys::signal::Signal;

use crate::world::World;

fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    !state.is_empty() && !state.trim_start().starts_with('Z')
}

/// The command of a recorder that prints nothing: its pipes end with `ebb`, and writing to them would end it.
fn silent(world: &World) -> [String; 4] {
    let recorder = world.path("recorder.sh").display().to_string();
    ["sh", "-c", "exec sh \"$0\" >/dev/null 2>&1", &recorder].map(str::to_owned)
}

fn recorder(world: &World, name: &str, keys: &str) -> String {
    let command = silent(world);
    world.process(name, &command.each_ref().map(String::as_str), keys)
}

/// A world with a durable state.
fn durable() -> World {
    let mut world = World::new();
    world.state = world.path("state");
    world
}

#[test]
fn what_is_left_of_a_run_that_was_killed_is_stopped_in_order_before_the_same_is_started_again() {
    let mut world = durable();
    let config = [
        recorder(&world, "top", "depends_on = [\"base\"]"),
        recorder(&world, "base", ""),
    ]
    .concat();
    world.ready(&config);
    world.noted("base start");
    world.noted("top start");
    let old = [world.pid_of("top"), world.pid_of("base")];
    world.kill_ebb();
    assert!(old.into_iter().all(is_alive), "they serve on");
    fs::write(world.path("journal"), "").expect("journal");
    world.ready(&config);
    world.noted("top start");
    assert!(!old.into_iter().any(is_alive));
    let expected = [
        "top term",
        "top exit",
        "base term",
        "base exit",
        "base start",
        "top start",
    ];
    assert_eq!(world.journal(), expected);
    let log = world.read("err");
    for text in [
        "the last run died: stopping what it left",
        "left by the last run: stopping it",
        "left by the last run: gone",
    ] {
        assert!(log.contains(text), "{text}\n{log}");
    }
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
    // After a clean end there is nothing to succeed to.
    world.ready(&config);
    let log = world.read("err");
    assert!(!log.contains("last run"), "{log}");
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
}

#[test]
fn a_shutdown_in_which_a_run_was_killed_goes_on() {
    let mut world = durable();
    let config = [
        recorder(&world, "top", "depends_on = [\"base\"]"),
        recorder(&world, "base", "stop = { timeout = \"1s\" }\n# env ="),
        world.env("base", &[("LINGER", "3600")]),
    ]
    .concat();
    world.ready(&config);
    world.noted("base start");
    world.noted("top start");
    let (top, base) = (world.pid_of("top"), world.pid_of("base"));
    world.signal(Signal::SIGTERM);
    world.noted("base term");
    world.kill_ebb();
    assert!(is_alive(base) && !is_alive(top));
    fs::write(world.path("journal"), "").expect("journal");
    world.ready(&config);
    world.noted("top start");
    assert!(!is_alive(base), "it was killed after its own stop timeout");
    let log = world.read("err");
    assert!(
        log.contains("the last run died in its shutdown, which goes on") && log.contains("received SIGTERM"),
        "{log}"
    );
    assert!(
        log.contains("the shutdown of the last run was killed at most ")
            && log.contains("shorter than the grace period (30s)"),
        "{log}"
    );
    // Told once more, as it may never have heard the first.
    assert_eq!(world.journal(), ["base term", "base start", "top start"]);
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
}

/// A process that nobody may touch.
struct Innocent(std::process::Child);

impl Innocent {
    fn start() -> Self {
        Self(
            std::process::Command::new("sleep")
                .arg("3600")
                .spawn()
                .expect("sleep"),
        )
    }

    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }
}

impl Drop for Innocent {
    fn drop(&mut self) {
        // It may be dead already, which a test has told by then.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn leave(state: &Path, boot: String, pid: i32, started: u64) {
    let process = ProcessRecord {
        name: "base".to_owned(),
        pid: pid.unsigned_abs(),
        started,
        ..ProcessRecord::default()
    };
    let run = RunRecord {
        boot,
        processes: vec![process],
        shutdown: None,
    };
    Store::open(state)
        .expect("state")
        .apply(&Changes::run(Some(&run)))
        .expect("kept");
}

#[test]
fn a_process_that_has_the_pid_of_one_that_is_gone_is_never_touched() {
    let mut innocent = Innocent::start();
    let (pid, started) = (innocent.pid(), start_ticks(innocent.pid()).expect("alive"));
    for (boot, started) in [(boot(), started - 1), ("another".to_owned(), started)] {
        let mut world = durable();
        leave(&world.state, boot, pid, started);
        let config = world.recorder("base", "");
        world.ready(&config);
        world.signal(Signal::SIGTERM);
        assert_eq!(world.ends(), 0);
        assert_eq!(innocent.0.try_wait().expect("waited"), None);
    }
    // That it would be, if it were the one.
    let mut world = durable();
    leave(&world.state, boot(), pid, started);
    let config = world.recorder("base", "");
    world.ready(&config);
    assert!(!is_alive(pid));
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
}
