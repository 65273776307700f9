//! Bytes out, bytes in: for requests that no HTTP client would send.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Sends `request` as it is, closes the sending half, and returns all that comes back until the server closes or
/// `bound` has passed.
///
/// # Errors
/// When no connection can be made or the request cannot be written.
pub async fn exchange(address: SocketAddr, request: &[u8], bound: Duration) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("cannot connect to {address}"))?;
    stream
        .write_all(request)
        .await
        .context("cannot write the request")?;
    let mut answer = Vec::new();
    // A reset or the bound ends the answer as a close does: the caller looks at what came.
    let _ = tokio::time::timeout(bound, stream.read_to_end(&mut answer)).await;
    Ok(answer)
}

/// Sends `request`, waits for `delay`, and resets the connection without reading.
///
/// # Errors
/// As [`exchange`].
pub async fn send_and_reset(address: SocketAddr, request: &[u8], delay: Duration) -> Result<()> {
    let mut stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("cannot connect to {address}"))?;
    stream
        .write_all(request)
        .await
        .context("cannot write the request")?;
    tokio::time::sleep(delay).await;
    stream.set_zero_linger().context("cannot prepare the reset")?;
    Ok(())
}
