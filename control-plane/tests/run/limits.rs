//! File descriptors: few of them, and connections that take them.

use std::{
    fs,
    io::{ErrorKind, Read as _},
    os::unix::net::UnixStream,
    path::Path,
    process::Stdio,
};

use nix::sys::signal::Signal;

use crate::world::{World, eventually};

/// More than `ebb` may have open.
const MANY: usize = 400;

const FEW: [&str; 3] = ["sh", "-c", "ulimit -n 256; exec \"$0\" \"$@\""];

/// Connections that say nothing, as many as are taken.
fn silent(socket: &Path) -> Vec<UnixStream> {
    let connect = || {
        eventually("there is room in the queue", || {
            match UnixStream::connect(socket) {
                Ok(stream) => Some(stream),
                // What waits to be accepted is more than the system keeps.
                Err(error) if error.kind() == ErrorKind::WouldBlock => None,
                Err(error) => panic!("{error}"),
            }
        })
    };
    (0..MANY).map(|_| connect()).collect()
}

/// Waits until all but `left` of them have been closed by the other end.
fn closed(streams: &[UnixStream], left: usize) {
    eventually("those that say nothing are closed", || {
        let open = |stream: &&UnixStream| {
            stream.set_nonblocking(true).expect("a socket");
            let mut stream = *stream;
            matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
        };
        (streams.iter().filter(open).count() <= left).then_some(())
    });
}

fn serves(world: &World) {
    let status = world.ebb(&["status"]);
    assert!(status.status.success(), "{status:?}");
    assert_eq!(world.health("/ready").map(|(status, _)| status), Some(200));
}

fn of_few(world: &mut World) {
    let config = world.recorder("a", "");
    world.start_through(&FEW, &config, Stdio::null());
    world.until_ready();
    world.noted("a start");
}

#[test]
fn idle_connections_to_the_health_endpoint_take_nothing_from_anybody() {
    let mut world = World::new();
    of_few(&mut world);
    let idle = silent(&world.path("health.sock"));
    serves(&world);
    // 256 / 8
    closed(&idle, 32);
    serves(&world);
    drop(idle);
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
}

#[test]
fn connections_that_say_nothing_make_room_and_are_closed() {
    let mut world = World::new();
    of_few(&mut world);
    let silent = silent(&world.path("ebb.sock"));
    serves(&world);
    closed(&silent, 0);
    serves(&world);
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
}

#[test]
fn it_raises_its_own_limit_and_gives_its_processes_the_one_that_it_got() {
    let mut world = World::new();
    let limit = |pid: i32| {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
        let line = limits.lines().find(|line| line.starts_with("Max open files"));
        let numbers = line.expect("a limit").split_whitespace().skip(3);
        numbers.take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let config = world.recorder("a", "");
    let wrapper = ["sh", "-c", "ulimit -Sn 512; ulimit -Hn 900; exec \"$0\" \"$@\""];
    world.start_through(&wrapper, &config, Stdio::null());
    world.until_ready();
    assert_eq!(limit(world.pid()), ["900", "900"]);
    assert_eq!(limit(world.pid_of("a")), ["512", "900"]);
    world.noted("a start");
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
}
