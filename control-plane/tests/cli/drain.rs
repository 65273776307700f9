//! `ebb drain`.

use ebb_proto::v1::{Drain, OnTimeout, Outstanding, Phase, Tcp, UnknownReporter};
use serde_json::{Value, json};

use crate::{
    fake::{Fake, drain, seconds},
    program::{run_at, start_at},
};

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

fn with_unknown(drain: Drain) -> Drain {
    let unknown = UnknownReporter {
        node: "edge-1".into(),
        reporter: "00000000000000a2".into(),
        reason: "silent for 1.5s".into(),
    };
    Drain {
        unknown_reporters: vec![unknown],
        ..drain
    }
}

#[test]
fn without_wait_it_prints_the_id_alone() {
    let fake = Fake::start();
    let ended = run_at(&fake.endpoint(), &["drain", "--listener", "ingress"]);
    assert_eq!(
        (ended.code, ended.stdout.as_str(), ended.stderr.as_str()),
        (Some(0), "d-1", "")
    );
}

#[test]
fn without_wait_programs_get_the_drain_as_it_stands() {
    let fake = Fake::start();
    let ended = run_at(&fake.endpoint(), &["drain", "-o", "json"]);
    let listener = json!({"node": "edge-1", "name": "ingress", "in_flight": 3, "requests_during_drain": 40});
    let expected = json!({
        "drain_id": "d-1", "phase": "draining", "holding": true, "in_flight": 3, "elapsed_ms": 1500,
        "unknown_reporters": 0, "outstanding": null, "listeners": [listener],
    });
    assert_eq!(parse(&ended.stdout), expected);
}

#[test]
fn only_what_was_said_is_sent() {
    let fake = Fake::start();
    run_at(&fake.endpoint(), &["drain"]);
    let all = "drain --node a --node b --listener l --timeout 2m --quiet-period 0 --announce 5s --ramp 30s --lease 10s \
               --on-timeout abort --tcp ignore --linger 2s --flush 3s --idle 4s --request-id r";
    run_at(
        &fake.endpoint(),
        &all.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>(),
    );
    let asked = fake.says.asked.lock().expect("lock").clone();
    let [plain, full] = asked.as_slice() else {
        panic!("two requests, not {asked:?}")
    };
    assert_eq!(plain.request_id, "");
    assert_eq!(plain.scope, Some(ebb_proto::v1::Scope::default()));
    assert_eq!(plain.policy, Some(ebb_proto::v1::Policy::default()));
    assert_eq!(full.request_id, "r");
    let scope = full.scope.clone().expect("scope");
    assert_eq!(
        (scope.nodes, scope.listeners),
        (vec!["a".to_owned(), "b".to_owned()], vec!["l".to_owned()])
    );
    let policy = full.policy.expect("policy");
    assert_eq!(policy.timeout, Some(seconds(120)));
    assert_eq!(policy.quiet_period, Some(seconds(0)));
    assert_eq!(policy.announce, Some(seconds(5)));
    assert_eq!(policy.ramp, Some(seconds(30)));
    assert_eq!(policy.lease, Some(seconds(10)));
    assert_eq!(policy.on_timeout(), OnTimeout::Abort);
    assert_eq!(policy.tcp(), Tcp::Ignore);
    assert_eq!(
        (policy.linger, policy.flush, policy.idle),
        (Some(seconds(2)), Some(seconds(3)), Some(seconds(4)))
    );
}

#[test]
fn waiting_follows_the_drain_and_ends_with_0() {
    let fake = Fake::start();
    let mut waiting = start_at(&fake.endpoint(), &["drain", "--wait", "-o", "json"]);
    waiting.stderr_says("draining: 3 requests in flight (edge-1/ingress 3)");
    fake.say_drain(with_unknown(drain(Phase::Draining, 1)));
    waiting.stderr_says(
        "1 request in flight (edge-1/ingress 1); waits for 1 unknown reporter (edge-1/00000000000000a2: silent",
    );
    fake.say_drain(drain(Phase::Quiet, 0));
    waiting.stderr_says("quiet: 0 requests in flight");
    fake.say_drain(drain(Phase::Drained, 0));
    let ended = waiting.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let listener = json!({"node": "edge-1", "name": "ingress", "in_flight": 0, "requests_during_drain": 40});
    let expected = json!({
        "drain_id": "d-1", "outcome": "drained", "duration_ms": 1500, "in_flight_at_end": 0, "cut": 0,
        "unknown_reporters": 0, "outstanding": null, "listeners": [listener],
    });
    assert_eq!(parse(&ended.stdout), expected);
}

