//! `ebb report`.

use ebb_proto::v1::{
    Drain, DrainReport, Evidence, LastRequest, Lever, Phase, Sample, Scope, UnknownReporter,
};
use serde_json::{Value, json};

use crate::{
    fake::{Fake, drain, seconds},
    program::{Ended, run_at},
};

fn millis(millis: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration {
        seconds: millis / 1000,
        nanos: i32::try_from(millis % 1000 * 1_000_000).expect("less than a second"),
    })
}

fn sample(at: i64, in_flight: u64, phase: Phase) -> Sample {
    Sample {
        at: millis(at),
        in_flight,
        unknown_reporters: 0,
        phase: phase.into(),
    }
}

/// A drain that ended drained after 1.5 s.
fn drained() -> (Drain, DrainReport) {
    let drain = Drain {
        started_at: Some(prost_types::Timestamp {
            seconds: 1_800_000_000,
            nanos: 0,
        }),
        evidence: Evidence::Filter.into(),
        lever: Lever::Filter.into(),
        ..drain(Phase::Drained, 0)
    };
    let report = DrainReport {
        drain: None,
        timeline: vec![
            sample(0, 12, Phase::Draining),
            sample(300, 7, Phase::Draining),
            sample(900, 3, Phase::Draining),
            sample(1_250, 0, Phase::Quiet),
            sample(1_500, 0, Phase::Drained),
        ],
        requests_finished: 40,
        connections_told: 37,
        left_in_flight: 0,
        last: Some(LastRequest {
            node: "edge-1".into(),
            listener: "ingress".into(),
            at: millis(1_250),
        }),
        saved: millis(13_500),
        idle_connections_told: 2,
    };
    (drain, report)
}

