//! The ordered shutdown, as its processes saw it.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::world::{World, position};

fn chain(world: &World) -> String {
    [
        world.recorder("top", "depends_on = [\"middle\"]"),
        world.recorder("middle", "depends_on = [\"base\"]"),
        world.recorder("base", ""),
    ]
    .concat()
}

#[test]
fn a_chain_stops_from_the_top_each_after_the_one_before_has_exited() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let mut world = World::new();
        let config = chain(&world);
        world.ready(&config);
        for name in ["top", "middle", "base"] {
            world.noted(&format!("{name} start"));
        }
        world.signal(signal);
        assert_eq!(world.ends(), 0, "{signal}");
        let journal = world.journal();
        let stops: Vec<&str> = journal
            .iter()
            .map(String::as_str)
            .filter(|line| !line.ends_with("start"))
            .collect();
        assert_eq!(
            stops,
            [
                "top term",
                "top exit",
                "middle term",
                "middle exit",
                "base term",
                "base exit"
            ]
        );
        assert!(
            world.read("err").contains(&format!("sent {signal}")),
            "the signal that came is relayed"
        );
    }
}

#[test]
fn independent_branches_stop_side_by_side() {
    let mut world = World::new();
    let linger = |name: &str, keys: &str| {
        let process = world.process(
            name,
            &["sh", world.path("recorder.sh").to_str().unwrap()],
            &format!("{keys}#env ="),
        );
        format!("{process}{}", world.env(name, &[("LINGER", "0.5")]))
    };
    let config = [
        linger("left", "depends_on = [\"base\"]"),
        linger("right", "depends_on = [\"base\"]"),
        world.recorder("base", ""),
    ]
    .concat();
    world.ready(&config);
    for name in ["left", "right", "base"] {
        world.noted(&format!("{name} start"));
    }
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
    let journal = world.journal();
    let at = |line: &str| position(&journal, line);
    assert!(
        at("left term") < at("right exit") && at("right term") < at("left exit"),
        "{journal:?}"
    );
    assert!(
        at("base term") > at("left exit") && at("base term") > at("right exit"),
        "{journal:?}"
    );
}

#[test]
fn what_ignores_its_signal_is_killed_and_the_report_says_so() {
    let mut world = World::new();
    let config = [
        world.process(
            "deaf",
            &[
                "sh",
                "-c",
                "trap '' TERM; echo \"$NAME start\" >> \"$JOURNAL\"; while :; do sleep 0.05; done",
            ],
            "depends_on = [\"base\"]\nstop = { timeout = \"300ms\" }",
        ),
        world.recorder("base", ""),
    ]
    .concat();
    world.ready(&config);
    world.noted("deaf start");
    world.noted("base start");
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0, "asked for");
    let log = world.read("err");
    assert!(log.contains("killed: it did not stop within 300ms"), "{log}");
    let report = log
        .lines()
        .find(|line| line.contains("deaf: +"))
        .expect("a report");
    assert!(
        report.contains("sent SIGTERM") && report.contains("ended by SIGKILL"),
        "{report}"
    );
    assert!(position(&world.journal(), "base exit") > 0);
}

#[test]
fn a_signal_is_ignored_the_second_time_and_forces_the_third() {
    let mut world = World::new();
    let deaf = [
        "sh",
        "-c",
        "trap '' TERM; echo \"$NAME start\" >> \"$JOURNAL\"; while :; do sleep 0.05; done",
    ];
    let config = world.process("deaf", &deaf, "stop = { timeout = \"20s\" }");
    world.ready(&config);
    world.noted("deaf start");
    world.signal(Signal::SIGTERM);
    world.logged("sent SIGTERM");
    world.signal(Signal::SIGTERM);
    world.logged("SIGTERM again: the shutdown goes on");
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
    assert!(world.read("err").contains("SIGTERM repeated: killing everything"));
}

#[test]
fn a_stop_while_it_starts_stops_what_runs_and_starts_nothing_more() {
    let mut world = World::new();
    let config = [
        world.recorder("never", "depends_on = [\"slow\"]"),
        world.recorder("slow", "ready = { exec = [\"false\"], timeout = \"60s\" }"),
    ]
    .concat();
    world.start(&config);
    world.noted("slow start");
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
    assert_eq!(world.journal(), ["slow start", "slow term", "slow exit"]);
}

#[test]
fn the_grace_period_bounds_everything() {
    let mut world = World::new();
    let deaf = [
        "sh",
        "-c",
        "trap '' TERM; echo \"$NAME start\" >> \"$JOURNAL\"; while :; do sleep 0.05; done",
    ];
    // With nobody attached nothing is known of its listeners: that is waited for until there is just its stop timeout
    // left, which then ends with the grace period.
    let config = format!(
        "[shutdown]\ngrace_period = \"2s\"\n{}",
        world.process("deaf", &deaf, "stop = { timeout = \"1s\" }\ndrain = {}\n")
    );
    world.ready(&config);
    world.noted("deaf start");
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
    let log = world.read("err");
    assert!(
        log.contains("the grace period is over: killing everything"),
        "{log}"
    );
    assert!(
        !log.contains("it did not stop within"),
        "its stop timeout would have been over later: {log}"
    );
}

