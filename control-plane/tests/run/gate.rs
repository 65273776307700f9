//! Gates, beside a proxy whose admin endpoint is the test's own.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
};

use nix::sys::signal::Signal;

use crate::world::{World, position};

/// Answers as an Envoy does that has one request in flight, which is two attempts towards 127.0.0.1:9.
fn envoy(path: &Path) {
    let listener = UnixListener::bind(path).expect("bound");
    std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
}

fn answer(mut stream: UnixStream) {
    let mut request = String::new();
    let mut lines = BufReader::new(stream.try_clone().expect("cloned"));
    while lines.read_line(&mut request).is_ok_and(|read| read > 2) {}
    let path = request.split_whitespace().nth(1).unwrap_or_default();
    let body = match path.split('?').next() {
        Some("/server_info") => r#"{"node":{"id":"edge"},"uptime_current_epoch":"1s"}"#,
        Some("/stats") => r#"{"stats":[{"name":"http.ingress.downstream_rq_active","value":1}]}"#,
        Some("/clusters") => {
            r#"{"cluster_statuses":[{"host_statuses":[{"stats":[{"name":"rq_active","value":"2"}],
            "address":{"socket_address":{"address":"127.0.0.1","port_value":9}}}]}]}"#
        }
        _ => "OK",
    };
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    // Who has gone away needs no answer.
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
}

fn config(world: &World, head: &str, proxy: &str, base: &str) -> String {
    let admin = world.path("admin.sock");
    envoy(&admin);
    [
        head.to_owned(),
        proxy.replace("ADMIN", &format!("unix:{}", admin.display())),
        base.to_owned(),
    ]
    .concat()
}

#[test]
fn a_gate_opens_when_its_last_proxy_has_exited() {
    let mut world = World::new();
    let config = config(
        &world,
        "[shutdown]\ngrace_period = \"8s\"\n[drain]\ntimeout = \"500ms\"\nquiet_period = \"50ms\"\n",
        &world.recorder(
            "proxy",
            "drain = { admin = \"ADMIN\" }\nstop = { timeout = \"3s\" }",
        ),
        &world.recorder("base", "gate = [\"127.0.0.1:9\"]\nstop = { timeout = \"1s\" }"),
    );
    world.ready(&config);
    world.noted("proxy start");
    world.noted("base start");
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
    let (log, journal) = (world.read("err"), world.journal());
    assert!(
        log.contains("drain timed out: 1 in flight"),
        "what was left is told: {log}"
    );
    assert!(position(&journal, "base term") > position(&journal, "proxy exit"));
    assert!(
        log.contains("nothing in flight towards it") && !log.contains("not in time"),
        "{log}"
    );
}

#[test]
fn a_gate_that_is_not_quiet_in_time_says_what_was_left() {
    let mut world = World::new();
    let deaf = [
        "sh",
        "-c",
        "trap '' TERM; echo \"$NAME start\" >> \"$JOURNAL\"; while :; do sleep 0.05; done",
    ];
    let keys = "drain = { admin = \"ADMIN\" }\nstop = { timeout = \"4s\" }";
    let config = config(
        &world,
        "[shutdown]\ngrace_period = \"6s\"\n[drain]\ntimeout = \"1s\"\nquiet_period = \"50ms\"\n",
        &world.process("proxy", &deaf, keys),
        &world.recorder("base", "gate = [\"127.0.0.1:9\"]\nstop = { timeout = \"3s\" }"),
    );
    world.ready(&config);
    world.noted("proxy start");
    world.noted("base start");
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
    let log = world.read("err");
    assert!(
        log.contains("waiting for traffic towards it to end: not in time, going on; left: 2 in flight towards 127.0.0.1:9"),
        "{log}"
    );
}
