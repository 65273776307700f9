//! `ebb serve`: the real control plane, without an Envoy.

use rustix::process::Signal;

use crate::program::{Running, command, run, run_at, start_at};

/// A control plane that has said where it serves.
fn serve(endpoint: &str, state: &str, more: &[&str]) -> Running {
    let mut arguments = vec!["serve", "--listen", endpoint, "--state", state];
    arguments.extend(more);
    let mut serving = Running::new(command(&arguments));
    serving.stderr_says("serving");
    serving
}

#[test]
fn it_serves_until_a_signal_ends_it() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let endpoint = format!("unix:{}", directory.path().join("ebb.sock").display());
    for signal in [Signal::INT, Signal::TERM, Signal::QUIT] {
        let serving = serve(&endpoint, "", &[]);
        let status = run_at(&endpoint, &["status", "-o", "json"]);
        assert_eq!(
            status.stdout, r#"{"nodes":[],"drains":[],"processes":[]}"#,
            "{}",
            status.stderr
        );
        let refused = run_at(&endpoint, &["drain", "--wait"]);
        assert_eq!(
            (refused.code, refused.stderr.lines().count()),
            (Some(1), 1),
            "{}",
            refused.stderr
        );
        serving.signal(signal);
        let ended = serving.end();
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(0), ""),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn signals_that_are_no_stop_do_nothing() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let endpoint = format!("unix:{}", directory.path().join("ebb.sock").display());
    let mut serving = serve(&endpoint, "", &[]);
    for signal in [
        Signal::HUP,
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::VTALARM,
        Signal::PROF,
        Signal::IO,
        Signal::POWER,
        Signal::XCPU,
        Signal::XFSZ,
    ] {
        serving.signal(signal);
        serving.stderr_says("ignored");
    }
    assert_eq!(run_at(&endpoint, &["status"]).code, Some(0));
    serving.interrupt();
    assert_eq!(serving.end().code, Some(0));
}

#[test]
fn its_log_is_made_of_objects_if_asked() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let endpoint = format!("unix:{}", directory.path().join("ebb.sock").display());
    let state = directory.path().join("state");
    let serving = serve(
        &endpoint,
        state.to_str().expect("plain"),
        &["--log-format", "json"],
    );
    serving.interrupt();
    let log = serving.end().stderr;
    for line in log.lines() {
        let event: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
        assert!(
            event["level"].is_string() && event["message"].is_string(),
            "{line}"
        );
    }
    assert!(state.is_dir());
}

#[test]
fn a_watch_and_its_control_plane_end_together_without_a_hitch() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let endpoint = format!("unix:{}", directory.path().join("ebb.sock").display());
    let serving = serve(&endpoint, "", &[]);
    let mut watch = start_at(&endpoint, &["watch", "-o", "json"]);
    watch.stdout_says("nodes");
    serving.interrupt();
    watch.stderr_says("trying again");
    assert_eq!(serving.end().code, Some(0));
    watch.interrupt();
    assert_eq!(watch.end().code, Some(0));
}

#[test]
fn an_address_that_is_taken_is_one_line() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let endpoint = format!("unix:{}", directory.path().join("ebb.sock").display());
    let _serving = serve(&endpoint, "", &[]);
    let second = run(&["serve", "--listen", &endpoint, "--state", ""]);
    assert_eq!(second.code, Some(1));
    let last = second.stderr.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("ebb: ") && last.contains("ebb.sock"),
        "{}",
        second.stderr
    );
}

#[test]
fn an_endpoint_elsewhere_is_warned_of() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let socket = |name: &str| format!("unix:{}", directory.path().join(name).display());
    let here = socket("ebb.sock");
    for (endpoint, elsewhere) in [(socket("other.sock"), true), (here.clone(), false)] {
        let mut command = command(&["serve", "--listen", &here, "--state", ""]);
        command.env("EBB_ENDPOINT", &endpoint);
        let mut serving = Running::new(command);
        serving.stderr_says("serving");
        serving.signal(Signal::TERM);
        let log = serving.end().stderr;
        let warned = log
            .lines()
            .any(|line| line.contains("WARN") && line.contains("other.sock") && line.contains(&here));
        assert_eq!(warned, elsewhere, "{log}");
    }
}

#[test]
fn an_admin_endpoint_that_is_none_is_warned_of() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let endpoint = format!("unix:{}", directory.path().join("ebb.sock").display());
    // Port 1 is nobody's.
    let mut serving = serve(&endpoint, "", &["--admin", "http://127.0.0.1:1"]);
    serving.stderr_says("no Envoy answers at this admin endpoint");
}
