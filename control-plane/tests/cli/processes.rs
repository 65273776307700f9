//! The processes of `ebb run`, in `ebb status` and `ebb watch`.

use std::sync::atomic::Ordering;

use ebb_proto::v1::{Process, ProcessState};
use serde_json::{Value, json};

use crate::{
    fake::{Fake, process},
    program::{run_at, start_at},
};

fn gateway() -> Vec<Process> {
    vec![
        Process {
            waits_for: "its requests, at most 5s".into(),
            ..process("router", ProcessState::Draining)
        },
        Process {
            pid: 0,
            uptime: None,
            restarts: 2,
            exit: "exited with code 3".into(),
            ..process("engine", ProcessState::BackingOff)
        },
    ]
}

#[test]
fn status_for_people_has_a_table_of_them() {
    let fake = Fake::start();
    fake.say_processes(gateway());
    let ended = run_at(&fake.endpoint(), &["status"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let expected = "\
PROCESS  STATE                                         PID  UPTIME  WAITS FOR
router   draining                                       42   1m30s  its requests, at most 5s
engine   backing_off (exited with code 3), 2 restarts    -       -";
    assert!(ended.stdout.ends_with(expected), "{}", ended.stdout);
}

#[test]
fn status_for_programs_has_the_promised_keys() {
    let fake = Fake::start();
    fake.say_processes(gateway());
    let ended = run_at(&fake.endpoint(), &["status", "-o", "json"]);
    let status: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(
        status["processes"],
        json!([
            {
                "name": "router", "state": "draining", "pid": 42, "uptime_ms": 90_000,
                "waits_for": "its requests, at most 5s", "restarts": 0, "exit": "",
            },
            {
                "name": "engine", "state": "backing_off", "pid": null, "uptime_ms": null, "waits_for": "",
                "restarts": 2, "exit": "exited with code 3",
            },
        ])
    );
}

#[test]
fn watch_is_told_of_them_and_does_not_ask_again_and_again() {
    let fake = Fake::start();
    fake.say_processes(vec![process("router", ProcessState::Starting)]);
    let mut watch = start_at(&fake.endpoint(), &["watch"]);
    watch.stdout_says("process router: starting, pid 42");
    fake.say_processes(vec![process("router", ProcessState::Ready)]);
    watch.stdout_says("process router: ready, pid 42");
    fake.say_processes(gateway());
    watch.stdout_says("process engine: backing_off (exited with code 3), 2 restarts");
    watch.stdout_says("process router: draining, pid 42");
    let listed = fake.says.listed.load(Ordering::Relaxed);
    assert!(listed <= 1, "listed {listed} times");
    watch.interrupt();
    let ended = watch.end();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}