#[test]
fn what_envoys_still_owe_is_shown_wherever_the_drain_is() {
    let fake = Fake::start();
    let owing = |phase| Drain {
        outstanding: Some(Outstanding {
            tcp_sessions: Some(2),
            unsent_bytes: Some(37_000),
            unsent_clients: Some(1),
            upstream_requests: None,
            unseen_nodes: 0,
        }),
        ..drain(phase, 0)
    };
    fake.say_drain(owing(Phase::Quiet));
    let mut waiting = start_at(&fake.endpoint(), &["drain", "--wait", "-o", "json"]);
    waiting.stderr_says("quiet: 0 requests in flight; waits for 2 TCP sessions, 37 kB towards 1 client");
    let status = run_at(&fake.endpoint(), &["status"]).stdout;
    let line = "drain d-1 waits for 2 TCP sessions, 37 kB towards 1 client";
    assert!(status.contains(line), "{status}");
    let blockers = run_at(&fake.endpoint(), &["status", "--blockers"]).stdout;
    assert!(blockers.contains(line), "{blockers}");
    let owed = json!({"tcp_sessions": 2, "unsent_bytes": 37_000, "unsent_clients": 1, "upstream_requests": null,
        "unseen_nodes": 0});
    let status = parse(&run_at(&fake.endpoint(), &["status", "-o", "json"]).stdout);
    assert_eq!(status["drains"][0]["outstanding"], owed);
    let mut watching = start_at(&fake.endpoint(), &["watch"]);
    watching.stdout_says("quiet, 0 in flight, 2 TCP sessions, 37 kB towards 1 client");
    fake.say_drain(owing(Phase::TimedOut));
    let ended = waiting.end();
    assert_eq!(parse(&ended.stdout)["outstanding"], owed);
    let report = run_at(&fake.endpoint(), &["report", "d-1"]).stdout;
    assert!(
        report.contains("0 requests in flight, 2 TCP sessions, 37 kB towards 1 client"),
        "{report}"
    );
    let ended = run_at(&fake.endpoint(), &["drain", "--wait"]).stdout;
    assert!(
        ended.starts_with("drain d-1 timed out after 1.5s: 0 requests in flight, 2 TCP sessions, 37 kB"),
        "{ended}"
    );
}

#[test]
fn a_timeout_ends_with_3_and_the_numbers_left() {
    let fake = Fake::start();
    fake.say_drain(with_unknown(drain(Phase::TimedOut, 3)));
    let ended = run_at(&fake.endpoint(), &["drain", "--wait"]);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    let expected = "\
drain d-1 timed out after 1.5s: 3 requests in flight, 1 reporter unknown
NODE    LISTENER  IN FLIGHT  REQUESTS
edge-1  ingress           3        40
unknown reporter edge-1/00000000000000a2: silent for 1.5s
its listeners go on closing connections until `ebb cancel d-1`";
    assert_eq!(ended.stdout, expected);
    let json = parse(&run_at(&fake.endpoint(), &["drain", "--wait", "-o", "json"]).stdout);
    assert_eq!(
        (&json["outcome"], &json["unknown_reporters"]),
        (&json!("timed_out"), &json!(1))
    );
}

#[test]
fn a_cancel_from_elsewhere_ends_with_4() {
    let fake = Fake::start();
    let mut waiting = start_at(&fake.endpoint(), &["drain", "--wait"]);
    waiting.stderr_says("draining");
    assert_eq!(run_at(&fake.endpoint(), &["cancel", "d-1"]).code, Some(0));
    let ended = waiting.end();
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(
        ended.stdout.starts_with("drain d-1 was cancelled after 1.5s"),
        "{}",
        ended.stdout
    );
}

