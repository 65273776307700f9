//! Deaths, restarts, output, surroundings.

use std::fs;

use nix::sys::signal::Signal;

use crate::world::{World, position, quoted};

#[test]
fn dependencies_are_ready_before_what_needs_them_starts() {
    let mut world = World::new();
    let flag = world.path("flag");
    let config = [
        world.recorder("top", "depends_on = [\"base\"]"),
        world.recorder(
            "base",
            &format!("ready = {{ exec = [\"test\", \"-e\", {}] }}", quoted(&flag)),
        ),
    ]
    .concat();
    world.start(&config);
    world.noted("base start");
    world.status("top waits", |status| {
        status["processes"][0]["waits_for"] == "base to be ready"
    });
    assert_eq!(world.health("/ready"), Some((503, "starting".to_owned())));
    fs::write(flag, "").expect("flag");
    world.until_ready();
    world.noted("top start");
    assert_eq!(world.journal(), ["base start", "top start"]);
}

#[test]
fn the_death_of_a_critical_process_stops_all_in_order_with_its_code() {
    for (death, code) in [("exit 7", 7), ("kill -KILL $$", 137)] {
        let mut world = World::new();
        let dies = format!(
            "echo \"$NAME start\" >> \"$JOURNAL\"; while [ ! -e {:?} ]; do sleep 0.02; done; {death}",
            world.path("die")
        );
        let config = [
            world.recorder("top", "depends_on = [\"middle\"]"),
            world.recorder("middle", "depends_on = [\"base\"]"),
            world.process("base", &["sh", "-c", &dies], "critical = true"),
        ]
        .concat();
        world.ready(&config);
        world.noted("top start");
        world.noted("middle start");
        fs::write(world.path("die"), "").expect("flag");
        assert_eq!(world.ends(), code);
        let journal = world.journal();
        assert!(
            position(&journal, "top exit") < position(&journal, "middle term"),
            "{journal:?}"
        );
        assert!(world.read("err").contains("shutting down: critical process base"));
    }
}

#[test]
fn a_failed_start_names_the_culprit_and_stops_the_rest() {
    for (command, code, says) in [
        (
            vec!["sh", "-c", "exit 3"],
            3,
            "culprit did not start: exited with code 3 before it was ready",
        ),
        (
            vec!["no-such-program"],
            127,
            "culprit did not start: command \"no-such-program\" is not found",
        ),
        (
            vec!["/"],
            126,
            "culprit did not start: command \"/\" cannot be run",
        ),
        (
            vec!["sleep", "100"],
            1,
            "culprit did not start: not ready within 200ms: false exited with code 1",
        ),
    ] {
        let mut world = World::new();
        let config = [
            world.recorder("never", "depends_on = [\"culprit\"]"),
            world.process(
                "culprit",
                &command,
                "depends_on = [\"base\"]\nready = { exec = [\"false\"], timeout = \"200ms\", interval = \"20ms\" }",
            ),
            world.recorder("base", &format!("ready = {{ exec = [\"grep\", \"-q\", \"base start\", {}] }}", quoted(&world.path("journal")))),
        ]
        .concat();
        world.start(&config);
        assert_eq!(world.ends(), code, "{command:?}");
        assert_eq!(world.journal(), ["base start", "base term", "base exit"]);
        assert!(world.read("err").contains(says), "{says}\n{}", world.read("err"));
    }
}

#[test]
fn a_process_that_fails_is_started_again_within_its_limit() {
    let mut world = World::new();
    let config = [
        world.process(
            "flaky",
            &["sh", "-c", "echo \"$NAME start\" >> \"$JOURNAL\"; sleep 0.1; exit 1"],
            "restart = { when = \"on-failure\", backoff = \"10ms\", limit = 2 }\nready = { delay = \"20ms\" }",
        ),
        world.recorder("steady", ""),
    ]
    .concat();
    world.start(&config);
    world.status("it is given up", |status| {
        let flaky = &status["processes"][0];
        flaky["state"] == "exited" && flaky["exit"] == "exited with code 1" && flaky["restarts"] == 2
    });
    assert_eq!(
        world
            .journal()
            .iter()
            .filter(|line| *line == "flaky start")
            .count(),
        3
    );
    assert_eq!(world.health("/ready"), Some((503, "flaky is exited".to_owned())));
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
}

#[test]
fn when_nothing_is_left_it_ends_with_the_first_failure() {
    let mut world = World::new();
    let after = |seconds: &str, code: u8| format!("sleep {seconds}; exit {code}");
    let config = [
        world.process("good", &["sh", "-c", &after("0.1", 0)], ""),
        world.process("first", &["sh", "-c", &after("0.3", 5)], ""),
        world.process("second", &["sh", "-c", &after("0.9", 6)], ""),
    ]
    .concat();
    world.start(&config);
    assert_eq!(world.ends(), 5);
}

#[test]
fn output_is_passed_through_with_the_name_and_to_its_end() {
    let mut world = World::new();
    let talks = ["sh", "-c", "echo one; echo two >&2; seq 5000; printf last"];
    let config = [
        world.process("talker", &talks, ""),
        world.process("other", &["sleep", "0.3"], ""),
    ]
    .concat();
    world.start(&config);
    assert_eq!(world.ends(), 0);
    let out = world.read("out");
    assert!(
        out.starts_with("talker | one\n") && out.ends_with("talker | last\n"),
        "{out}"
    );
    assert_eq!(out.lines().count(), 5002);
    assert!(world.read("err").contains("talker | two\n"));

    let mut world = World::new();
    let config = world.process("talker", &talks, "");
    let mut command = world.command(&config, &["--log-format", "json"]);
    world.start_command(&mut command);
    assert_eq!(world.ends(), 0);
    let line = world
        .read("out")
        .lines()
        .next()
        .map(str::to_owned)
        .expect("a line");
    assert_eq!(
        line,
        "{\"process\":\"talker\",\"stream\":\"stdout\",\"line\":\"one\"}"
    );
    for line in world.read("err").lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
}

#[test]
fn surroundings_are_as_configured() {
    let mut world = World::new();
    let directory = quoted(world.directory.path());
    let root = nix::unistd::Uid::effective().is_root();
    let user = if root { "user = \"12345:54321\"" } else { "" };
    let config = format!(
        "{}{}",
        world.process(
            "a",
            &["sh", "-c", "pwd; echo $NAME $GREETING; id -u; id -g; id -G"],
            &format!("working_dir = {directory}\n{user}#env =\n")
        ),
        world.env("a", &[("GREETING", "hello")])
    );
    if root {
        // The directory belongs to root, and the process does not.
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(world.directory.path(), fs::Permissions::from_mode(0o755)).expect("mode");
    }
    world.start(&config);
    assert_eq!(world.ends(), 0);
    let out = world.read("out");
    let lines: Vec<&str> = out.lines().map(|line| line.trim_start_matches("a | ")).collect();
    assert_eq!(
        lines[0],
        fs::canonicalize(world.directory.path())
            .unwrap()
            .to_str()
            .unwrap()
    );
    assert_eq!(lines[1], "a hello");
    if root {
        assert_eq!(lines[2..], ["12345", "54321", "54321"], "and no other group");
    }
}
