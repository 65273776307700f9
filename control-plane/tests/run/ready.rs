//! Readiness checks against real servers, which are the test's own.

use std::{net::TcpListener, os::unix::net::UnixListener};

use nix::sys::signal::Signal;

use crate::world::{World, quoted};

/// Not ready until the server is there; then ready.
fn turns_ready(world: &mut World, check: &str, serve: impl FnOnce()) {
    let config = world.process(
        "a",
        &["sleep", "1000"],
        &format!("ready = {{ {check}, interval = \"10ms\" }}"),
    );
    world.start(&config);
    world.logged("started as pid");
    for _ in 0..3 {
        assert_ne!(
            world.health("/ready").map(|(status, _)| status),
            Some(200),
            "{check}"
        );
        std::thread::yield_now();
    }
    serve();
    world.until_ready();
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0, "{check}");
}

/// Answers 503, then 200.
fn answer(mut stream: impl std::io::Read + std::io::Write, status: &str) {
    let mut request = [0; 1024];
    let read = stream.read(&mut request).unwrap_or(0);
    assert!(
        request[..read].starts_with(b"GET /health HTTP/1.1\r\n"),
        "{:?}",
        String::from_utf8_lossy(&request[..read])
    );
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let _ = stream.write_all(answer.as_bytes());
}

#[test]
fn tcp() {
    let port = TcpListener::bind("127.0.0.1:0")
        .expect("port")
        .local_addr()
        .expect("address")
        .port();
    let mut kept = None;
    turns_ready(&mut World::new(), &format!("tcp = \"127.0.0.1:{port}\""), || {
        kept = Some(TcpListener::bind(("127.0.0.1", port)).expect("bound"));
    });
}

#[test]
fn a_unix_socket() {
    let mut world = World::new();
    let path = world.path("a.sock");
    // One that a dead process left is removed, and does not count.
    drop(UnixListener::bind(&path).expect("bound"));
    let mut kept = None;
    turns_ready(&mut world, &format!("unix = {}", quoted(&path)), || {
        assert!(!path.exists(), "the stale socket is removed");
        kept = Some(UnixListener::bind(&path).expect("bound"));
    });
}

#[test]
fn http_over_tcp_and_over_a_unix_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = listener.local_addr().expect("address").port();
    std::thread::spawn(move || {
        for (stream, status) in listener.incoming().flatten().zip(["503 No", "204 Yes"]) {
            answer(stream, status);
        }
    });
    let mut world = World::new();
    let config = world.process(
        "a",
        &["sleep", "1000"],
        &format!("ready = {{ http = \"http://127.0.0.1:{port}/health\", interval = \"300ms\" }}"),
    );
    world.ready(&config);
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);

    let mut world = World::new();
    let path = world.path("a.sock");
    let check = format!("http = \"unix:{}:/health\"", path.display());
    turns_ready(&mut world, &check, || {
        let listener = UnixListener::bind(&path).expect("bound");
        std::thread::spawn(move || {
            for (stream, status) in listener.incoming().flatten().zip(["404 No", "200 Yes"]) {
                answer(stream, status);
            }
        });
    });
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_not_ready() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = listener.local_addr().expect("address").port();
    let mut world = World::new();
    let config = world.process(
        "a",
        &["sleep", "1000"],
        &format!("ready = {{ http = \"127.0.0.1:{port}/\", timeout = \"300ms\" }}"),
    );
    world.start(&config);
    assert_eq!(world.ends(), 1);
    assert!(
        world.read("err").contains("not ready within 300ms: 127.0.0.1:"),
        "{}",
        world.read("err")
    );
}

#[test]
fn a_delay() {
    let mut world = World::new();
    let config = world.process("a", &["sleep", "1000"], "ready = { delay = \"150ms\" }");
    world.ready(&config);
    let log = world.read("err");
    let after = log
        .lines()
        .find(|line| line.contains("ready after"))
        .expect("ready");
    let after = after
        .split("ready after ")
        .nth(1)
        .and_then(|text| text.split("ms").next())
        .expect("time");
    assert!(after.parse::<u64>().is_ok_and(|after| after >= 150), "{after}");
}

#[test]
fn a_check_may_take_as_long_as_there_is_time() {
    let mut world = World::new();
    let config = world.process(
        "a",
        &["sleep", "1000"],
        "ready = { exec = [\"sleep\", \"1.3\"], timeout = \"60s\" }",
    );
    world.ready(&config);
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
}