fn report(drain: Drain, report: DrainReport, arguments: &[&str]) -> Ended {
    let fake = Fake::start();
    fake.say_drain(drain);
    fake.say_report(report);
    run_at(&fake.endpoint(), &[&["report", "d-1"], arguments].concat())
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

#[test]
fn for_a_person_it_is_a_page() {
    let (drain, told) = drained();
    let ended = report(drain, told, &[]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let expected = "\
drain d-1 drained in 1.5s
scope           listener ingress of every node
started         2027-01-15T08:00:00Z
rests on        the filter's count in every worker
closed by       the filter, response by response
finished        40 requests
told to close   37 connections, 2 after it had first been quiet
left            nothing in flight
last to finish  edge-1/ingress, 1.2s after the start
ended           13.5s sooner than `sleep 15`

NODE    LISTENER  IN FLIGHT  REQUESTS
edge-1  ingress           0        40

in flight over time: at most 12; · is none, ? is not known
████████████▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▂▂▂▂▂▂▂▂▂▂▂▂▂▂··········
0s                                                      1.5s
|draining                                         |quiet

its listeners go on closing connections until `ebb cancel d-1`";
    assert_eq!(ended.stdout, expected);
}

#[test]
fn for_programs_it_has_the_promised_keys() {
    let (drain, told) = drained();
    let json = parse(&report(drain, told, &["-o", "json"]).stdout);
    let listener = json!({"node": "edge-1", "name": "ingress", "in_flight": 0, "requests_during_drain": 40});
    let sample = |at: u64, in_flight: u64, phase: &str| json!({"at_ms": at, "in_flight": in_flight, "unknown_reporters": 0, "phase": phase});
    let expected = json!({
        "drain_id": "d-1", "outcome": "drained", "duration_ms": 1500, "in_flight_at_end": 0, "cut": 0,
        "unknown_reporters": 0, "outstanding": null, "listeners": [listener],
        "phase": "drained", "holding": true, "started_at": "2027-01-15T08:00:00.000Z",
        "evidence": "filter", "lever": "filter", "warnings": [],
        "requests_finished": 40, "connections_told": 37, "idle_connections_told": 2, "left_in_flight": 0,
        "last": {"node": "edge-1", "listener": "ingress", "at_ms": 1250}, "saved_ms": 13500,
        "timeline": [
            sample(0, 12, "draining"), sample(300, 7, "draining"), sample(900, 3, "draining"),
            sample(1250, 0, "quiet"), sample(1500, 0, "drained"),
        ],
    });
    assert_eq!(json, expected);
}

#[test]
fn it_has_all_that_a_waited_drain_says() {
    let (drain, told) = drained();
    let fake = Fake::start();
    fake.say_drain(drain);
    fake.say_report(told);
    let waited = parse(&run_at(&fake.endpoint(), &["drain", "--wait", "-o", "json"]).stdout);
    let reported = parse(&run_at(&fake.endpoint(), &["report", "d-1", "-o", "json"]).stdout);
    for (key, value) in waited.as_object().expect("an object") {
        assert_eq!(reported.get(key), Some(value), "{key}");
    }
}

#[test]
fn a_drain_that_runs_has_no_outcome_yet() {
    let told = DrainReport {
        timeline: vec![sample(0, 3, Phase::Draining), sample(1_500, 3, Phase::Draining)],
        ..DrainReport::default()
    };
    let text = report(drain(Phase::Draining, 3), told.clone(), &[]).stdout;
    assert!(
        text.starts_with("drain d-1 has run for 1.5s and is draining\n"),
        "{text}"
    );
    assert!(text.contains("left            3 requests in flight\n"), "{text}");
    assert!(!text.contains("sleep 15"), "{text}");
    let json = parse(&report(drain(Phase::Draining, 3), told, &["-o", "json"]).stdout);
    for key in ["outcome", "in_flight_at_end", "saved_ms", "last", "evidence"] {
        assert_eq!(json[key], Value::Null, "{key} in {json}");
    }
    assert_eq!(json["phase"], "draining");
}

#[test]
fn what_was_left_and_who_was_unknown_is_said() {
    let unknown = UnknownReporter {
        node: "edge-1".into(),
        reporter: "00000000000000a2".into(),
        reason: "silent for 1.5s".into(),
    };
    let late = Drain {
        unknown_reporters: vec![unknown],
        warnings: vec!["the filter's evidence was lost".into()],
        ..drain(Phase::TimedOut, 3)
    };
    let told = DrainReport {
        left_in_flight: 3,
        timeline: vec![sample(0, 3, Phase::Draining), sample(1_500, 3, Phase::TimedOut)],
        saved: millis(13_500),
        idle_connections_told: 2,
        ..DrainReport::default()
    };
    let text = report(late, told, &[]).stdout;
    for part in [
        "drain d-1 timed out after 1.5s\n",
        "left            3 requests in flight, 1 reporter unknown\n",
        "warning: the filter's evidence was lost\n",
        "unknown reporter edge-1/00000000000000a2: silent for 1.5s\n",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("sleep 15"), "it drained nothing: {text}");
}

#[test]
fn a_drain_that_took_longer_tells_what_a_sleep_would_have_cut() {
    let slow = Drain {
        elapsed: Some(seconds(20)),
        ..drain(Phase::Drained, 0)
    };
    let told = DrainReport {
        timeline: vec![
            sample(0, 9, Phase::Draining),
            sample(14_000, 2, Phase::Draining),
            sample(19_800, 0, Phase::Quiet),
            sample(20_000, 0, Phase::Drained),
        ],
        saved: Some(seconds(-5)),
        ..DrainReport::default()
    };
    let text = report(slow.clone(), told.clone(), &[]).stdout;
    let expected = "ended           5s later than `sleep 15`, which would have cut 2 requests\n";
    assert!(text.contains(expected), "{text}");
    let json = parse(&report(slow.clone(), told.clone(), &["-o", "json"]).stdout);
    assert_eq!(json["saved_ms"], -5000);
    let svg = report(slow, told, &["-o", "svg"]).stdout;
    assert!(svg.contains("sleep 15 ends: 2 requests in flight"), "{svg}");
}

#[test]
fn the_picture_stands_alone_and_is_not_fooled_by_names() {
    let (drain, told) = drained();
    let drain = Drain {
        scope: Some(Scope {
            listeners: vec!["</text><script>alert(1)</script>&".into()],
            ..Scope::default()
        }),
        ..drain
    };
    let ended = report(drain, told, &["-o", "svg"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let svg = ended.stdout;
    assert!(
        svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""),
        "{svg}"
    );
    assert!(svg.contains("&lt;/text&gt;&lt;script&gt;alert(1)"), "{svg}");
    for part in [
        "drained at 1.5s",
        "draining 1.2s",
        "quiet 250ms",
        "sleep 15",
        "13.5s sooner",
        "last to finish: edge-1/ingress",
    ] {
        assert!(svg.contains(part), "{part} in {svg}");
    }
    let beside_its_namespace = svg.replace("http://www.w3.org/2000/svg", "");
    for outside in [
        "http",
        "<script",
        "href",
        "@import",
        "url(",
        "<image",
        "<foreignObject",
    ] {
        assert!(!beside_its_namespace.contains(outside), "{outside} in {svg}");
    }
    // Every element that is opened is closed.
    let opened = svg.matches('<').count() - svg.matches("</").count();
    assert_eq!(
        opened,
        svg.matches("</").count() + svg.matches("/>").count(),
        "{svg}"
    );
}

#[test]
fn a_drain_that_is_not_known_is_an_error() {
    let fake = Fake::start();
    let ended = run_at(&fake.endpoint(), &["report", "d-2"]);
    assert_eq!(
        (ended.code, ended.stdout.as_str(), ended.stderr.as_str()),
        (Some(1), "", "ebb: no drain `d-2`")
    );
}
