//! What comes after the last process.

use std::{io::Write as _, os::unix::net::UnixStream};

use nix::sys::signal::Signal;

use crate::world::World;

/// A call that has begun and never goes on: a client that hangs.
fn hangs(world: &World) -> UnixStream {
    let mut stream = UnixStream::connect(world.path("ebb.sock")).expect("connected");
    let mut headers = vec![0x83, 0x86]; // :method POST, :scheme http
    for (name, value) in [(0x04, "/ebb.v1.DrainService/ListDrains"), (0x01, "localhost")] {
        headers.extend([name, u8::try_from(value.len()).expect("short")]);
        headers.extend(value.as_bytes());
    }
    // content-type, by its place in the static table, which takes two bytes.
    headers.extend([0x0f, 0x10, 16]);
    headers.extend(b"application/grpc");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]); // SETTINGS
    let length = u8::try_from(headers.len()).expect("short");
    bytes.extend([0, 0, length, 1, 4, 0, 0, 0, 1]); // HEADERS, of which the stream does not end
    bytes.extend(headers);
    stream.write_all(&bytes).expect("written");
    stream
}

#[test]
fn a_client_that_hangs_is_cut_off_within_what_is_kept_of_the_grace_period() {
    let mut world = World::new();
    // Ends by SIGKILL just before the grace period does: what is left is what is kept.
    let deaf = [
        "sh",
        "-c",
        "trap '' TERM; echo \"$NAME start\" >> \"$JOURNAL\"; while :; do sleep 0.05; done",
    ];
    let config = format!(
        "[shutdown]\ngrace_period = \"1500ms\"\n{}",
        world.process("deaf", &deaf, "stop = { timeout = \"1s\" }")
    );
    world.ready(&config);
    world.noted("deaf start");
    let _hangs = hangs(&world);
    // The server has taken it up once it answers somebody who came later.
    assert!(world.ebb(&["status"]).status.success());
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
    let log = world.read("err");
    let bound = log.split("did not close in ").nth(1);
    let bound = bound
        .and_then(|rest| rest.split(';').next())
        .expect("it was cut off");
    let milliseconds = bound.strip_suffix("ms").and_then(|number| number.parse().ok());
    assert!(
        milliseconds.is_some_and(|bound: f64| bound <= 250.0),
        "in {bound}: {log}"
    );
}
