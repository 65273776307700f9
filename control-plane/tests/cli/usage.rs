//! Help, and what a person who types something wrong is told.

use crate::program::{Running, command, run, run_at};

/// The subcommands, as the help lists them.
fn subcommands() -> Vec<String> {
    let help = run(&["--help"]).stdout;
    let list = help
        .split("Commands:\n")
        .nth(1)
        .and_then(|rest| rest.split("\n\n").next())
        .expect("a list");
    list.lines()
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect()
}

#[test]
fn every_command_has_help_with_an_example() {
    let subcommands = subcommands();
    for name in [
        "serve",
        "drain",
        "cancel",
        "report",
        "status",
        "watch",
        "envoy-config",
    ] {
        assert!(
            subcommands.iter().any(|known| known == name),
            "{name} in {subcommands:?}"
        );
    }
    for name in subcommands {
        let help = run(&[&name, "--help"]);
        assert_eq!(help.code, Some(0), "{name}: {}", help.stderr);
        assert!(
            help.stdout.contains(&format!("Usage: ebb {name}")),
            "{name}: {}",
            help.stdout
        );
        let examples = help.stdout.split("Examples:\n").nth(1).unwrap_or_default();
        assert!(
            examples.contains(&format!("ebb {name}")),
            "{name} has no example: {}",
            help.stdout
        );
    }
}

#[test]
fn without_a_command_the_help_goes_to_standard_error() {
    let ended = run(&[]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""));
    assert!(ended.stderr.contains("Commands:"), "{}", ended.stderr);
}

#[test]
fn a_wrong_command_line_is_one_line_that_says_what_to_do() {
    let cases: &[(&[&str], &str)] = &[
        (&["drian"], "'drain'"),
        (
            &["drain", "--timout", "3s"],
            "'--timeout'; see `ebb drain --help`",
        ),
        (
            &["drain", "--timeout", "30"],
            "--timeout: `30` is not a duration: write a number and a unit",
        ),
        (&["drain", "--quiet-period", "soon"], "--quiet-period: `soon`"),
        (
            &["drain", "--lease", "400000000000y"],
            "--lease: `400000000000y` is too long a time",
        ),
        (
            &["drain", "--on-timeout", "panic"],
            "[possible values: proceed, abort]; see `ebb drain --help`",
        ),
        (&["drain", "--listener", ""], "--listener: the name is empty"),
        (
            &["drain", "--endpoint", "/run/ebb.sock"],
            "write `unix:/run/ebb.sock`",
        ),
        (&["cancel"], "<ID>; see `ebb cancel --help`"),
        (&["cancel", ""], "`ebb status` lists the drains"),
        (&["report", ""], "`ebb status` lists the drains"),
        (
            &["report", "x", "-o", "png"],
            "[possible values: text, json, svg]; see `ebb report --help`",
        ),
        (
            &["status", "-o", "yaml"],
            "[possible values: text, json]; see `ebb status --help`",
        ),
        (
            &["status", "--blockers", "101"],
            "101 is not in 1..=100; see `ebb status --help`",
        ),
        (&["serve", "--listen", "0.0.0.0:9901"], "add --insecure"),
        (
            &["serve", "--listen", "http://localhost:9901"],
            "without a scheme",
        ),
        (
            &["envoy-config", "--listener", "a"],
            "--control-plane <ADDR> --wasm <FILE>; see `ebb envoy-config --help`",
        ),
        (
            &[
                "envoy-config",
                "--listener",
                "a",
                "--control-plane",
                "a:0",
                "--wasm",
                "/f",
            ],
            "port 0",
        ),
        (
            &[
                "envoy-config",
                "--listener",
                "",
                "--control-plane",
                "a:1",
                "--wasm",
                "/f",
            ],
            "the name is empty",
        ),
        (
            &[
                "envoy-config",
                "--listener",
                "a",
                "--control-plane",
                "a:1",
                "--wasm",
                "",
            ],
            "the path is empty",
        ),
    ];
    for (arguments, hint) in cases {
        let ended = run(arguments);
        assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
        assert_eq!(ended.stdout, "", "{arguments:?}");
        assert!(ended.stderr.contains(hint), "{arguments:?}: {}", ended.stderr);
        assert!(
            ended.stderr.starts_with("ebb: "),
            "{arguments:?}: {}",
            ended.stderr
        );
        assert_eq!(ended.stderr.lines().count(), 1, "{arguments:?}: {}", ended.stderr);
    }
}

