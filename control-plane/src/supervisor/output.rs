//! What children print: passed through line by line, with the name of the process before each line, or as JSON.

mod pump;

use std::{
    io::{self, Write},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::{
    net::unix::pipe,
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

use self::pump::{Pump, Until};

/// Lines that may wait for a slow reader; beyond it the children wait, as they would without Ebb.
const QUEUE: usize = 1024;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// `name | line`.
    Text,
    /// `{"process": "name", "stream": "stdout", "line": "line"}`.
    Json,
}

/// Which output of a child, and which of Ebb's own it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// From here on whoever looks at the log should know why it is not over yet.
const SAY_AFTER: Duration = Duration::from_secs(1);

/// Who has read nothing for this long has stalled, and is not waited for any longer.
const STALLED: Duration = Duration::from_secs(5);

/// So much is written at once, in bytes, that it shows whether somebody still reads.
const CHUNK: usize = 4096;

/// How long lines that nobody will read may take to be counted.
const COUNT_WITHIN: Duration = Duration::from_millis(100);

/// Passes the output of children through.
#[derive(Debug)]
pub struct Output {
    format: OutputFormat,
    stdout: Writer,
    stderr: Writer,
    /// What the pipes of children are read for.
    until: watch::Sender<Until>,
}

#[derive(Debug)]
struct Writer {
    name: &'static str,
    lines: mpsc::Sender<Vec<u8>>,
    ledger: Arc<Ledger>,
    done: oneshot::Receiver<()>,
}

/// What has become of the lines for one of Ebb's own outputs.
#[derive(Debug, Default)]
struct Ledger {
    /// Read from a child.
    read: AtomicU64,
    /// Written as a whole.
    written: AtomicU64,
    /// Bytes that were written.
    bytes: AtomicU64,
}

#[derive(Serialize)]
struct Line<'l> {
    process: &'l str,
    stream: Stream,
    line: &'l str,
}

impl Output {
    /// To this process's standard output and error.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn new(format: OutputFormat) -> io::Result<Self> {
        Self::to(format, io::stdout(), io::stderr())
    }

    fn to(
        format: OutputFormat,
        stdout: impl Write + Send + 'static,
        stderr: impl Write + Send + 'static,
    ) -> io::Result<Self> {
        Ok(Self {
            format,
            stdout: Writer::new("stdout", stdout)?,
            stderr: Writer::new("stderr", stderr)?,
            until: watch::Sender::new(Until::TheEnd),
        })
    }

    /// Passes one pipe of a child on until its end.
    pub fn pass(&self, process: &str, stream: Stream, pipe: impl Into<OwnedFd>) {
        let writer = match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        };
        let pump = Pump {
            lines: writer.lines.clone(),
            ledger: writer.ledger.clone(),
            until: self.until.subscribe(),
        };
        let (process, format) = (process.to_owned(), self.format);
        match pipe::Receiver::from_owned_fd(pipe.into()) {
            Ok(pipe) => {
                tokio::spawn(async move {
                    // An error is the end as well.
                    let _ = pump
                        .run(pipe, |line| render(format, &process, stream, line))
                        .await;
                });
            }
            Err(error) => tracing::warn!(process, %error, "cannot read its output"),
        }
    }

    /// Writes what children that are gone have printed: until that is done, at most until `deadline`, and not after `unwanted`,
    /// nor for a reader that has stalled. What is dropped is counted in a warning.
    pub async fn finish(self, deadline: std::time::Instant, unwanted: impl Future<Output = ()>) {
        let Self {
            mut stdout,
            mut stderr,
            until,
            ..
        } = self;
        // Who keeps a pipe open and prints nothing is not waited for.
        until.send_replace(Until::ItIsEmpty);
        let ledgers = [stdout.ledger.clone(), stderr.ledger.clone()];
        let writers = [&mut stdout, &mut stderr];
        let mut done = Vec::new();
        for writer in writers {
            // The pumps have their own.
            writer.lines = mpsc::channel(1).0;
            done.push(&mut writer.done);
        }
        let written = async {
            for done in done {
                // An error is the end of the thread, too.
                let _ = done.await;
            }
        };
        let say = async {
            sleep(SAY_AFTER).await;
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            tracing::info!("waiting at most {left:.1?} for what processes printed to be read");
            std::future::pending::<()>().await;
        };
        let stalled = async {
            let written = || -> u64 {
                ledgers
                    .iter()
                    .map(|ledger| ledger.bytes.load(Ordering::Relaxed))
                    .sum()
            };
            let mut before = written();
            loop {
                sleep(STALLED).await;
                let now = written();
                if std::mem::replace(&mut before, now) == now {
                    return;
                }
            }
        };
        let complete = tokio::select! {
            done = timeout_at(Instant::from_std(deadline), written) => done.is_ok(),
            () = unwanted => false,
            () = stalled => false,
            () = say => false,
        };
        if !complete {
            until.send_replace(Until::Counted);
            // Whoever still reads a pipe has a receiver.
            let _ = timeout(COUNT_WITHIN, until.closed()).await;
        }
        for writer in [&stdout, &stderr] {
            let dropped = writer.ledger.dropped();
            if dropped > 0 {
                tracing::warn!(
                    "{dropped} lines that processes printed are lost: nobody read {} in time",
                    writer.name
                );
            }
        }
    }
}