#[test]
fn a_refused_drain_is_the_control_planes_message_in_one_line() {
    let fake = Fake::start();
    let ended = run_at(&fake.endpoint(), &["drain", "--listener", "nope", "--wait"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    assert_eq!(
        ended.stderr,
        "ebb: no listener `nope`: known are `ingress`, `internal`"
    );
}

#[test]
fn waiting_goes_on_over_a_restart_of_the_control_plane() {
    let mut fake = Fake::start();
    let mut waiting = start_at(&fake.endpoint(), &["drain", "--wait"]);
    waiting.stderr_says("3 requests in flight");
    fake.stop();
    waiting.stderr_says("trying again");
    fake.say_drain(drain(Phase::Draining, 2));
    fake.serve();
    waiting.stderr_says("2 requests in flight");
    fake.say_drain(drain(Phase::Drained, 0));
    assert_eq!(waiting.end().code, Some(0));
    assert_eq!(
        fake.says.asked.lock().expect("lock").len(),
        1,
        "it is not started twice"
    );
}

#[test]
fn a_drain_that_was_forgotten_is_an_error() {
    let mut fake = Fake::start();
    let mut waiting = start_at(&fake.endpoint(), &["drain", "--wait"]);
    waiting.stderr_says("3 requests in flight");
    fake.stop();
    fake.say_drain(Drain {
        id: "d-9".into(),
        ..drain(Phase::Draining, 0)
    });
    fake.serve();
    let ended = waiting.end();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    assert!(
        ended
            .stderr
            .ends_with("ebb: cannot follow drain d-1 to its end: no drain `d-1`"),
        "{}",
        ended.stderr
    );
}

#[test]
fn ctrl_c_says_that_the_drain_goes_on_and_how_to_cancel_it() {
    let fake = Fake::start();
    let mut waiting = start_at(&fake.endpoint(), &["drain", "--wait"]);
    waiting.stderr_says("draining");
    waiting.interrupt();
    let ended = waiting.end();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(130), ""));
    let hint = format!(
        "ebb: the drain goes on; `ebb cancel d-1 --endpoint {}` cancels it",
        fake.endpoint()
    );
    assert!(ended.stderr.ends_with(&hint), "{}", ended.stderr);
}

#[test]
fn warnings_are_printed_while_it_waits_and_at_its_end() {
    let fake = Fake::start();
    let warned = |phase, in_flight| Drain {
        warnings: vec![
            "the admin endpoint x:1 does not answer".to_owned(),
            "a\nb".to_owned(),
        ],
        ..drain(phase, in_flight)
    };
    let mut waiting = start_at(&fake.endpoint(), &["drain", "--wait"]);
    waiting.stderr_says("draining: 3 requests");
    fake.say_drain(warned(Phase::Draining, 2));
    waiting.stderr_says("ebb: warning: the admin endpoint x:1 does not answer");
    waiting.stderr_says("ebb: warning: a b");
    fake.say_drain(warned(Phase::Draining, 1));
    waiting.stderr_says("draining: 1 request");
    fake.say_drain(warned(Phase::Drained, 0));
    let ended = waiting.end();
    assert_eq!(
        ended.stderr.matches("x:1").count(),
        1,
        "each once: {}",
        ended.stderr
    );
    let lines: Vec<&str> = ended
        .stdout
        .lines()
        .filter(|line| line.starts_with("warning: "))
        .collect();
    assert_eq!(
        lines,
        ["warning: the admin endpoint x:1 does not answer", "warning: a b"]
    );
    let json = parse(&run_at(&fake.endpoint(), &["drain", "--wait", "-o", "json"]).stdout);
    assert_eq!(
        json["warnings"],
        json!(["the admin endpoint x:1 does not answer", "a\nb"])
    );
    let ended = run_at(&fake.endpoint(), &["drain"]);
    assert_eq!(ended.stdout, "d-1");
    assert!(ended.stderr.contains("warning: a b"), "{}", ended.stderr);
}

#[test]
fn a_cancel_of_a_node_says_how_many_envoys_pass_their_health_checks_again() {
    let fake = Fake::start();
    let undone = run_at(&fake.endpoint(), &["cancel", "--node", "edge-1"]);
    assert_eq!(
        (undone.code, undone.stdout.trim()),
        (Some(0), "edge-1 passes its health checks again (2 Envoys)"),
        "{}",
        undone.stderr
    );
    let unknown = run_at(&fake.endpoint(), &["cancel", "--node", "edge-9"]);
    assert!(
        unknown.code == Some(1) && unknown.stderr.contains("no admin endpoint"),
        "{}",
        unknown.stderr
    );
    for wrong in [
        &["cancel"][..],
        &["cancel", "--node", " "],
        &["cancel", "d-1", "--node", "edge-1"],
    ] {
        assert_eq!(run_at(&fake.endpoint(), wrong).code, Some(2), "{wrong:?}");
    }
}
