//! Bytes out, bytes in: for requests that no HTTP client would send.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use bytes::BytesMut;
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

/// Sends `request` as it is and reads until `wanted` has come; what was read goes with the socket, which stays open.
///
/// # Errors
/// When no connection can be made, or it ends or `bound` passes before `wanted` has come.
pub async fn until(
    address: SocketAddr,
    request: &[u8],
    wanted: &str,
    bound: Duration,
) -> Result<(TcpStream, BytesMut)> {
    let reading = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request).await?;
        let mut read = BytesMut::new();
        while !String::from_utf8_lossy(&read).contains(wanted) {
            anyhow::ensure!(
                stream.read_buf(&mut read).await? > 0,
                "the connection ended with {read:?}"
            );
        }
        Ok((stream, read))
    };
    let what = format!("`{wanted}` comes from {address}");
    crate::wait::within(&what, bound, reading).await?.context(what)
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
