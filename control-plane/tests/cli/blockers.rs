//! What keeps a drain waiting: `ebb status --blockers`, and what `ebb watch` and `ebb drain --wait` show by themselves.

use std::process::Stdio;

use ebb_proto::v1::{Blocker, Drain, NodeBlocker, Phase, Protocol};
use serde_json::{Value, json};

use crate::{
    fake::{Fake, drain, seconds},
    program::{Running, command, run_at, start_at},
    terminal::terminal,
};

fn blocker(age: i64, protocol: Protocol, route: &str) -> NodeBlocker {
    NodeBlocker {
        node: "edge-1".into(),
        blocker: Some(Blocker {
            listener: "ingress".into(),
            age: Some(seconds(age)),
            protocol: protocol.into(),
            route: route.into(),
            upstream: "10.0.0.3:80".into(),
            path: String::new(),
        }),
    }
}

/// A control plane with a WebSocket of an hour and a request of which little is known.
fn fake() -> Fake {
    let fake = Fake::start();
    let young = Blocker {
        listener: "ingress".into(),
        age: Some(seconds(2)),
        ..Blocker::default()
    };
    fake.say_blockers(vec![
        blocker(3_720, Protocol::Websocket, "chat\u{1b}[2J"),
        NodeBlocker {
            node: "edge-1".into(),
            blocker: Some(young),
        },
    ]);
    fake
}

/// The drain `d-1`, which has lasted for this long.
fn lasting(elapsed: i64, phase: Phase, in_flight: u64) -> Drain {
    Drain {
        elapsed: Some(seconds(elapsed)),
        ..drain(phase, in_flight)
    }
}

/// For which drain, and how many.
fn asked(fake: &Fake) -> Vec<(String, u32)> {
    let asked = fake.says.asked_for_blockers.lock().expect("lock");
    asked
        .iter()
        .map(|request| (request.drain_id.clone(), request.limit))
        .collect()
}

