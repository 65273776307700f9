//! On a terminal: what is painted over in place.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::fd::OwnedFd,
    process::Stdio,
};

use ebb_proto::v1::Phase;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::{
    fake::{Fake, drain, node},
    program::{Lines, Running, command},
};

/// A terminal: the end that a program writes to, and the lines that it shows.
pub(crate) fn terminal() -> (File, Lines) {
    let user: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&user).expect("its rights");
    unlockpt(&user).expect("its lock");
    let name = ptsname(&user, Vec::new())
        .expect("its name")
        .into_string()
        .expect("a plain name");
    let program = OpenOptions::new()
        .read(true)
        .write(true)
        .open(name)
        .expect("its other end");
    (program, Lines::of("the terminal", Screen(File::from(user))))
}

/// What a terminal shows. When the last program has closed its end, the system reports an error and not an end.
struct Screen(File);

impl Read for Screen {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).or(Ok(0))
    }
}

#[test]
fn a_waited_drain_counts_down_in_place_and_leaves_only_its_result() {
    let fake = Fake::start();
    let (stderr, mut shown) = terminal();
    let mut waiting = command(&["drain", "--wait"]);
    waiting.env("EBB_ENDPOINT", fake.endpoint());
    let waiting = Running::with(waiting, Stdio::piped(), stderr);
    shown.until("3 requests in flight");
    shown.until("edge-1  ingress           3        40");
    fake.say_drain(drain(Phase::Draining, 1));
    let painted = shown.until("1 request in flight");
    assert!(
        painted.contains("\u{1b}[3A\r"),
        "three lines up first: {painted:?}"
    );
    fake.say_drain(drain(Phase::Drained, 0));
    let ended = waiting.end();
    assert_eq!(ended.code, Some(0));
    assert!(
        ended.stdout.starts_with("drain d-1 drained in 1.5s"),
        "{}",
        ended.stdout
    );
    let last = shown.all();
    assert!(
        last.ends_with("\u{1b}[3A\r\u{1b}[J"),
        "what was painted is taken away: {last:?}"
    );
}

#[test]
fn a_watch_is_a_table_that_is_kept_up_to_date() {
    let fake = Fake::start();
    let (stdout, mut shown) = terminal();
    let mut watch = command(&["watch"]);
    watch.env("EBB_ENDPOINT", fake.endpoint());
    let watch = Running::with(watch, stdout, Stdio::piped());
    shown.until("edge-1  ingress         >=3  serving");
    fake.say_nodes(vec![node("edge-1", 2)]);
    shown.until("edge-1  ingress         >=2  serving");
    watch.interrupt();
    let ended = watch.end();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}
