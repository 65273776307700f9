//! Clients that hide nothing: no retry, no silent reconnect, every byte of the head and every way to fail is visible.

pub mod frames;
pub mod http1;
pub mod http2;
pub mod http3;
pub mod raw;
pub mod websocket;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

/// A complete response.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its status.
    pub status: StatusCode,
    /// Its headers as they were on the wire, hop-by-hop ones included.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Response {
    /// A header's value; none when it is absent or no text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Whether `Connection: close` was on the wire.
    #[must_use]
    pub fn says_close(&self) -> bool {
        let values = self.headers.get_all(http::header::CONNECTION);
        values
            .iter()
            .any(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
    }
}

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Failure {
    /// No connection could be made.
    Connect,
    /// The connection was closed, reset or refused the stream before the first byte of the response.
    NoResponse,
    /// A GOAWAY named an earlier stream as the last that the server has looked at, so this one may be sent anew.
    Unprocessed,
    /// The response ended before it was complete.
    Truncated,
    /// What came is not HTTP.
    Malformed,
    /// Nothing complete came in time.
    TimedOut,
    /// A status of 500 or above.
    ServerError,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connect => "no connection",
            Self::NoResponse => "closed without a response",
            Self::Unprocessed => "left unprocessed by GOAWAY",
            Self::Truncated => "response cut short",
            Self::Malformed => "malformed response",
            Self::TimedOut => "timed out",
            Self::ServerError => "server error",
        })
    }
}

impl std::error::Error for Failure {}
