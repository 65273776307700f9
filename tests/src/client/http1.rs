//! HTTP/1.1 over one connection that the caller owns.

use std::{net::SocketAddr, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{Failure, Response};

/// The bound of one request unless the caller says otherwise.
pub const REQUEST_BOUND: Duration = Duration::from_secs(20);

const MAX_HEADERS: usize = 64;

/// A connection. It sends what it is told and reads one response at a time.
#[derive(Debug)]
pub struct Connection<S = TcpStream> {
    stream: S,
    buffer: BytesMut,
    requests: u64,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// [`Failure::Connect`].
    pub async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let connecting = tokio::time::timeout(REQUEST_BOUND, TcpStream::connect(address));
        let stream = connecting
            .await
            .map_err(|_| Failure::Connect)?
            .map_err(|_| Failure::Connect)?;
        stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
        Ok(Self::over(stream))
    }

    /// The socket, for those who go on with another protocol, and what was read beyond the last response.
    #[must_use]
    pub fn into_stream(self) -> (TcpStream, BytesMut) {
        (self.stream, self.buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Over a stream that is connected already: through TLS, or to a client that reads slowly.
    #[must_use]
    pub fn over(stream: S) -> Self {
        Self {
            stream,
            buffer: BytesMut::with_capacity(4096),
            requests: 0,
        }
    }

    /// Requests answered on this connection.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Sends `GET path` and reads the response.
    ///
    /// # Errors
    /// See [`Failure`]; a server error is a response here.
    pub async fn get(&mut self, path: &str) -> Result<Response, Failure> {
        self.get_with(path, "").await
    }

    /// Sends `GET path` with further header lines, each ended by CR LF, and reads the response.
    ///
    /// # Errors
    /// As [`Connection::get`].
    pub async fn get_with(&mut self, path: &str, headers: &str) -> Result<Response, Failure> {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: ebb.test\r\n{headers}\r\n"))
            .await?;
        self.response().await
    }

    /// Writes `bytes` as they are.
    ///
    /// # Errors
    /// [`Failure::NoResponse`] when the connection is closed.
    pub async fn send(&mut self, bytes: &str) -> Result<(), Failure> {
        self.stream
            .write_all(bytes.as_bytes())
            .await
            .map_err(|_| Failure::NoResponse)
    }

    /// Reads one response, at most for [`REQUEST_BOUND`].
    ///
    /// # Errors
    /// As [`Connection::get`].
    pub async fn response(&mut self) -> Result<Response, Failure> {
        let response = tokio::time::timeout(REQUEST_BOUND, self.read_response()).await;
        let response = response.map_err(|_| Failure::TimedOut)??;
        self.requests += 1;
        Ok(response)
    }

    /// Waits until the server closes the connection; true when it did within `bound`, without sending anything.
    pub async fn closed_within(&mut self, bound: Duration) -> bool {
        let read = tokio::time::timeout(bound, self.stream.read_buf(&mut self.buffer)).await;
        match read {
            Ok(Ok(0) | Err(_)) => true,
            Ok(Ok(_)) | Err(_) => false,
        }
    }

    async fn read_response(&mut self) -> Result<Response, Failure> {
        let head = loop {
            if let Some(head) = parse_head(&mut self.buffer)? {
                break head;
            }
            self.fill(Failure::NoResponse).await?;
        };
        let body = match head.framing {
            Framing::Length(length) => self.read_exactly(length).await?,
            Framing::Chunked => self.read_chunks().await?,
            Framing::UntilClose => self.read_to_end().await?,
        };
        Ok(Response {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    /// Reads more. At the end of the stream: `at_start` if nothing of a response was read, else truncated.
    async fn fill(&mut self, at_start: Failure) -> Result<(), Failure> {
        let failure = if self.buffer.is_empty() {
            at_start
        } else {
            Failure::Truncated
        };
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => Err(failure),
            Ok(_) => Ok(()),
        }
    }

    async fn read_exactly(&mut self, length: usize) -> Result<Bytes, Failure> {
        while self.buffer.len() < length {
            self.fill(Failure::Truncated).await?;
        }
        Ok(self.buffer.split_to(length).freeze())
    }

    async fn read_chunks(&mut self) -> Result<Bytes, Failure> {
        let mut body = BytesMut::new();
        loop {
            let (head, size) = match httparse::parse_chunk_size(&self.buffer) {
                Ok(httparse::Status::Complete(found)) => found,
                Ok(httparse::Status::Partial) => {
                    self.fill(Failure::Truncated).await?;
                    continue;
                }
                Err(_) => return Err(Failure::Malformed),
            };
            self.buffer.advance(head);
            let size = usize::try_from(size).map_err(|_| Failure::Malformed)?;
            let chunk = self.read_exactly(size + 2).await?;
            if size == 0 {
                return Ok(body.freeze());
            }
            body.extend_from_slice(chunk.get(..size).unwrap_or_default());
        }
    }

    async fn read_to_end(&mut self) -> Result<Bytes, Failure> {
        loop {
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Ok(self.buffer.split().freeze()),
                Ok(_) => {}
                Err(_) => return Err(Failure::Truncated),
            }
        }
    }
}

#[derive(Debug)]
struct Head {
    status: StatusCode,
    headers: HeaderMap,
    framing: Framing,
}

#[derive(Debug)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

/// Takes a complete head off the front of `buffer`; none when more is needed.
fn parse_head(buffer: &mut BytesMut) -> Result<Option<Head>, Failure> {
    let mut parsed = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut parsed);
    let length = match response.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Failure::Malformed),
    };
    let status = response
        .code
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or(Failure::Malformed)?;
    let mut headers = HeaderMap::new();
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Failure::Malformed)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| Failure::Malformed)?;
        headers.append(name, value);
    }
    buffer.advance(length);
    let framing = framing(status, &headers)?;
    Ok(Some(Head {
        status,
        headers,
        framing,
    }))
}

fn framing(status: StatusCode, headers: &HeaderMap) -> Result<Framing, Failure> {
    if status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
        return Ok(Framing::Length(0));
    }
    if headers
        .get(header::TRANSFER_ENCODING)
        .is_some_and(|value| value == "chunked")
    {
        return Ok(Framing::Chunked);
    }
    let Some(length) = headers.get(header::CONTENT_LENGTH) else {
        return Ok(Framing::UntilClose);
    };
    let length = length.to_str().ok().and_then(|text| text.parse().ok());
    length.map(Framing::Length).ok_or(Failure::Malformed)
}
