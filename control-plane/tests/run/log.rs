//! Ebb's own log.

use std::io::Write as _;

use nix::sys::signal::Signal;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::world::World;

#[test]
fn a_log_that_nobody_reads_holds_nothing_up() {
    let mut world = World::new();
    let config = world.recorder("a", "");
    let (_nobody_reads, mut writer) = std::io::pipe().expect("pipe");
    // Full before the first line.
    let flags = fcntl_getfl(&writer).expect("flags");
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).expect("set");
    while writer.write(&[b'x'; 4096]).is_ok() {}
    while writer.write(b"x").is_ok() {}
    fcntl_setfl(&writer, flags).expect("set");
    let mut command = world.command(&config, &[]);
    command.stderr(writer);
    world.start_command(&mut command);
    drop(command);
    world.until_ready();
    world.noted("a start");
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
    assert_eq!(world.journal(), ["a start", "a term", "a exit"]);
}

#[test]
fn the_end_of_the_log_is_written_before_the_end() {
    let mut world = World::new();
    let config = world.recorder("a", "");
    world.ready(&config);
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
    let log = world.read("err");
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("a: +"), "the report is last: {log}");
}
