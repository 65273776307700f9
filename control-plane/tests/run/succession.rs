//! What a run that was killed leaves: the next one stops it in order before it starts the same again.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::Path,
    time::{Duration, Instant},
};

use ebb::{
    local::{boot, start_ticks},
    store::{Changes, Store},
    supervisor::succession::{ProcessRecord, RunRecord},
};
use nix::sys::signal::Signal;

use crate::world::{World, eventually};

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
    world.noted("base start");
    let mut journal = world.journal();
    // Nothing shows that one of them is ready but that it runs.
    journal[4..].sort();
    let expected = [
        "top term",
        "top exit",
        "base term",
        "base exit",
        "base start",
        "top start",
    ];
    assert_eq!(journal, expected);
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

#[test]
fn what_was_started_in_the_moment_in_which_the_run_was_killed_is_found() {
    for _ in 0..20 {
        let mut world = durable();
        let config = recorder(&world, "base", "");
        world.start(&config);
        world.noted("base start");
        world.kill_ebb();
        world.start(&config);
        eventually("it is started again", || {
            let starts = world.journal();
            (starts.iter().filter(|line| *line == "base start").count() == 2).then_some(())
        });
        world.until_ready();
        let expected = ["base start", "base term", "base exit", "base start"];
        assert_eq!(world.journal(), expected);
        world.signal(Signal::SIGTERM);
        assert_eq!(world.ends(), 0);
    }
}

/// Those that left the group of the process of this mark.
fn strays(mark: &str) -> Vec<i32> {
    let mark = format!("EBB_RUN={mark}");
    let is_stray = |pid: &i32| {
        let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let environ = read("environ");
        let mut variables = environ.split(|byte| *byte == 0);
        read("cmdline").starts_with(b"sleep\x003600") && variables.any(|variable| variable == mark.as_bytes())
    };
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(is_stray).collect()
}

#[test]
fn what_was_not_kept_is_found_by_its_mark_and_what_left_its_group_as_well() {
    let mut world = durable();
    let run = RunRecord {
        boot: boot(),
        id: "f00d".to_owned(),
        processes: vec![ProcessRecord {
            name: "base".to_owned(),
            stop_timeout: Some(prost_types::Duration { seconds: 9, nanos: 0 }),
            ..ProcessRecord::default()
        }],
        ..RunRecord::default()
    };
    let state = Store::open(&world.state);
    state
        .expect("state")
        .apply(&Changes::run(Some(&run)))
        .expect("kept");
    let marked = |mark: &str, name: &str| {
        let mut command = std::process::Command::new("sh");
        command
            .args(["-c", "setsid sleep 3600 & exec sh \"$0\""])
            .arg(world.path("recorder.sh"))
            .env("EBB_RUN", mark)
            .env("NAME", name)
            .env("JOURNAL", world.path("journal"))
            .process_group(0);
        command.spawn().expect("started")
    };
    let mut left = marked("f00d:base", "left");
    let mut other = marked("f00e:base", "other");
    world.noted("left start");
    world.noted("other start");
    let config = world.recorder("base", "");
    world.ready(&config);
    world.noted("base start");
    let stopped = left.try_wait().expect("waited");
    let untouched = other.try_wait().expect("waited");
    let of_each = (strays("f00d:base"), strays("f00e:base"));
    for pid in of_each.0.iter().chain(&of_each.1) {
        // It may have ended meanwhile.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), Signal::SIGKILL);
    }
    // Whatever became of it, it must not outlive this.
    let _ = (left.kill(), left.wait(), other.kill(), other.wait());
    assert!(stopped.is_some(), "{}", world.read("err"));
    assert_eq!(untouched, None, "another run's");
    assert_eq!((of_each.0.len(), of_each.1.len()), (0, 1));
    assert!(world.journal().contains(&"left term".to_owned()), "in order");
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
}

#[test]
fn a_check_that_was_being_made_when_the_run_was_killed_does_not_outlive_it() {
    let mut world = durable();
    let check = format!(
        "ready = {{ exec = [\"sh\", \"-c\", \"echo check >> {}; exec sleep 3600\"], timeout = \"2h\" }}",
        world.path("journal").display()
    );
    let config = recorder(&world, "base", &check);
    world.start(&config);
    world.noted("check");
    world.kill_ebb();
    let config = recorder(&world, "base", "");
    world.ready(&config);
    world.noted("base start");
    world.signal(Signal::SIGTERM);
    // That nothing is left is part of `ends`.
    assert_eq!(world.ends(), 0);
}

/// A run that was killed, and left a process that does not end by itself and has an hour for it.
fn killed_with_a_survivor() -> (World, i32) {
    let mut world = durable();
    let config = [
        "[shutdown]\ngrace_period = \"2h\"\n".to_owned(),
        recorder(&world, "base", "stop = { timeout = \"1h\" }\n# env ="),
        world.env("base", &[("LINGER", "3600")]),
    ]
    .concat();
    world.ready(&config);
    world.noted("base start");
    let base = world.pid_of("base");
    world.kill_ebb();
    (world, base)
}

#[test]
fn a_stop_while_survivors_are_being_stopped_is_over_within_the_grace_period_and_nothing_is_started() {
    let (mut world, base) = killed_with_a_survivor();
    let config = format!(
        "[shutdown]\ngrace_period = \"5s\"\n{}",
        recorder(&world, "base", "")
    );
    world.start(&config);
    world.noted("base term");
    let asked = Instant::now();
    world.signal(Signal::SIGTERM);
    world.logged("within the grace period (5s)");
    assert_eq!(world.ends(), 0);
    assert!(asked.elapsed() < Duration::from_secs(7), "{:?}", asked.elapsed());
    assert!(!is_alive(base));
    assert_eq!(world.journal(), ["base start", "base term"]);
    // Nothing is left for the next.
    world.ready(&config);
    world.noted("base start");
    assert!(
        !world.read("err").contains("the last run"),
        "{}",
        world.read("err")
    );
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
}

#[test]
fn who_insists_while_survivors_are_being_stopped_is_obeyed_at_once() {
    let (mut world, base) = killed_with_a_survivor();
    world.start(&recorder(&world, "base", ""));
    world.noted("base term");
    world.signal(Signal::SIGTERM);
    world.logged("within the grace period");
    world.signal(Signal::SIGTERM);
    world.logged("SIGTERM again");
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
    assert!(!is_alive(base));
    let log = world.read("err");
    assert!(
        log.contains("SIGTERM repeated: killing what the last run left"),
        "{log}"
    );
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
        ..RunRecord::default()
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
