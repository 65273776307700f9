//! Clients that read slowly and count what they get.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    pin::Pin,
    sync::{Arc, mpsc},
    task::{Context, Poll, ready},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::CertificateDer};
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

/// Nothing takes as long.
const BOUND: Duration = Duration::from_secs(60);

/// How much a client reads at once, how long it pauses then, and how much its kernel takes meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) bytes: usize,
    pub(crate) pause: Duration,
    pub(crate) kernel: usize,
}

/// What is asked for: a body of so many bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) address: SocketAddr,
    pub(crate) length: usize,
    pub(crate) pace: Pace,
}

fn connect(asked: Asked) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // Before it connects: the window is told then.
    socket.set_recv_buffer_size(asked.pace.kernel)?;
    socket.connect(&asked.address.into())?;
    socket.set_read_timeout(Some(BOUND))?;
    Ok(socket.into())
}

/// HTTP/1.1: the bytes of the body that came before the connection was closed. `begun` hears of the head.
pub(crate) fn http1(asked: Asked, begun: &mpsc::Sender<()>) -> Result<usize> {
    exchange(connect(asked)?, asked, begun)
}

/// The same over TLS.
pub(crate) fn tls(asked: Asked, root: CertificateDer<'static>, begun: &mpsc::Sender<()>) -> Result<usize> {
    let mut roots = RootCertStore::empty();
    roots.add(root)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), "localhost".try_into()?)?;
    let stream = StreamOwned::new(connection, connect(asked)?);
    exchange(stream, asked, begun)
}

fn exchange(mut stream: impl Read + Write, asked: Asked, begun: &mpsc::Sender<()>) -> Result<usize> {
    let Asked { length, pace, .. } = asked;
    write!(stream, "GET /large/{length} HTTP/1.1\r\nHost: ebb.test\r\n\r\n")?;
    stream.flush()?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        ensure!(stream.read(&mut byte)? == 1, "closed in the head");
        head.extend(byte);
    }
    ensure!(
        head.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&head)
    );
    begun.send(())?;
    let (mut got, mut chunk) = (0, vec![0; pace.bytes]);
    while got < length {
        std::thread::sleep(pace.pause);
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => got += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Whatever ends it: what came counts.
            Err(_) => break,
        }
    }
    Ok(got)
}

/// HTTP/2, with flow control windows of this size; none = the protocol's own.
pub(crate) async fn http2(asked: Asked, windows: Option<u32>, begun: &mpsc::Sender<()>) -> Result<usize> {
    let mut builder = h2::client::Builder::new();
    if let Some(size) = windows {
        builder
            .initial_window_size(size)
            .initial_connection_window_size(size);
    }
    let (sender, connection) = builder.handshake::<_, Bytes>(Paced::new(asked)?).await?;
    let driver = tokio::spawn(connection);
    let request = http::Request::get(format!("http://ebb.test/large/{}", asked.length)).body(())?;
    let (response, _) = sender.ready().await?.send_request(request, true)?;
    let response = response.await?;
    ensure!(response.status() == 200, "{}", response.status());
    begun.send(()).context("nobody listens")?;
    let mut body = response.into_body();
    let mut got = 0;
    while let Some(Ok(data)) = body.data().await {
        got += data.len();
        // What has been read makes room, and the client says so: perhaps to a process that is gone.
        let _ = body.flow_control().release_capacity(data.len());
    }
    driver.abort();
    Ok(got)
}

/// A socket that is read at a pace.
struct Paced {
    stream: tokio::net::TcpStream,
    pace: Pace,
    pause: Pin<Box<Sleep>>,
}

impl Paced {
    fn new(asked: Asked) -> Result<Self> {
        let stream = connect(asked)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: tokio::net::TcpStream::from_std(stream)?,
            pace: asked.pace,
            pause: Box::pin(tokio::time::sleep(Duration::ZERO)),
        })
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.pause.as_mut().poll(context));
        let mut bytes = vec![0; self.pace.bytes.min(buffer.remaining())];
        let mut part = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut part))?;
        buffer.put_slice(part.filled());
        let next = Instant::now() + self.pace.pause;
        self.pause.as_mut().reset(next);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
