//! WebSocket over HTTP/1.1.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;

/// Opens a WebSocket on `path`.
///
/// # Errors
/// When no connection can be made or the upgrade is refused.
pub async fn open(address: SocketAddr, path: &str) -> Result<WebSocketStream<TcpStream>> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("cannot connect to {address}"))?;
    let (socket, _) = tokio_tungstenite::client_async(format!("ws://{address}{path}"), stream)
        .await
        .with_context(|| format!("the upgrade on {path} was refused"))?;
    Ok(socket)
}
