//! What a simulated filter speaks through: HTTP/2 on a Unix socket, one connection of its own or one shared by several,
//! as Envoy's connection pool has it. `h2` without a gRPC library on top: thousands of them must not cost more than what
//! they measure.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{Request, StatusCode, header};
use prost::Message;
use tokio::{net::UnixStream, sync::Mutex};

/// Length of the prefix of a gRPC message: a byte that says whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A connection to the control plane, made when the first stream needs it, and again when it has ended.
#[derive(Debug)]
pub(super) struct Link {
    socket: PathBuf,
    connection: Mutex<Option<SendRequest<Bytes>>>,
}

impl Link {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            connection: Mutex::new(None),
        }
    }

    /// Opens a stream, on the connection that is there or on a new one.
    pub(super) async fn open(&self) -> Result<Wire> {
        let request = Request::post("http://ebb/ebb.v1.FilterService/Attach")
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(())?;
        let (answer, sending) = self.ready().await?.send_request(request, false)?;
        Ok(Wire {
            sending,
            answer,
            receiving: None,
            read: BytesMut::new(),
        })
    }

    async fn ready(&self) -> Result<SendRequest<Bytes>> {
        let mut connection = self.connection.lock().await;
        if let Some(sender) = connection.take()
            && let Ok(sender) = sender.ready().await
        {
            *connection = Some(sender.clone());
            return Ok(sender);
        }
        let stream = UnixStream::connect(&self.socket).await?;
        let (sender, driver) = h2::client::handshake(stream).await?;
        // Ends with the connection, whose end its streams see as well.
        tokio::task::spawn_local(async move {
            let _ = driver.await;
        });
        let sender = sender.ready().await?;
        *connection = Some(sender.clone());
        Ok(sender)
    }
}

/// One open stream.
#[derive(Debug)]
pub(super) struct Wire {
    sending: SendStream<Bytes>,
    answer: ResponseFuture,
    receiving: Option<RecvStream>,
    read: BytesMut,
}

impl Wire {
    /// Sends a message. What the other side does not take yet is kept, as Envoy keeps it.
    pub(super) fn send(&mut self, message: &impl Message) -> Result<()> {
        let length = message.encoded_len();
        let mut bytes = BytesMut::with_capacity(PREFIX + length);
        bytes.put_u8(0);
        bytes.put_u32(u32::try_from(length).context("a report is too long")?);
        message.encode(&mut bytes)?;
        Ok(self.sending.send_data(bytes.freeze(), false)?)
    }

    /// The next message; `None` = the other side has ended the stream. Can be dropped and called again.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(message) = self.whole()? {
                return Ok(Some(message));
            }
            let receiving = match &mut self.receiving {
                Some(receiving) => receiving,
                None => {
                    let response = (&mut self.answer).await?;
                    ensure!(
                        response.status() == StatusCode::OK,
                        "answered {}",
                        response.status()
                    );
                    self.receiving.insert(response.into_body())
                }
            };
            let Some(data) = receiving.data().await else {
                return Ok(None);
            };
            let data = data?;
            receiving.flow_control().release_capacity(data.len())?;
            self.read.extend_from_slice(&data);
        }
    }

    fn whole(&mut self) -> Result<Option<Bytes>> {
        let Some((&[compressed, a, b, c, d], rest)) = self.read.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        if compressed != 0 {
            bail!("a compressed message, which nobody asked for");
        }
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d]))?;
        if rest.len() < length {
            return Ok(None);
        }
        self.read.advance(PREFIX);
        let message = self.read.split_to(length).freeze();
        if self.read.is_empty() {
            // Thousands of streams are idle most of the time: none keeps a buffer.
            self.read = BytesMut::new();
        }
        Ok(Some(message))
    }
}