#[test]
fn a_bad_log_filter_is_a_usage_error() {
    let mut serve = command(&["serve", "--state", ""]);
    serve.env("EBB_LOG", "ebb=loud");
    let ended = Running::new(serve).end();
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("EBB_LOG: `ebb=loud`"), "{}", ended.stderr);
}

#[test]
fn an_unreachable_control_plane_is_said_with_its_address_and_cure() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let missing = format!("unix:{}", directory.path().join("ebb.sock").display());
    for arguments in [
        &["status"][..],
        &["watch"],
        &["drain", "--wait"],
        &["cancel", "x"],
    ] {
        let ended = run_at(&missing, arguments);
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(1), ""),
            "{arguments:?}"
        );
        let expected = format!(
            "ebb: cannot reach the control plane at {missing}: no such file; is `ebb serve` running? \
             (set --endpoint or EBB_ENDPOINT)"
        );
        assert_eq!(ended.stderr, expected, "{arguments:?}");
    }
}

#[test]
fn a_refused_connection_is_told_from_a_missing_socket() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("ebb.sock");
    // A socket file whose server has gone.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("socket"));
    let ended = run_at(&format!("unix:{}", path.display()), &["status"]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended
            .stderr
            .contains("connection refused; is `ebb serve` running?"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_silent_control_plane_is_not_waited_for_for_ever() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("ebb.sock");
    // Accepts into its backlog and never speaks.
    let _silent = std::os::unix::net::UnixListener::bind(&path).expect("socket");
    let ended = run_at(&format!("unix:{}", path.display()), &["status"]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stderr.contains("did not answer within 5s"),
        "{}",
        ended.stderr
    );
}

#[test]
fn envoy_config_prints_the_two_keys_to_paste() {
    let arguments = [
        "envoy-config",
        "--listener",
        "in",
        "--control-plane",
        "unix:/run/ebb.sock",
        "--wasm",
        "/opt/ebb_filter.wasm",
    ];
    let ended = run(&arguments);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let fragment: serde_json::Value = serde_yaml_ng::from_str(&ended.stdout).expect("YAML");
    let keys: Vec<&String> = fragment.as_object().expect("a map").keys().collect();
    assert_eq!(keys, ["clusters", "http_filters"]);
    for part in [
        "# These two stand first, in this order",
        "name: ebb_in\n",
        "path: /run/ebb.sock",
        "filename: /opt/ebb_filter.wasm",
    ] {
        assert!(ended.stdout.contains(part), "{part} in {}", ended.stdout);
    }
    let help = run(&["envoy-config", "--help"]).stdout;
    assert!(help.contains("`http_filters` first"), "{help}");
}

#[test]
fn envoy_config_is_for_a_version_that_is_known() {
    let print = |version: &str| {
        let arguments = [
            "envoy-config",
            "--listener",
            "in",
            "--control-plane",
            "a:1",
            "--wasm",
            "/f",
        ];
        run(&[&arguments[..], &["--envoy-version", version]].concat())
    };
    assert_eq!(print("1.40.0").code, Some(0));
    for (version, hint) in [
        ("1.36", "use 1.37 or later"),
        ("1.99", "1.40 is the newest"),
        ("new", "for example 1.40"),
    ] {
        let ended = print(version);
        assert_eq!(ended.code, Some(2), "{version}");
        assert!(
            ended.stderr.contains("--envoy-version: ") && ended.stderr.contains(hint),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn help_says_how_to_write_an_empty_value() {
    let help = run(&["serve", "--help"]).stdout;
    let words: Vec<&str> = help.split_whitespace().collect();
    assert!(words.join(" ").contains(r#"; "" = in memory only"#), "{help}");
}
