use nix::sys::signal::Signal;

use super::*;

/// The example of the documentation.
pub(super) const EXAMPLE: &str = r#"
[control_plane]
listen = "unix:/run/ebb/ebb.sock"
state  = "/var/lib/ebb"
health = "127.0.0.1:9900"

[drain]
quiet_period = "200ms"
timeout      = "15s"

[shutdown]
grace_period = "30s"

[[process]]
name       = "router"
command    = ["envoy", "-c", "/etc/envoy/envoy.yaml"]
depends_on = ["policy-engine"]
ready      = { http = "unix:/run/envoy/admin.sock:/ready", timeout = "30s", interval = "100ms" }
stop       = { signal = "SIGTERM", timeout = "5s" }
drain      = { listeners = ["ingress"], admin = "unix:/run/envoy/admin.sock" }

[[process]]
name       = "policy-engine"
command    = ["policy-engine", "--port", "9002"]
depends_on = ["python-executor"]
ready      = { tcp = "127.0.0.1:9002" }
gate       = ["127.0.0.1:9002"]
restart    = { when = "on-failure", backoff = "500ms", limit = 5 }

[[process]]
name       = "python-executor"
command    = ["python3", "executor.py"]
env        = { LOG_LEVEL = "info" }
critical   = true
"#;

fn refused(source: &str) -> Vec<String> {
    match parse(source, None) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn only(source: &str) -> String {
    let problems = refused(source);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems.into_iter().next().unwrap()
}

#[test]
fn the_documented_example_is_read_as_it_says() {
    let config = parse(EXAMPLE, None).expect("accepted");
    assert_eq!(
        config.control_plane.listen,
        ["unix:/run/ebb/ebb.sock".parse().unwrap()]
    );
    assert_eq!(
        config.control_plane.state,
        State::Directory("/var/lib/ebb".into())
    );
    assert_eq!(
        config.control_plane.health,
        Some("127.0.0.1:9900".parse().unwrap())
    );
    assert_eq!(config.drain.timeout, Some(Duration::from_secs(15)));
    assert_eq!(config.drain.announce, None);
    let fifteen = Duration::from_secs(15);
    let DrainTimes { least, most } = config.shutdown.drain;
    assert_eq!((least, most), (fifteen, fifteen));
    let [router, policy, executor] = config.processes.as_slice() else {
        panic!("three processes");
    };
    assert_eq!(router.depends_on, [1]);
    assert_eq!(policy.depends_on, [2]);
    let ready = router.ready.as_ref().expect("ready");
    let admin: HttpTarget = "unix:/run/envoy/admin.sock:/ready".parse().unwrap();
    assert_eq!(ready.check, Check::Http(admin));
    assert_eq!(ready.interval, Duration::from_millis(100));
    assert_eq!(router.stop.signal, Some(Signal::SIGTERM));
    assert_eq!(router.stop.timeout, Some(Duration::from_secs(5)));
    assert_eq!(router.drain.as_ref().expect("drain").listeners, ["ingress"]);
    assert_eq!(policy.gate, ["127.0.0.1:9002".parse().unwrap()]);
    assert_eq!(
        policy.stop,
        Stop {
            signal: None,
            timeout: None
        }
    );
    let restart = Restart::OnFailure {
        backoff: Duration::from_millis(500),
        limit: Some(5),
    };
    assert_eq!(policy.restart, restart);
    assert!(executor.critical && !policy.critical);
    let Origin::Command(command) = &executor.origin else {
        panic!("a command");
    };
    assert_eq!(
        (command.program.as_str(), command.arguments.as_slice()),
        ("python3", &["executor.py".to_owned()][..])
    );
    assert_eq!(command.env.get("LOG_LEVEL").map(String::as_str), Some("info"));
}

#[test]
fn every_key_of_the_reference_is_known() {
    let config = parse(
        r#"
        [control_plane]
        listen = ["unix:/run/ebb.sock", "127.0.0.1:9901"]
        state = ""
        [drain]
        announce = "1s"
        quiet_period = "0s"
        timeout = "5s"
        ramp = "2s"
        lease = "10s"
        on_timeout = "abort"
        linger = "0s"
        flush = "1100ms"
        idle = "3s"
        [[drain.for]]
        nodes = "edge-1"
        listeners = ["uploads", "ingress"]
        timeout = "50s"
        evidence = "filter"
        tcp = "ignore"
        [shutdown]
        grace_period = "1m"
        [[process]]
        name = "a"
        command = ["a"]
        working_dir = "/tmp"
        user = "0:0"
        depends_on = "b"
        ready = { exec = ["true"], timeout = 0 }
        stop = { signal = "INT", timeout = 0 }
        relay = ["SIGUSR1", "HUP"]
        [process.env]
        KEY = "value"
        [[process]]
        name = "b"
        attach = "/run/b.pid"
        ready = { unix = "unix:/run/b.sock" }
        drain = { node = "edge-1" }
        relay = "WINCH"
        [[process]]
        name = "c"
        attach = 4242
        ready = { delay = "1s" }
        "#,
        None,
    )
    .expect("accepted");
    assert_eq!(config.control_plane.listen.len(), 2);
    assert_eq!(config.control_plane.state, State::Memory);
    assert_eq!(config.drain.quiet_period, Some(Duration::ZERO));
    let [special] = config.drain_for.as_slice() else {
        panic!("{:?}", config.drain_for)
    };
    assert_eq!(
        (&special.nodes[..], &special.listeners[..]),
        (
            &["edge-1".to_owned()][..],
            &["uploads".to_owned(), "ingress".to_owned()][..]
        )
    );
    assert_eq!(special.overrides.timeout, Some(Duration::from_secs(50)));
    assert_eq!(
        (special.overrides.announce, special.overrides.evidence),
        (None, Some(Evidence::Filter))
    );
    assert_eq!(config.drain.on_timeout, Some(OnTimeout::Abort));
    let relayed: Vec<&[Signal]> = config
        .processes
        .iter()
        .map(|process| &process.relay[..])
        .collect();
    assert_eq!(
        relayed,
        [&[Signal::SIGUSR1, Signal::SIGHUP][..], &[Signal::SIGWINCH], &[]]
    );
    let owed = (config.drain.linger, config.drain.flush, config.drain.idle);
    let millis = |millis| Some(Duration::from_millis(millis));
    assert_eq!(owed, (millis(0), millis(1_100), millis(3_000)));
    assert_eq!(
        (config.drain.tcp, special.overrides.tcp),
        (None, Some(Tcp::Ignore))
    );
    let [a, b, c] = config.processes.as_slice() else {
        panic!("three processes");
    };
    assert_eq!(a.depends_on, [1]);
    assert_eq!(a.ready.as_ref().expect("ready").timeout, Duration::ZERO);
    let Origin::Command(command) = &a.origin else {
        panic!("a command");
    };
    assert_eq!(command.user, Some(Identity { uid: 0, gid: 0 }));
    assert!(matches!(&b.origin, Origin::Attach(AttachTo::PidFile(path)) if path == Path::new("/run/b.pid")));
    assert!(matches!(b.ready.as_ref().expect("ready").check, Check::Unix(_)));
    assert_eq!(b.drain.as_ref().unwrap().node.as_deref(), Some("edge-1"));
    assert!(matches!(c.origin, Origin::Attach(AttachTo::Pid(4242))));
}

#[test]
fn unset_and_zero_differ() {
    let unset = parse("[drain]\n", None).expect("accepted");
    let zero = parse("[drain]\nquiet_period = 0\ntimeout = \"0s\"", None).expect("accepted");
    assert_eq!((unset.drain.quiet_period, unset.drain.timeout), (None, None));
    assert_eq!(
        (zero.drain.quiet_period, zero.drain.timeout),
        (Some(Duration::ZERO), Some(Duration::ZERO))
    );
    let process = |keys: &str| {
        let source = format!("[[process]]\nname = \"a\"\ncommand = [\"a\"]\n{keys}");
        parse(&source, None).expect("accepted").processes.remove(0)
    };
    let limit = |keys: &str| match process(keys).restart {
        Restart::OnFailure { limit, .. } => limit,
        Restart::Never => panic!("restarts"),
    };
    assert_eq!(limit("restart = { when = \"on-failure\" }"), None);
    assert_eq!(limit("restart = { when = \"on-failure\", limit = 0 }"), Some(0));
    assert_eq!(process("").stop.timeout(), defaults::STOP_TIMEOUT);
    assert_eq!(process("stop = { timeout = 0 }").stop.timeout(), Duration::ZERO);
}

#[test]
fn all_errors_are_reported_at_once_each_with_its_place() {
    let problems = refused(
        r#"[drain]
timeout = 15
quiet_perod = "1s"
[[process]]
name = "a"
command = ["a"]
ready = { tcp = "unix:/x", interval = "0s" }
stop = "SIGTERM"
[[process]]
command = []
user = "no-such-user-here"
[[process]]
name = "c"
command = "c"
env = { TOKEN = 12345678 }
ready = { http = "https://x:1/", exec = ["true"] }
depends_on = ["nobody"]
critical = "yes"
envs = { TOKEN = 12345678 }
"#,
    );
    let expected = [
        "2: drain.timeout = 15: a duration needs its unit",
        "3: drain.quiet_perod = \"1s\": unknown key; known here: announce, quiet_period, timeout",
        "7: process[0].ready.interval (process \"a\") = \"0s\": 0 would ask without a pause",
        "7: process[0].ready.tcp (process \"a\") = \"unix:/x\": a Unix socket is not TCP",
        "8: process[0].stop (process \"a\") = \"SIGTERM\": expected a table",
        "9: process[1].name: required",
        "10: process[1].command = []: names no program",
        "11: process[1].user = \"no-such-user-here\": no user \"no-such-user-here\" here",
        "14: process[2].command (process \"c\") = \"c\": invalid type: string \"c\", expected a sequence",
        "15: process[2].env.TOKEN (process \"c\"): expected a string, not integer",
        "16: process[2].ready.http (process \"c\") = \"https://x:1/\": https is not spoken",
        "16: process[2].ready (process \"c\"): has 2 checks (http, exec)",
        "17: process[2].depends_on[0] (process \"c\") = \"nobody\": no process has this name; known: a, c",
        "18: process[2].critical (process \"c\") = \"yes\": invalid type",
        "19: process[2].envs (process \"c\"): unknown key",
    ];
    for line in expected {
        assert!(
            problems.iter().any(|problem| problem.starts_with(line)),
            "{line}\nis not in {problems:#?}"
        );
    }
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    assert!(
        problems.iter().all(|problem| !problem.contains('\n')),
        "{problems:#?}"
    );
    assert!(
        !problems.iter().any(|problem| problem.contains("12345678")),
        "a secret: {problems:#?}"
    );
}

#[test]
fn the_error_names_the_file() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("ebb.toml");
    let error = load(&file, None).expect_err("absent").to_string();
    assert!(
        error.starts_with("cannot read the configuration ") && error.contains("ebb.toml"),
        "{error}"
    );
    fs::write(&file, "[shutdown]\ngrace_period = \"long\"\nlimit = 1\n").expect("written");
    let error = load(&file, None).expect_err("refused").to_string();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 2, "{error}");
    assert!(
        lines[0].starts_with(&format!(
            "{}:2: shutdown.grace_period = \"long\": ",
            file.display()
        )),
        "{error}"
    );
    assert!(
        lines[1].starts_with(&format!("{}:3: shutdown.limit = 1: unknown key", file.display())),
        "{error}"
    );
}

