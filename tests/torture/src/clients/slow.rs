//! A socket that is read slowly.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

/// Reads some bytes at most, pauses, and reads again.
#[derive(Debug)]
pub(super) struct Slow<S> {
    stream: S,
    part: Vec<u8>,
    pause: Duration,
    until: Pin<Box<Sleep>>,
}

impl<S> Slow<S> {
    pub(super) fn new(stream: S, bytes: usize, pause: Duration) -> Self {
        Self {
            stream,
            part: vec![0; bytes],
            pause,
            until: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Slow<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.until.as_mut().poll(cx));
        let length = this.part.len().min(buf.remaining());
        let mut part = ReadBuf::new(this.part.get_mut(..length).unwrap_or_default());
        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
        buf.put_slice(part.filled());
        this.until.as_mut().reset(Instant::now() + this.pause);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Slow<S> {
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