#[test]
fn a_drain_of_which_nothing_is_known_is_waited_for_until_its_deadline() {
    let mut world = World::new();
    let config = format!(
        "[drain]\ntimeout = \"700ms\"\nquiet_period = \"50ms\"\n{}",
        [
            world.recorder("proxy", "depends_on = [\"base\"]\ndrain = {}"),
            world.recorder("base", "")
        ]
        .concat()
    );
    world.ready(&config);
    world.noted("proxy start");
    world.noted("base start");
    world.signal(Signal::SIGTERM);
    world.status("its state says so", |status| {
        let processes = &status["processes"];
        processes[0]["state"] == "draining" && processes[1]["waits_for"] == "proxy to exit"
    });
    let journal = world.journal();
    assert!(
        journal.iter().all(|line| line.ends_with(" start")),
        "nothing is stopped meanwhile: {journal:?}"
    );
    assert_eq!(world.ends(), 0);
    let log = world.read("err");
    assert!(
        log.contains("waiting for its requests to end: not in time, going on"),
        "{log}"
    );
    // Unknown is not nothing.
    assert!(
        last_line(&world).contains(" WARN ")
            && last_line(&world).contains(": requests may have been cut, and nobody knows how many: "),
        "{log}"
    );
}

fn last_line(world: &World) -> String {
    let log = world.read("err");
    log.lines().last().map(str::to_owned).expect("a log")
}

#[test]
fn the_last_line_says_what_was_cut_where_somebody_can_tell() {
    for (keys, says) in [
        ("gate = [\"127.0.0.1:9\"]", "nothing was cut"),
        // Nobody has asked, and nobody waits: it is not known.
        (
            "drain = {}\ncritical = true",
            "requests may have been cut, and nobody knows how many: it was serving when proxy ended by itself",
        ),
        ("", "exited with code 0"),
    ] {
        let mut world = World::new();
        let config = world.recorder("proxy", keys);
        world.ready(&config);
        world.noted("proxy start");
        if keys.contains("critical") {
            kill(Pid::from_raw(world.pid_of("proxy")), Signal::SIGKILL).expect("alive");
            assert_eq!(world.ends(), 137);
        } else {
            let followed = world.ebb(&["shutdown", "--wait"]);
            assert_eq!(world.ends(), 0);
            let told = String::from_utf8_lossy(&followed.stderr).into_owned();
            let last = told.lines().last().unwrap_or_default();
            let cut = keys.contains("gate");
            assert_eq!(last.contains("nothing was cut"), cut, "{told}");
        }
        let line = last_line(&world);
        assert!(line.ends_with(says), "{line}");
    }
}

#[test]
fn without_a_grace_period_what_served_is_not_said_to_have_finished() {
    let mut world = World::new();
    let config = format!(
        "[shutdown]\ngrace_period = \"0s\"\n{}",
        world.recorder("proxy", "drain = {}")
    );
    world.ready(&config);
    world.noted("proxy start");
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
    let line = last_line(&world);
    assert!(
        line.contains("requests may have been cut") && line.contains("raise the grace period (0s)"),
        "{line}"
    );
}

#[test]
fn a_caller_can_ask_for_it_and_follow_it() {
    let mut world = World::new();
    let config = chain(&world);
    world.ready(&config);
    for name in ["top", "middle", "base"] {
        world.noted(&format!("{name} start"));
    }
    let followed = world.ebb(&["shutdown", "--wait"]);
    let told = String::from_utf8_lossy(&followed.stderr).into_owned();
    assert!(followed.status.success(), "{told}");
    assert!(
        told.contains("shutting down: requested") && told.contains("all stopped, exit code 0"),
        "{told}"
    );
    let at = |text: &str| told.find(text).unwrap_or_else(|| panic!("no {text:?} in {told}"));
    assert!(at("top: sent SIGTERM") < at("top: exited with code 0"));
    assert!(at("top: exited with code 0") < at("middle: sent SIGTERM"));
    assert_eq!(world.ends(), 0);
}

#[test]
fn a_configuration_that_is_refused_starts_nothing() {
    let world = World::new();
    let refuse = |config: &str, grace: Option<&str>| {
        let mut command = world.command(config, &[]);
        if let Some(grace) = grace {
            command.env("EBB_GRACE_PERIOD", grace);
        }
        let output = command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .output()
            .expect("ebb runs");
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let cycle = [
        world.recorder("a", "depends_on = [\"b\"]"),
        world.recorder("b", "depends_on = [\"a\"]\ncolour = 1"),
    ];
    let said = refuse(&cycle.concat(), None);
    assert_eq!(said.lines().count(), 2, "a line for each problem: {said}");
    assert!(
        said.contains("a -> b -> a") && said.contains("process[1].colour"),
        "{said}"
    );
    assert!(said.lines().all(|line| line.contains("ebb.toml:")), "{said}");
    let said = refuse(&world.recorder("a", "stop = { timeout = \"10s\" }"), Some("8s"));
    assert!(
        said.contains("EBB_GRACE_PERIOD") && said.contains("stop of a 10s + reserve 500ms = 10s 500ms"),
        "{said}"
    );
    assert!(refuse("", None).contains("there is no [[process]] to run"));
    assert!(world.journal().is_empty());
}
