//! A small HTTP client: one request on one connection, bounded in time and size.

use std::{io, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::address::Address;

/// The largest answer that is read, in bytes: `/clusters` of thousands of hosts.
const ANSWER_MAX: usize = 32 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nobody accepts connections there.
    #[error("cannot connect to {0}: {1}")]
    Connect(Address, io::Error),
    /// It did not answer in time.
    #[error("{address} did not answer within {}", humantime::format_duration(*within))]
    Timeout {
        /// Who.
        address: Address,
        /// The bound.
        within: Duration,
    },
    /// What it answered is not HTTP, or broke off.
    #[error("{0} broke off: {1}")]
    Broken(Address, String),
}

/// Sends a request without a body, and reads all of the answer within the time.
///
/// # Errors
/// [`HttpError`]. A status is not an error.
pub async fn request(
    method: Method,
    address: &Address,
    path: &str,
    within: Duration,
) -> Result<(StatusCode, Bytes), HttpError> {
    let exchange = async {
        match address {
            Address::Unix(socket) => exchange(UnixStream::connect(socket).await, method, address, path).await,
            Address::Tcp { host, port } => {
                exchange(
                    TcpStream::connect((host.as_str(), *port)).await,
                    method,
                    address,
                    path,
                )
                .await
            }
        }
    };
    let late = |_| HttpError::Timeout {
        address: address.clone(),
        within,
    };
    timeout(within, exchange).await.map_err(late)?
}

async fn exchange<S>(
    stream: io::Result<S>,
    method: Method,
    address: &Address,
    path: &str,
) -> Result<(StatusCode, Bytes), HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: &dyn std::fmt::Display| HttpError::Broken(address.clone(), error.to_string());
    let stream = stream.map_err(|error| HttpError::Connect(address.clone(), error))?;
    let host = match address {
        Address::Unix(_) => "localhost".to_owned(),
        Address::Tcp { .. } => address.to_string(),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", host)
        .header("connection", "close")
        .header("content-length", "0")
        .body(Empty::<Bytes>::new())
        .map_err(|error| broken(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    let answer = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| broken(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        Ok((status, body.map_err(|error| broken(&error))?.to_bytes()))
    };
    // The connection is driven here and not in a task: dropping this future must leave nothing behind.
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => match ended {
            // The answer may be complete, and only not read yet.
            Ok(()) => answer.await,
            Err(error) => Err(broken(&error)),
        },
    }
}
