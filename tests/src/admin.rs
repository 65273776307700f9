//! Envoy's admin endpoint on a Unix socket.

use std::{collections::HashMap, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::wait;

const BOUND: Duration = Duration::from_secs(10);

/// Requests `path`.
///
/// # Errors
/// When there is no answer in time.
pub async fn request(socket: &Path, method: Method, path: &str) -> Result<(StatusCode, String)> {
    let asking = async {
        let stream = UnixStream::connect(socket)
            .await
            .with_context(|| format!("cannot connect to Envoy's admin endpoint {}", socket.display()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "admin")
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        driver.abort();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    wait::within(format!("Envoy's admin endpoint answers {path}"), BOUND, asking).await?
}

/// The listeners' addresses by name, as `/listeners?format=json` shows them.
///
/// # Errors
/// When it is something else.
pub fn listeners(text: &str) -> Result<HashMap<String, SocketAddr>> {
    let value: Value = serde_json::from_str(text).context("/listeners is no JSON")?;
    let statuses = value
        .get("listener_statuses")
        .and_then(Value::as_array)
        .context("Envoy has no listener")?;
    let mut listeners = HashMap::new();
    for status in statuses {
        let name = status
            .get("name")
            .and_then(Value::as_str)
            .context("a listener has no name")?;
        let socket = status
            .pointer("/local_address/socket_address")
            .context("a listener has no address")?;
        let ip = socket
            .get("address")
            .and_then(Value::as_str)
            .context("a listener has no IP address")?;
        let port = socket
            .get("port_value")
            .and_then(Value::as_u64)
            .context("a listener has no port")?;
        listeners.insert(
            name.to_owned(),
            SocketAddr::new(ip.parse()?, u16::try_from(port)?),
        );
    }
    Ok(listeners)
}