#[test]
fn what_is_not_toml_is_refused_with_its_line() {
    let problems = refused("[drain]\ntimeout = \n");
    assert!(problems[0].starts_with("2: not TOML: "), "{problems:#?}");
    let twice = refused("[drain]\ntimeout = \"1s\"\ntimeout = \"2s\"\n");
    assert!(twice[0].starts_with("3: not TOML: duplicate key"), "{twice:#?}");
}

pub(super) fn named(name: &str, rest: &str) -> String {
    format!("[[process]]\nname = \"{name}\"\ncommand = [\"x\"]\n{rest}\n")
}

#[test]
fn a_cycle_is_refused_with_its_path() {
    let source = [
        named("a", "depends_on = [\"b\"]"),
        named("b", "depends_on = [\"d\", \"c\"]"),
        named("c", "depends_on = [\"a\"]"),
        named("d", ""),
        named("e", "depends_on = [\"e\"]"),
    ]
    .concat();
    let problems = refused(&source);
    assert_eq!(problems.len(), 2, "{problems:#?}");
    assert_eq!(
        problems[0],
        "4: process[0].depends_on (process \"a\"): a cycle, in which nothing can start first: a -> b -> c -> a"
    );
    assert!(problems[1].contains("e -> e"), "{problems:#?}");
}

