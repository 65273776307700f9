//! What children print: passed through line by line, with the name of the process before each line, or as JSON.

use std::{
    io::{self, Write},
    os::fd::OwnedFd,
    time::Duration,
};

use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::unix::pipe,
    sync::{mpsc, oneshot},
};

/// A longer line is passed on in parts, in bytes.
const LINE_MAX: usize = 64 * 1024;

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

/// Passes the output of children through.
#[derive(Debug)]
pub struct Output {
    format: OutputFormat,
    stdout: Writer,
    stderr: Writer,
}

#[derive(Debug)]
struct Writer {
    lines: mpsc::Sender<Vec<u8>>,
    done: oneshot::Receiver<()>,
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
        Ok(Self {
            format,
            stdout: Writer::new("stdout", io::stdout())?,
            stderr: Writer::new("stderr", io::stderr())?,
        })
    }

    /// Passes one pipe of a child on until its end.
    pub fn pass(&self, process: &str, stream: Stream, pipe: impl Into<OwnedFd>) {
        let lines = match stream {
            Stream::Stdout => self.stdout.lines.clone(),
            Stream::Stderr => self.stderr.lines.clone(),
        };
        let (process, format) = (process.to_owned(), self.format);
        match pipe::Receiver::from_owned_fd(pipe.into()) {
            Ok(pipe) => {
                tokio::spawn(async move {
                    // An error is the end as well.
                    let _ = pump(pipe, lines, |line| render(format, &process, stream, line)).await;
                });
            }
            Err(error) => tracing::warn!(process, %error, "cannot read its output"),
        }
    }

    /// Waits until all that was printed is written, at most this long.
    pub async fn flush(self, within: Duration) {
        let Self { stdout, stderr, .. } = self;
        drop((stdout.lines, stderr.lines));
        let both = async { tokio::join!(stdout.done, stderr.done) };
        // Who keeps the pipe open, or does not read ours, is not waited for any longer.
        let _ = tokio::time::timeout(within, both).await;
    }
}

impl Writer {
    /// A thread of its own: writing to a pipe that nobody reads may block for ever.
    fn new(name: &str, mut target: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, mut queue) = mpsc::channel::<Vec<u8>>(QUEUE);
        let (finished, done) = oneshot::channel();
        std::thread::Builder::new()
            .name(format!("ebb-{name}"))
            .spawn(move || {
                while let Some(line) = queue.blocking_recv() {
                    // With nobody left to read it, output is thrown away: the processes go on.
                    let _ = target.write_all(&line).and_then(|()| target.flush());
                }
                let _ = finished.send(());
            })?;
        Ok(Self { lines, done })
    }
}

async fn pump(
    pipe: pipe::Receiver,
    lines: mpsc::Sender<Vec<u8>>,
    render: impl Fn(&[u8]) -> Vec<u8>,
) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(LINE_MAX, pipe);
    let mut line = Vec::new();
    loop {
        let chunk = reader.fill_buf().await?;
        let room = LINE_MAX - line.len();
        let (taken, complete) = match chunk.iter().take(room).position(|byte| *byte == b'\n') {
            Some(end) => (end + 1, true),
            None => (chunk.len().min(room), chunk.len() >= room),
        };
        let ended = taken == 0;
        line.extend(chunk.iter().take(taken));
        reader.consume(taken);
        if (complete || ended) && !line.is_empty() {
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            if lines.send(render(text)).await.is_err() {
                return Ok(());
            }
            line.clear();
        }
        if ended {
            return Ok(());
        }
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
    use std::io::Write as _;

    use super::*;

    async fn pumped(written: Vec<u8>) -> Vec<Vec<u8>> {
        let (reader, mut writer) = io::pipe().expect("pipe");
        let (lines, mut queue) = mpsc::channel(QUEUE);
        let feed = std::thread::spawn(move || writer.write_all(&written));
        let pipe = pipe::Receiver::from_owned_fd(reader.into()).expect("receiver");
        pump(pipe, lines, <[u8]>::to_vec).await.expect("pumped");
        feed.join().expect("joined").expect("written");
        let mut all = Vec::new();
        while let Some(line) = queue.recv().await {
            all.push(line);
        }
        all
    }

    #[tokio::test]
    async fn lines_are_whole_and_the_last_needs_no_end() {
        let all = pumped(b"one\n\ntwo\nthree".to_vec()).await;
        assert_eq!(
            all,
            [b"one".to_vec(), b"".to_vec(), b"two".to_vec(), b"three".to_vec()]
        );
    }

    #[tokio::test]
    async fn an_endless_line_comes_in_parts_and_in_bounded_memory() {
        let all = pumped(vec![b'x'; 3 * LINE_MAX + 5]).await;
        assert_eq!(
            all.iter().map(Vec::len).collect::<Vec<_>>(),
            [LINE_MAX, LINE_MAX, LINE_MAX, 5]
        );
    }

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
}
