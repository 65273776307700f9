//! The thread from which every process is started.
//!
//! A process may ask the system to be signalled when its parent dies (`PR_SET_PDEATHSIG`): Envoy does, with SIGTERM,
//! unless it runs with `--disable-hot-restart`. Linux takes the parent for the *thread* that started the process, so one
//! that was started from a thread of a pool would be stopped when the pool lets that thread go.

use std::{
    io,
    process::{Child, Command},
    sync::mpsc,
    thread,
};

/// Starts processes, from one thread that lives until the last clone of this is dropped.
#[derive(Clone, Debug)]
pub(super) struct Spawner(mpsc::Sender<Order>);

type Order = (Command, mpsc::Sender<io::Result<Child>>);

impl Spawner {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system refuses it.
    pub(super) fn new() -> io::Result<Self> {
        let (orders, queue) = mpsc::channel::<Order>();
        thread::Builder::new()
            .name("ebb-spawn".to_owned())
            .spawn(move || {
                for (mut command, reply) in queue {
                    // Who ordered it waits for it.
                    let _ = reply.send(command.spawn());
                }
            })?;
        Ok(Self(orders))
    }

    /// Starts a process; takes as long as the system does.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn spawn(&self, command: Command) -> io::Result<Child> {
        let (reply, answer) = mpsc::channel();
        let gone = || io::Error::other("the thread that starts processes has ended");
        self.0.send((command, reply)).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        process::Stdio,
    };

    use super::*;

    #[test]
    fn a_process_that_wants_to_die_with_its_parent_outlives_the_thread_that_asked_for_it() {
        let spawner = Spawner::new().expect("a thread");
        let orders = spawner.clone();
        let asking = thread::spawn(move || {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "TERM", "sh", "-c", "echo ready; read line; exit 7"]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = orders.spawn(command).expect("setpriv of util-linux");
            let mut ready = [0; 6];
            let mut stdout = child.stdout.take().expect("piped");
            stdout
                .read_exact(&mut ready)
                .expect("it has asked for the signal");
            child
        });
        let mut child = asking.join().expect("asked");
        // Were it told to end by the end of that thread, it would not get to read this.
        let written = child.stdin.take().expect("piped").write_all(b"go on\n");
        let status = child.wait().expect("ended");
        assert!(
            written.is_ok() && status.code() == Some(7),
            "{written:?}, {status}"
        );
    }

    #[test]
    fn what_cannot_be_started_is_an_error_and_the_next_is_started() {
        let spawner = Spawner::new().expect("a thread");
        let error = spawner
            .spawn(Command::new("/nowhere"))
            .expect_err("no such program");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let mut child = spawner.spawn(Command::new("true")).expect("started");
        assert!(child.wait().expect("ended").success());
    }
}