#[test]
fn a_duplicate_name_is_refused_with_both_places() {
    let problem = only(&[named("a", ""), named("a", "")].concat());
    assert_eq!(
        problem,
        "6: process[1].name (process \"a\") = \"a\": the process on line 2 has this name already: choose another"
    );
}

#[test]
fn keys_that_contradict_each_other_are_refused() {
    for (keys, key, message) in [
        ("attach = 77", "process[0].command", "does not go with attach"),
        (
            "drain = { listeners = [] }",
            "process[0].drain.listeners",
            "drains nothing",
        ),
        (
            "ready = { timeout = \"1s\" }",
            "process[0].ready",
            "nothing to check",
        ),
        (
            "drain = { node = \"\" }",
            "process[0].drain.node",
            "names no node",
        ),
        (
            "ready = { delay = \"1s\", timeout = \"2s\" }",
            "process[0].ready.timeout (process \"a\") = \"2s\"",
            "does not go with delay",
        ),
        (
            "critical = true\nrestart = { when = \"on-failure\" }",
            "process[0].critical",
            "never takes effect",
        ),
        (
            "restart = { when = \"always\" }",
            "process[0].restart.when",
            "write \"never\" or \"on-failure\"",
        ),
        (
            "restart = { limit = -1, when = \"never\" }",
            "process[0].restart.limit",
            "invalid value",
        ),
        (
            "gate = [\"127.0.0.1\"]",
            "process[0].gate[0]",
            "is not an address",
        ),
        (
            "stop = { signal = \"SIGFOO\" }",
            "process[0].stop.signal",
            "no such signal",
        ),
        (
            "env = { \"A=B\" = \"1\" }",
            "process[0].env.A=B",
            "not a variable",
        ),
    ] {
        let problem = only(&named("a", keys));
        assert!(
            problem.contains(key) && problem.contains(message),
            "{keys}: {problem}"
        );
    }
    let attached = only("[[process]]\nname = \"a\"\nattach = 77\nrestart = { when = \"never\" }\n");
    assert!(
        attached.starts_with("4: process[0].restart") && attached.contains("attached"),
        "{attached}"
    );
    let announce = only("[drain]\nannounce = \"2s\"\ntimeout = \"1s\"\n");
    assert!(
        announce.starts_with("3: drain.timeout = \"1s\": 1s cannot hold announce 2s"),
        "{announce}"
    );
}

