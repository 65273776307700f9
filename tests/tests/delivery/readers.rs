//! Clients that read slowly and count what they get.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, mpsc},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::CertificateDer};

/// Nothing takes as long.
const BOUND: Duration = Duration::from_secs(60);

/// How much a client reads at once, and how long it pauses then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) bytes: usize,
    pub(crate) pause: Duration,
}

/// What is asked for: a body of so many bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) address: SocketAddr,
    pub(crate) length: usize,
    pub(crate) pace: Pace,
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(BOUND))?;
    Ok(stream)
}

/// HTTP/1.1: the bytes of the body that came, after which the connection was closed or complete. `begun` hears of the head.
pub(crate) fn http1(asked: Asked, begun: &mpsc::Sender<()>) -> Result<usize> {
    exchange(connect(asked.address)?, asked, begun)
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
    exchange(
        StreamOwned::new(connection, connect(asked.address)?),
        asked,
        begun,
    )
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
    let Asked {
        address,
        length,
        pace,
    } = asked;
    let stream = tokio::net::TcpStream::connect(address).await?;
    let mut builder = h2::client::Builder::new();
    if let Some(size) = windows {
        builder
            .initial_window_size(size)
            .initial_connection_window_size(size);
    }
    let (sender, connection) = builder.handshake::<_, Bytes>(stream).await?;
    let driver = tokio::spawn(connection);
    let request = http::Request::get(format!("http://ebb.test/large/{length}")).body(())?;
    let (response, _) = sender.ready().await?.send_request(request, true)?;
    let response = response.await?;
    ensure!(response.status() == 200, "{}", response.status());
    begun.send(()).context("nobody listens")?;
    let mut body = response.into_body();
    let mut got = 0;
    // A window is opened again only at the client's pace.
    while let Some(Ok(data)) = body.data().await {
        got += data.len();
        let mut left = data.len();
        while left > 0 {
            tokio::time::sleep(pace.pause).await;
            let released = left.min(pace.bytes);
            let _ = body.flow_control().release_capacity(released);
            left -= released;
        }
    }
    driver.abort();
    Ok(got)
}
