//! The last lines of processes, where whoever reads `ebb run` is slow, or does not read at all.

use std::{
    io::{PipeReader, Read},
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::world::World;

const LINES: usize = 3000;

/// A gateway of one process that has printed [`LINES`] lines and told so, and what `ebb run` prints.
fn printed(world: &mut World, grace: &str) -> PipeReader {
    let talker = format!(
        "seq -f 'line %g of some length, to be read by somebody slow' {LINES}; echo \"$NAME printed\" >> \"$JOURNAL\"; \
         exec sleep 1000"
    );
    let config = format!(
        "[shutdown]\ngrace_period = \"{grace}\"\n{}",
        world.process("talker", &["sh", "-c", &talker], "")
    );
    let (reader, writer) = std::io::pipe().expect("pipe");
    let mut command = world.command(&config, &[]);
    command.stdout(writer);
    world.start_command(&mut command);
    world.noted("talker printed");
    reader
}

fn lines(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}

#[test]
fn a_slow_reader_gets_every_line_while_there_is_grace_left() {
    let mut world = World::new();
    let mut reader = printed(&mut world, "60s");
    world.signal(Signal::SIGTERM);
    world.logged("all stopped");
    // 100 kB a second: more than the end of a run takes otherwise.
    let reading = std::thread::spawn(move || {
        let (mut text, mut chunk) = (Vec::new(), [0; 5_000]);
        loop {
            match reader.read(&mut chunk).expect("read") {
                0 => return text,
                read => text.extend(&chunk[..read]),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    assert_eq!(world.ends(), 0);
    let text = reading.join().expect("joined");
    assert_eq!(lines(&text), LINES);
    assert!(text.ends_with(b"talker | line 3000 of some length, to be read by somebody slow\n"));
    let log = world.read("err");
    assert!(!log.contains("are lost"), "{log}");
}

#[test]
fn what_nobody_reads_is_counted_when_the_grace_is_over() {
    let mut world = World::new();
    let reader = printed(&mut world, "3s");
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
    lost(&world, reader);
}

#[test]
fn a_reader_that_has_stalled_is_not_waited_for_however_much_grace_is_left() {
    let mut world = World::new();
    let reader = printed(&mut world, "10m");
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
    lost(&world, reader);
}

#[test]
fn another_signal_ends_the_wait_for_a_reader() {
    let mut world = World::new();
    let reader = printed(&mut world, "10m");
    world.signal(Signal::SIGTERM);
    world.logged("for what processes printed to be read");
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ends(), 0);
    lost(&world, reader);
}

/// That what is never read is counted in a warning.
fn lost(world: &World, mut reader: impl Read) {
    let mut text = Vec::new();
    reader.read_to_end(&mut text).expect("read");
    let (read, log) = (lines(&text), world.read("err"));
    let warning = format!(" {} lines that processes printed are lost", LINES - read);
    assert!(read < LINES && log.contains(&warning), "{read} were read: {log}");
}
