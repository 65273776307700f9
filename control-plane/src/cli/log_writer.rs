//! Writing the log without ever waiting for whoever reads it.
//!
//! A thread of its own writes; the lines wait in a queue with a bound. When that is full, as with a reader that has
//! stalled, lines are dropped and counted, and the log says how many as soon as it is read again: whoever logs is never
//! held up, least of all a shutdown.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait.
const QUEUE: usize = 16 * 1024;

/// How long a clean end waits for the last lines to be written. Who does not read is not waited for any longer.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// The same where the end is late already.
const FLUSH_AT_LEAST: Duration = Duration::from_millis(50);

/// A log's writer. All clones write to the same queue.
#[derive(Clone, Debug)]
pub(super) struct LogWriter(Arc<Shared>);

/// When it is dropped, the lines that were logged are written, unless nobody reads them.
#[derive(Debug)]
pub(crate) struct FlushOnDrop {
    writer: LogWriter,
    by: Option<Instant>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    /// A line has been taken out and is not yet written.
    writing: bool,
    /// Lines that were dropped since the log last said so.
    dropped: u64,
}

impl LogWriter {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn start(target: impl Write + Send + 'static) -> io::Result<(Self, FlushOnDrop)> {
        let writer = Self(Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
        }));
        let shared = Arc::clone(&writer.0);
        thread::Builder::new()
            .name("ebb-log".to_owned())
            .spawn(move || shared.write_to(target))?;
        Ok((writer.clone(), FlushOnDrop { writer, by: None }))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut queue = self.lock();
        if queue.lines.len() < QUEUE {
            queue.lines.push_back(line.to_vec());
            self.changed.notify_all();
        } else {
            queue.dropped += 1;
        }
    }

    /// Until the end of the program.
    fn write_to(&self, mut target: impl Write) {
        loop {
            let (line, dropped) = self.take();
            // With nobody left to read it, the log is thrown away.
            let _ = target.write_all(&line).and_then(|()| target.flush());
            if dropped > 0 {
                let said = format!("ebb: {dropped} lines of the log are lost: they were not read in time\n");
                let _ = target.write_all(said.as_bytes());
            }
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }

    /// The next line, and how many were dropped behind it if it is the last.
    fn take(&self) -> (Vec<u8>, u64) {
        let mut queue = self.lock();
        loop {
            if let Some(line) = queue.lines.pop_front() {
                queue.writing = true;
                let dropped = match queue.lines.is_empty() {
                    true => std::mem::take(&mut queue.dropped),
                    false => 0,
                };
                return (line, dropped);
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until everything is written, at most so long. Whether it is.
    fn flush(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        let mut queue = self.lock();
        while queue.writing || !queue.lines.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl FlushOnDrop {
    /// By when that has to be over.
    pub(crate) fn by(&mut self, until: Instant) {
        self.by = Some(until);
    }
}

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        let within = self.by.map_or(FLUSH_WITHIN, |by| {
            by.saturating_duration_since(Instant::now()).max(FLUSH_AT_LEAST)
        });
        self.writer.0.flush(within);
    }
}

/// Takes a whole line at a time, as the subscriber writes them.
impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LogWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    /// Longer than anything takes on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn everything_is_written_in_order_before_a_clean_end() {
        let (reader, pipe) = io::pipe().expect("pipe");
        let (mut writer, end) = LogWriter::start(pipe).expect("started");
        let lines = thread::spawn(move || BufReader::new(reader).lines().take(5_000).collect::<Vec<_>>());
        for number in 0..5_000 {
            writeln!(writer, "{number}").expect("never fails");
        }
        assert!(end.writer.0.flush(PATIENCE));
        let lines = lines.join().expect("read");
        let numbers = lines.into_iter().map(|line| line.expect("a line"));
        assert!(numbers.eq((0..5_000).map(|number: u32| number.to_string())));
    }

    #[test]
    fn a_reader_that_stalls_holds_nobody_up_and_hears_later_what_it_missed() {
        let (reader, pipe) = io::pipe().expect("pipe");
        let (mut writer, end) = LogWriter::start(pipe).expect("started");
        // More than the pipe and the queue together hold.
        let line = [b'x'; 99];
        for _ in 0..QUEUE + 4096 {
            writer
                .write_all(&[&line[..], b"\n"].concat())
                .expect("never fails");
        }
        assert!(!end.writer.0.flush(Duration::from_millis(1)), "nobody reads");
        let mut lines = BufReader::new(reader).lines();
        let told = lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("ebb: ")));
        let told = told.expect("told").expect("a line");
        assert!(
            told.ends_with("lines of the log are lost: they were not read in time"),
            "{told}"
        );
        assert!(end.writer.0.flush(PATIENCE));
    }
}
