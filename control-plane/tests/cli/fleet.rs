//! `ebb status`, `ebb watch` and `ebb cancel`.

use std::process::Stdio;

use ebb_proto::v1::{Drain, Phase};
use serde_json::{Value, json};

use crate::{
    fake::{Fake, drain, node},
    program::{Running, command, run_at, start_at},
};

fn fleet(phase: &str, holding: bool, in_flight: u64) -> Value {
    json!({
        "nodes": [{
            "id": "edge-1", "reporters": 2, "unknown_reporters": 1,
            "listeners": [{"name": "ingress", "in_flight": in_flight, "phase": "serving"}],
        }],
        "drains": [{
            "id": "d-1", "phase": phase, "holding": holding, "in_flight": 3, "elapsed_ms": 1500, "outstanding": null,
            "nodes": [], "listeners": ["ingress"],
        }],
        "processes": [],
    })
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))
}

#[test]
fn status_for_programs_has_the_promised_keys() {
    let fake = Fake::start();
    let ended = run_at(&fake.endpoint(), &["status", "-o", "json"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    assert_eq!(parse(&ended.stdout), fleet("draining", true, 3));
}

#[test]
fn status_for_people_names_the_unknown_reporter_and_why() {
    let fake = Fake::start();
    let ended = run_at(&fake.endpoint(), &["status"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let expected = "\
NODE    LISTENER  IN FLIGHT  PHASE    REPORTERS
edge-1  ingress         >=3  serving  2 (1 unknown)

UNKNOWN REPORTERS (their requests are not counted)
edge-1/00000000000000a2: silent for 1.5s

DRAIN  PHASE     IN FLIGHT  ELAPSED  SCOPE
d-1    draining          3     1.5s  listener ingress of every node";
    assert_eq!(ended.stdout, expected);
}

#[test]
fn status_tells_an_ended_drain_that_holds_from_a_released_one() {
    let fake = Fake::start();
    fake.say_drain(drain(Phase::TimedOut, 3));
    assert!(
        run_at(&fake.endpoint(), &["status"])
            .stdout
            .contains("timed_out, holding")
    );
    assert_eq!(
        run_at(&fake.endpoint(), &["cancel", "d-1"]).stdout,
        "d-1 released (it had timed out)"
    );
    let stdout = run_at(&fake.endpoint(), &["status"]).stdout;
    assert!(
        stdout.contains("1 drain ended and released") && !stdout.contains("d-1"),
        "{stdout}"
    );
}

#[test]
fn status_without_nodes_says_so() {
    let fake = Fake::start();
    fake.say_nodes(vec![]);
    assert!(
        run_at(&fake.endpoint(), &["status"])
            .stdout
            .starts_with("no node: no Envoy")
    );
}

#[test]
fn a_result_that_nobody_reads_is_no_failure() {
    let fake = Fake::start();
    let (reader, writer) = std::io::pipe().expect("pipe");
    drop(reader);
    let mut status = command(&["status"]);
    status.env("EBB_ENDPOINT", fake.endpoint());
    let ended = Running::with(status, writer, Stdio::piped()).end();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

#[test]
fn cancel_is_idempotent_and_knows_what_it_does_not_know() {
    let fake = Fake::start();
    for _ in 0..2 {
        let ended = run_at(&fake.endpoint(), &["cancel", "d-1"]);
        assert_eq!(
            (ended.code, ended.stdout.as_str(), ended.stderr.as_str()),
            (Some(0), "d-1 cancelled", "")
        );
    }
    let ended = run_at(&fake.endpoint(), &["cancel", "d-2"]);
    assert_eq!(
        (ended.code, ended.stdout.as_str(), ended.stderr.as_str()),
        (Some(1), "", "ebb: no drain `d-2`")
    );
}

#[test]
fn watch_writes_a_line_for_each_change_until_ctrl_c() {
    let fake = Fake::start();
    let mut watch = start_at(&fake.endpoint(), &["watch"]);
    watch.stdout_says("drain d-1: draining, 3 in flight (listener ingress of every node)");
    watch.stdout_says("listener edge-1/ingress: serving, 3 in flight");
    watch.stdout_says("node edge-1: 2 reporters, 1 unknown");
    fake.say_nodes(vec![node("edge-1", 2), node("edge-2", 0)]);
    watch.stdout_says("listener edge-1/ingress: serving, 2 in flight");
    watch.stdout_says("listener edge-2/ingress: serving, 0 in flight");
    fake.say_drain(drain(Phase::Drained, 0));
    watch.stdout_says("drain d-1: drained, 0 in flight");
    watch.interrupt();
    let ended = watch.end();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

#[test]
fn watch_passes_over_what_was_over_before() {
    let fake = Fake::start();
    fake.say_drain(Drain {
        holding: false,
        ..drain(Phase::Drained, 0)
    });
    let mut watch = start_at(&fake.endpoint(), &["watch"]);
    watch.stdout_says("node edge-1");
    fake.say_drain(drain(Phase::Draining, 1));
    watch.stdout_says("drain d-1: draining, 1 in flight");
    fake.say_drain(Drain {
        holding: false,
        ..drain(Phase::Drained, 0)
    });
    watch.stdout_says("drain d-1: drained, released, 0 in flight");
    watch.interrupt();
    let stdout = watch.end().stdout;
    assert!(stdout.starts_with("listener "), "{stdout}");
}

#[test]
fn watch_for_programs_writes_an_object_on_a_line() {
    let fake = Fake::start();
    let mut watch = start_at(&fake.endpoint(), &["watch", "-o", "json"]);
    assert_eq!(parse(&watch.stdout_says("")), fleet("draining", true, 3));
    fake.say_nodes(vec![node("edge-1", 2)]);
    assert_eq!(parse(&watch.stdout_says("")), fleet("draining", true, 2));
    fake.say_drain(drain(Phase::TimedOut, 3));
    assert_eq!(parse(&watch.stdout_says("")), fleet("timed_out", true, 2));
}

#[test]
fn watch_goes_on_after_a_restart() {
    let mut fake = Fake::start();
    let mut watch = start_at(&fake.endpoint(), &["watch"]);
    watch.stdout_says("listener edge-1/ingress: serving, 3 in flight");
    fake.stop();
    watch.stderr_says("trying again");
    fake.say_nodes(vec![node("edge-1", 7)]);
    fake.serve();
    watch.stdout_says("listener edge-1/ingress: serving, 7 in flight");
}

#[test]
fn watch_ends_when_nobody_reads_it() {
    let fake = Fake::start();
    let (reader, writer) = std::io::pipe().expect("pipe");
    drop(reader);
    let mut watch = command(&["watch", "-o", "json"]);
    watch.env("EBB_ENDPOINT", fake.endpoint());
    let ended = Running::with(watch, writer, Stdio::piped()).end();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}