#[test]
fn everything_that_is_wrong_with_a_policy_is_told() {
    let problems = refused("[drain]\nannounce = \"2d\"\nlease = \"10ms\"\ntimeout = \"1s\"\nramp = \"3d\"\n");
    let expected = [
        "2: drain.announce = \"2d\": 2days is more than a day",
        "3: drain.lease = \"10ms\": 10ms is less than 1s",
        "4: drain.timeout = \"1s\": 1s cannot hold announce 2days + quiet_period 200ms: raise timeout, or set it to 0 to \
         not wait",
        "5: drain.ramp = \"3d\": 3days is more than a day",
    ];
    assert_eq!(problems, expected);
}

#[test]
fn a_policy_for_nobody_or_that_does_not_fit_on_top_of_the_general_one_is_refused() {
    let problems = parse(
        "[drain]\nannounce = \"20s\"\n[[drain.for]]\ntimeout = \"40s\"\n[[drain.for]]\nnodes = \"a\"\ntimeout = \"10s\"\n",
        None,
    )
    .unwrap_err();
    let told: Vec<String> = problems
        .iter()
        .map(|problem| format!("{}: {}", problem.key, problem.message))
        .collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].starts_with("drain.for[0]: name `nodes` or `listeners`"),
        "{told:?}"
    );
    assert!(
        told[1].starts_with("drain.for[1].timeout: 10s cannot hold announce 20s"),
        "{told:?}"
    );
}