#[test]
fn status_lists_them_for_people_when_asked_to() {
    let fake = fake();
    let ended = run_at(&fake.endpoint(), &["status", "--blockers"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let expected = "\n\nOLDEST REQUESTS IN FLIGHT
NODE    LISTENER    AGE  PROTOCOL   ROUTE     UPSTREAM
edge-1  ingress   1h02m  websocket  chat [2J  10.0.0.3:80
edge-1  ingress      2s  unknown    -         -";
    assert!(ended.stdout.ends_with(expected), "{}", ended.stdout);
    run_at(&fake.endpoint(), &["status", "--blockers", "3"]);
    run_at(&fake.endpoint(), &["status"]);
    assert_eq!(asked(&fake), [(String::new(), 10), (String::new(), 3)]);

    fake.say_blockers(Vec::new());
    let stdout = run_at(&fake.endpoint(), &["status", "--blockers"]).stdout;
    assert!(
        stdout.ends_with("no request is in flight, as far as filters answered"),
        "{stdout}"
    );
}

#[test]
fn status_lists_them_for_programs_when_asked_to() {
    let fake = fake();
    let json = |arguments: &[&str]| -> Value {
        let stdout = run_at(&fake.endpoint(), arguments).stdout;
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error} in {stdout}"))
    };
    let expected = json!([
        {"node": "edge-1", "listener": "ingress", "age_ms": 3_720_000, "protocol": "websocket",
         "route": "chat\u{1b}[2J", "upstream": "10.0.0.3:80"},
        {"node": "edge-1", "listener": "ingress", "age_ms": 2000, "protocol": "unknown", "route": "", "upstream": ""},
    ]);
    assert_eq!(
        json(&["status", "--blockers", "-o", "json"])["blockers"],
        expected
    );
    assert_eq!(json(&["status", "-o", "json"]).get("blockers"), None);
}

#[test]
fn paths_are_shown_where_a_filter_tells_them() {
    let fake = fake();
    let mut found = blocker(9, Protocol::Http1, "shop");
    if let Some(blocker) = &mut found.blocker {
        blocker.path = "/orders/7\u{1b}[2J".into();
    }
    fake.say_blockers(vec![found, blocker(3, Protocol::Http1, "")]);
    let ended = run_at(&fake.endpoint(), &["status", "--blockers"]);
    let expected = "
NODE    LISTENER  AGE  PROTOCOL  ROUTE  UPSTREAM     PATH
edge-1  ingress    9s  h1        shop   10.0.0.3:80  /orders/7 [2J
edge-1  ingress    3s  h1        -      10.0.0.3:80  -";
    assert!(ended.stdout.ends_with(expected), "{}", ended.stdout);
    let stdout = run_at(&fake.endpoint(), &["status", "--blockers", "-o", "json"]).stdout;
    let object: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(object["blockers"][0]["path"], "/orders/7\u{1b}[2J");
    assert_eq!(object["blockers"][1].get("path"), None);
}

#[test]
fn a_drain_that_waits_for_long_says_what_for() {
    let fake = fake();
    let mut waiting = start_at(&fake.endpoint(), &["drain", "--wait"]);
    waiting.stderr_says(
        "oldest in flight: edge-1/ingress websocket for 1h02m, route chat [2J, to 10.0.0.3:80; \
         edge-1/ingress unknown for 2s",
    );
    fake.say_drain(lasting(5, Phase::Drained, 0));
    let ended = waiting.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(asked(&fake).iter().all(|asked| *asked == ("d-1".to_owned(), 5)));
    assert_eq!(
        ended.stderr.matches("oldest in flight").count(),
        1,
        "{}",
        ended.stderr
    );
}

#[test]
fn nothing_is_collected_for_a_drain_that_waits_for_no_request() {
    let fake = fake();
    fake.say_drain(lasting(20, Phase::Draining, 0));
    let mut waiting = start_at(&fake.endpoint(), &["drain", "--wait"]);
    waiting.stderr_says("draining: 0 requests in flight");
    fake.say_drain(lasting(21, Phase::Quiet, 0));
    waiting.stderr_says("quiet");
    fake.say_drain(lasting(22, Phase::Drained, 0));
    assert_eq!(waiting.end().code, Some(0));
    assert_eq!(asked(&fake), []);
}

#[test]
fn on_a_terminal_they_are_under_the_counts() {
    let fake = fake();
    fake.say_drain(lasting(20, Phase::Draining, 3));
    let (stderr, mut shown) = terminal();
    let mut waiting = command(&["drain", "--wait"]);
    waiting.env("EBB_ENDPOINT", fake.endpoint());
    let waiting = Running::with(waiting, Stdio::piped(), stderr);
    shown.until("edge-1  ingress           3        40");
    shown.until("OLDEST REQUESTS IN FLIGHT");
    shown.until("edge-1  ingress   1h02m  websocket  chat [2J  10.0.0.3:80");
    fake.say_drain(lasting(21, Phase::Quiet, 0));
    let painted = shown.until("quiet");
    assert!(painted.contains("drain d-1"), "{painted:?}");
    fake.say_drain(lasting(22, Phase::Drained, 0));
    assert_eq!(waiting.end().code, Some(0));
    let rest = shown.all();
    let after = rest.rsplit("quiet").next().unwrap_or_default();
    assert!(!after.contains("OLDEST"), "none is left: {after:?}");
}

#[test]
fn a_watch_tells_them_while_a_drain_waits_for_long() {
    let fake = fake();
    let mut watch = start_at(&fake.endpoint(), &["watch"]);
    watch.stdout_says("drain d-1: draining, 3 in flight");
    assert_eq!(asked(&fake), [], "it has waited for 1.5 s only");
    fake.say_drain(lasting(3, Phase::Draining, 3));
    watch.stdout_says("oldest in flight: edge-1/ingress websocket for 1h02m");
    watch.interrupt();
    assert_eq!(watch.end().code, Some(0));

    let mut watch = start_at(&fake.endpoint(), &["watch", "-o", "json"]);
    let line = watch.stdout_says("blockers");
    let object: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(object["blockers"][0]["protocol"], "websocket", "{line}");
    fake.say_drain(lasting(4, Phase::Drained, 0));
    let line = watch.stdout_says("drained");
    assert!(!line.contains("blockers"), "{line}");
}
