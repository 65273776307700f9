//! A tap on a connection that shows the HTTP/2 GOAWAY frames in what is read: clients keep them to themselves.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const HEAD: usize = 9;
const GOAWAY: u8 = 7;

/// A GOAWAY frame as it was on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goaway {
    /// The highest stream that the server will still answer.
    pub last_stream: u32,
    /// The error code; 0 = NO_ERROR.
    pub code: u32,
}

/// What a [`Tap`] has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<Mutex<Vec<Goaway>>>);

impl Seen {
    /// The GOAWAY frames, oldest first.
    #[must_use]
    pub fn goaways(&self) -> Vec<Goaway> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn push(&self, goaway: Goaway) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(goaway);
    }
}

/// A stream that passes everything on and looks at the frames that are read.
#[derive(Debug)]
pub struct Tap<S> {
    stream: S,
    seen: Seen,
    parser: Parser,
}

impl<S> Tap<S> {
    /// Wraps `stream`, whose reading half carries HTTP/2 frames from its first byte.
    pub fn new(stream: S) -> (Self, Seen) {
        let seen = Seen::default();
        (
            Self {
                stream,
                seen: seen.clone(),
                parser: Parser::default(),
            },
            seen,
        )
    }
}

/// Collects the head of each frame and the payload of GOAWAY frames; skips all other payload.
#[derive(Debug, Default)]
struct Parser {
    wanted: Vec<u8>,
    to_skip: usize,
}

impl Parser {
    fn feed(&mut self, mut bytes: &[u8], seen: &Seen) {
        while !bytes.is_empty() {
            let skipped = self.to_skip.min(bytes.len());
            self.to_skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let Some((&byte, rest)) = bytes.split_first() else {
                return;
            };
            bytes = rest;
            self.wanted.push(byte);
            self.step(seen);
        }
    }

    /// Looks at the frame once enough of it is there.
    fn step(&mut self, seen: &Seen) {
        let &[a, b, c, kind, _, _, _, _, _, ref payload @ ..] = self.wanted.as_slice() else {
            return;
        };
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if kind != GOAWAY || length < 8 {
            self.to_skip = length;
            self.wanted.clear();
            return;
        }
        let &[s0, s1, s2, s3, c0, c1, c2, c3] = payload else {
            return;
        };
        let last_stream = u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff;
        seen.push(Goaway {
            last_stream,
            code: u32::from_be_bytes([c0, c1, c2, c3]),
        });
        self.to_skip = (HEAD + length).saturating_sub(self.wanted.len());
        self.wanted.clear();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        this.parser
            .feed(buf.filled().get(before..).unwrap_or_default(), &this.seen);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn finds_goaways_between_other_frames_however_the_bytes_are_cut() {
        let goaway = [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 2, b'd', b'b'];
        let bytes = [
            frame(4, &[]),
            frame(0, &[7; 300]),
            frame(7, &goaway),
            frame(6, &[7; 8]),
            frame(7, &[0; 8]),
        ]
        .concat();
        for size in 1..=bytes.len() {
            let (mut parser, seen) = (Parser::default(), Seen::default());
            for part in bytes.chunks(size) {
                parser.feed(part, &seen);
            }
            let expected = [
                Goaway {
                    last_stream: 0x7fff_ffff,
                    code: 2,
                },
                Goaway {
                    last_stream: 0,
                    code: 0,
                },
            ];
            assert_eq!(seen.goaways(), expected, "cut every {size} bytes");
        }
    }
}
