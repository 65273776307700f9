//! Sockets that a dead run left, and those that somebody uses.

use std::{
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::Path,
};

use nix::sys::signal::Signal;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

use crate::world::{World, eventually, quoted};

fn stream_socket() -> OwnedFd {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).expect("a socket")
}

/// A listener that accepts nothing, with as many connections waiting as there may be.
fn full(path: &Path) -> Vec<OwnedFd> {
    let address = SocketAddrUnix::new(path).expect("a path");
    let listener = stream_socket();
    bind(&listener, &address).expect("bound");
    listen(&listener, 1).expect("listening");
    let mut all = vec![listener];
    loop {
        let client = stream_socket();
        if let Err(error) = connect(&client, &address) {
            assert_eq!(error, rustix::io::Errno::AGAIN);
            return all;
        }
        all.push(client);
    }
}

#[test]
fn a_socket_on_which_too_many_wait_holds_nothing_up_and_is_nobodys_to_remove() {
    let mut world = World::new();
    let path = world.path("full.sock");
    let _waiting = full(&path);
    let config = world.process(
        "a",
        &["sleep", "1000"],
        &format!("ready = {{ unix = {}, timeout = \"60s\" }}", quoted(&path)),
    );
    world.start(&config);
    world.logged("started as pid");
    assert!(path.exists());
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
}

#[test]
fn the_dead_socket_of_a_gate_is_removed_before_its_process_starts() {
    let mut world = World::new();
    let path = world.path("gate.sock");
    drop(UnixListener::bind(&path).expect("bound"));
    let config = world.recorder("a", &format!("gate = [\"unix:{}\"]", path.display()));
    world.ready(&config);
    eventually("the stale socket is removed", || (!path.exists()).then_some(()));
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
}
