//! The `ebb` program as a child process that cannot outlive its test.

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// `ebb` with these arguments, away from the environment of whoever runs the tests.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ebb"));
    command.args(arguments).stdin(Stdio::null());
    for name in ["EBB_ENDPOINT", "EBB_LOG", "NO_COLOR"] {
        command.env_remove(name);
    }
    command
}

/// What a program left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `ebb` to its end.
pub(crate) fn run(arguments: &[&str]) -> Ended {
    Running::new(command(arguments)).end()
}

/// Runs `ebb` to its end, talking to `endpoint`.
pub(crate) fn run_at(endpoint: &str, arguments: &[&str]) -> Ended {
    start_at(endpoint, arguments).end()
}

/// Starts `ebb`, talking to `endpoint`.
pub(crate) fn start_at(endpoint: &str, arguments: &[&str]) -> Running {
    let mut command = command(arguments);
    command.env("EBB_ENDPOINT", endpoint);
    Running::new(command)
}

/// A running program.
pub(crate) struct Running {
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

impl Running {
    pub(crate) fn new(command: Command) -> Self {
        Self::with(command, Stdio::piped(), Stdio::piped())
    }

    pub(crate) fn with(mut command: Command, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Self {
        let mut child = command.stdout(stdout).stderr(stderr).spawn().expect("ebb starts");
        let stdout = child
            .stdout
            .take()
            .map_or(Lines::none(), |pipe| Lines::of("standard output", pipe));
        let stderr = child
            .stderr
            .take()
            .map_or(Lines::none(), |pipe| Lines::of("standard error", pipe));
        Self {
            child,
            stdout,
            stderr,
        }
    }

    /// Waits for a line on standard output that contains `part`.
    pub(crate) fn stdout_says(&mut self, part: &str) -> String {
        self.stdout.until(part)
    }

    /// Waits for a line on standard error that contains `part`.
    pub(crate) fn stderr_says(&mut self, part: &str) -> String {
        self.stderr.until(part)
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub(crate) fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is there");
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let stdout = self.stdout.all();
        let stderr = self.stderr.all();
        // Both pipes are closed: it is ending.
        let code = self.child.wait().expect("ebb ends").code();
        Ended { code, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a pipe, read by a thread so that every wait has a bound.
pub(crate) struct Lines {
    name: &'static str,
    seen: Vec<String>,
    receiver: Receiver<String>,
}

impl Lines {
    /// Those of something that the test does not read.
    fn none() -> Self {
        Self::of("nothing", std::io::empty())
    }

    pub(crate) fn of(name: &'static str, pipe: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = channel();
        thread::spawn(move || {
            BufReader::new(pipe)
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Self {
            name,
            seen: Vec::new(),
            receiver,
        }
    }

    pub(crate) fn until(&mut self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) = self
            .receiver
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            self.seen.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
        panic!(
            "waited for `{part}` on {}; it said:\n{}",
            self.name,
            self.seen.join("\n")
        );
    }

    pub(crate) fn all(&mut self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self
                .receiver
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => return self.seen.join("\n"),
                Err(RecvTimeoutError::Timeout) => {
                    panic!(
                        "waited for the end of {}; it said:\n{}",
                        self.name,
                        self.seen.join("\n")
                    )
                }
            }
        }
    }
}