impl Ledger {
    fn dropped(&self) -> u64 {
        let written = self.written.load(Ordering::Relaxed);
        self.read.load(Ordering::Relaxed).saturating_sub(written)
    }
}

impl Writer {
    /// A thread of its own: writing to a pipe that nobody reads may block for ever.
    fn new(name: &'static str, mut target: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, mut queue) = mpsc::channel::<Vec<u8>>(QUEUE);
        let (finished, done) = oneshot::channel();
        let ledger = Arc::new(Ledger::default());
        let account = ledger.clone();
        std::thread::Builder::new()
            .name(format!("ebb-{name}"))
            .spawn(move || {
                while let Some(line) = queue.blocking_recv() {
                    // With nobody left to read it, output is thrown away: the processes go on.
                    let written = line.chunks(CHUNK).try_for_each(|chunk| {
                        target.write_all(chunk).and_then(|()| target.flush())?;
                        account.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                        io::Result::Ok(())
                    });
                    if written.is_ok() {
                        account.written.fetch_add(1, Ordering::Relaxed);
                    }
                }
                let _ = finished.send(());
            })?;
        Ok(Self {
            name,
            lines,
            ledger,
            done,
        })
    }
}

fn render(format: OutputFormat, process: &str, stream: Stream, line: &[u8]) -> Vec<u8> {
    let mut rendered = Vec::with_capacity(process.len() + line.len() + 4);
    match format {
        OutputFormat::Text => {
            rendered.extend_from_slice(process.as_bytes());
            rendered.extend_from_slice(b" | ");
            rendered.extend_from_slice(line);
        }
        OutputFormat::Json => {
            let line = String::from_utf8_lossy(line);
            let object = Line {
                process,
                stream,
                line: &line,
            };
            rendered = serde_json::to_vec(&object).unwrap_or_default();
        }
    }
    rendered.push(b'\n');
    rendered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_process() {
        let text = render(OutputFormat::Text, "router", Stream::Stdout, b"hello");
        assert_eq!(text, b"router | hello\n");
        let json = render(OutputFormat::Json, "router", Stream::Stderr, b"say \"\xff\"");
        let json = String::from_utf8(json).expect("UTF-8");
        assert_eq!(
            json,
            "{\"process\":\"router\",\"stream\":\"stderr\",\"line\":\"say \\\"\u{fffd}\\\"\"}\n"
        );
    }

    /// Passes on what was written to a pipe that stays open, to a reader of which `reads` bytes are left, and returns how many
    /// lines are lost.
    async fn lost(lines: usize, reads: usize) -> u64 {
        struct Reader(usize);
        impl Write for Reader {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                while self.0 < bytes.len() {
                    std::thread::park();
                }
                self.0 -= bytes.len();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let output = Output::to(OutputFormat::Text, Reader(reads), io::sink()).expect("threads");
        let ledger = output.stdout.ledger.clone();
        let (reader, mut writer) = io::pipe().expect("pipe");
        writer
            .write_all("12345\n".repeat(lines).as_bytes())
            .expect("written");
        output.pass("p", Stream::Stdout, reader);
        let deadline = std::time::Instant::now() + Duration::from_millis(500);
        output.finish(deadline, std::future::pending()).await;
        drop(writer);
        ledger.dropped()
    }

    #[tokio::test]
    async fn what_is_read_late_is_written_and_what_is_not_read_is_counted() {
        // Of a pipe that somebody keeps open nobody waits for the end.
        assert_eq!(lost(10_000, usize::MAX).await, 0);
        // `p | 12345` and its end.
        assert_eq!(lost(5_000, 10 * 1_500).await, 3_500);
        assert_eq!(lost(10, 0).await, 10);
    }
}