#[test]
fn a_short_drain_is_accepted_and_one_that_cannot_hold_its_own_keys_is_refused() {
    assert!(parse("[drain]\ntimeout = \"700ms\"\n", None).is_ok());
    let text = |source: &str| {
        let problems = parse(source, None).expect_err("refused");
        problems.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let refused = text("[drain]\ntimeout = \"700ms\"\nlinger = \"1s\"\ntcp = \"drop\"\n");
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(
        refused
            .iter()
            .any(|line| line.contains("write \"wait\" or \"ignore\"")),
        "{refused:?}"
    );
    assert!(
        refused
            .iter()
            .any(|line| line.contains("announce 0s + linger 1s")),
        "{refused:?}"
    );
}

#[test]
fn a_signal_that_cannot_be_relayed_is_refused() {
    let relay = |value: &str| {
        only(&format!(
            "[[process]]\nname = \"a\"\ncommand = [\"a\"]\nrelay = {value}\n"
        ))
    };
    assert_eq!(
        relay("[\"SIGHUP\", \"SIGTERM\"]"),
        "4: process[0].relay[1] (process \"a\") = \"SIGTERM\": SIGTERM stops Ebb, in order: write for example \"SIGUSR1\""
    );
    assert!(relay("\"KILL\"").contains("SIGKILL is not one that can be passed on"));
}

#[test]
fn a_nul_is_refused_wherever_it_stands() {
    let process = |keys: &str| format!("[[process]]\nname = \"a\"\n{keys}\n");
    for (source, key) in [
        (process(r#"command = ["a", "b\u0000c"]"#), "process[0].command"),
        (
            process("command = [\"a\"]\nworking_dir = \"/\\u0000\""),
            "process[0].working_dir",
        ),
        (
            process("command = [\"a\"]\nready = { exec = [\"\\u0000\"] }"),
            "process[0].ready.exec",
        ),
        (
            process("command = [\"a\"]\nready = { unix = \"/a\\u0000\" }"),
            "process[0].ready.unix",
        ),
        (
            process("command = [\"a\"]\ngate = [\"unix:/a\\u0000\"]"),
            "process[0].gate[0]",
        ),
        (process(r#"attach = "/a\u0000""#), "process[0].attach"),
        (
            "[control_plane]\nstate = \"/a\\u0000\"\n".to_owned(),
            "control_plane.state",
        ),
        (
            "[control_plane]\nlisten = \"unix:/a\\u0000\"\n".to_owned(),
            "control_plane.listen",
        ),
    ] {
        let problems = refused(&source);
        let told = problems
            .iter()
            .any(|problem| problem.contains(&format!("{key} ")) && problem.contains("holds a NUL character"));
        assert!(told, "{key}: {problems:?}");
    }
}
