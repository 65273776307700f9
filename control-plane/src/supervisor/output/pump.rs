//! One pipe of a child, line by line.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::unix::pipe,
    sync::{mpsc, watch},
    time::timeout,
};

use super::Ledger;

/// A longer line is passed on in parts, in bytes.
const LINE_MAX: usize = 64 * 1024;

/// A pipe in which nothing is found within this time is empty.
const EMPTY: Duration = Duration::from_millis(20);

/// The most that is counted of what nobody will read, in bytes.
const COUNT_MAX: usize = 4 * 1024 * 1024;

/// What a pipe is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// Until nobody can write to it any more.
    TheEnd,
    /// Whoever writes to it is no process of Ebb's: until it is empty.
    ItIsEmpty,
    /// Nobody will read the lines: they are counted, until it is empty.
    Counted,
}

/// Passes on what is in a pipe.
pub(super) struct Pump {
    pub(super) lines: mpsc::Sender<Vec<u8>>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) until: watch::Receiver<Until>,
}

impl Pump {
    /// Passes it on, each line as `render` makes it.
    ///
    /// # Errors
    /// The pipe cannot be read.
    pub(super) async fn run(
        mut self,
        pipe: pipe::Receiver,
        render: impl Fn(&[u8]) -> Vec<u8>,
    ) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(LINE_MAX, pipe);
        let mut line = Vec::new();
        let mut counted = 0;
        loop {
            let chunk = match self.chunk(&mut reader).await {
                Some(chunk) => chunk?,
                None => &[],
            };
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
                self.ledger.read.fetch_add(1, Ordering::Relaxed);
                if !self.pass(render(text)).await {
                    counted += taken;
                }
                line.clear();
            }
            if ended || counted > COUNT_MAX {
                return Ok(());
            }
        }
    }

    /// What is to be read next, nothing at its end; `None` = it is empty, and that is enough.
    async fn chunk<'r>(&mut self, reader: &'r mut BufReader<pipe::Receiver>) -> Option<io::Result<&'r [u8]>> {
        loop {
            if *self.until.borrow_and_update() != Until::TheEnd {
                // The time passes only after whatever is in the pipe has been noticed.
                return timeout(EMPTY, reader.fill_buf()).await.ok();
            }
            tokio::select! {
                biased;
                filled = reader.fill_buf() => match filled {
                    // Asked once more: the answer is there, and cannot be carried out of here.
                    Ok(_) => return Some(reader.fill_buf().await),
                    Err(error) => return Some(Err(error)),
                },
                // Without the other end nobody wants anything else.
                changed = self.until.changed() => if changed.is_err() {
                    return None;
                },
            }
        }
    }

    /// Whether somebody will read a line; otherwise it is only counted.
    async fn pass(&mut self, line: Vec<u8>) -> bool {
        let counted = async {
            if self
                .until
                .wait_for(|until| *until == Until::Counted)
                .await
                .is_err()
            {
                std::future::pending().await
            }
        };
        tokio::select! {
            biased;
            () = counted => false,
            sent = self.lines.send(line) => sent.is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    async fn pumped(written: Vec<u8>) -> Vec<Vec<u8>> {
        let (reader, mut writer) = io::pipe().expect("pipe");
        let (lines, mut queue) = mpsc::channel(1024);
        let feed = std::thread::spawn(move || writer.write_all(&written));
        let pipe = pipe::Receiver::from_owned_fd(reader.into()).expect("receiver");
        let until = watch::Sender::new(Until::TheEnd);
        let ledger = Arc::<Ledger>::default();
        let pump = Pump {
            lines,
            ledger: ledger.clone(),
            until: until.subscribe(),
        };
        pump.run(pipe, <[u8]>::to_vec).await.expect("pumped");
        feed.join().expect("joined").expect("written");
        let mut all = Vec::new();
        while let Some(line) = queue.recv().await {
            all.push(line);
        }
        assert_eq!(ledger.read.load(Ordering::Relaxed), all.len() as u64);
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
}
