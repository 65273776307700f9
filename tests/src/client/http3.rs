//! HTTP/3 over one connection that the caller owns.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::{Buf as _, Bytes, BytesMut};
use h3::{
    ConnectionState as _,
    client::{RequestStream, SendRequest},
};
use h3_quinn::{BidiStream, OpenStreams};
use http::Request;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::{RootCertStore, pki_types::CertificateDer};
use tokio::task::JoinHandle;

use super::{Failure, Response, http1::REQUEST_BOUND};
use crate::wait;

/// The name in the certificate.
pub const NAME: &str = "ebb.test";

/// A certificate that signs itself, with its key.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate as PEM, for the server.
    pub certificate: String,
    /// Its private key as PEM, for the server.
    pub key: String,
    trusted: CertificateDer<'static>,
}

impl Identity {
    /// Makes a new one.
    ///
    /// # Errors
    /// When the key cannot be made.
    pub fn generate() -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).context("no certificate")?;
        Ok(Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
            trusted: made.cert.der().clone(),
        })
    }

    /// What a client needs to trust it, with the one protocol that is to be negotiated.
    ///
    /// # Errors
    /// When the certificate is none.
    pub fn tls(&self, protocol: &[u8]) -> Result<rustls::ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.trusted.clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![protocol.to_vec()];
        Ok(tls)
    }

    fn client(&self) -> Result<quinn::ClientConfig> {
        let tls = self.tls(b"h3")?;
        Ok(quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(
            tls,
        )?)))
    }
}

/// A connection; dropping it closes it.
pub struct Connection {
    sender: SendRequest<OpenStreams, Bytes>,
    quic: quinn::Connection,
    driver: JoinHandle<()>,
    _endpoint: quinn::Endpoint,
}

/// A request that was sent and not yet answered; dropping it resets the stream.
pub struct Pending(RequestStream<BidiStream<Bytes>, Bytes>);

impl Connection {
    /// Connects to a server with that certificate.
    ///
    /// # Errors
    /// When no connection can be made within [`REQUEST_BOUND`].
    pub async fn open(address: SocketAddr, identity: &Identity) -> Result<Self> {
        let mut endpoint = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        endpoint.set_default_client_config(identity.client()?);
        let opening = async {
            let quic = endpoint.connect(address, NAME)?.await?;
            let (mut connection, sender) = h3::client::new(h3_quinn::Connection::new(quic.clone())).await?;
            let driver = tokio::spawn(async move {
                // Each request learns of the end by itself.
                connection.wait_idle().await;
            });
            anyhow::Ok((quic, sender, driver))
        };
        let what = format!("a QUIC connection to {address}");
        let (quic, sender, driver) = wait::within(what, REQUEST_BOUND, opening).await??;
        Ok(Self {
            sender,
            quic,
            driver,
            _endpoint: endpoint,
        })
    }

    /// Sends `GET path` and reads the response.
    ///
    /// # Errors
    /// See [`Failure`]; a server error is a response here.
    pub async fn get(&self, path: &str) -> Result<Response, Failure> {
        self.start(path).await?.response().await
    }

    /// Sends `GET path`; the response is read later.
    ///
    /// # Errors
    /// [`Failure::NoResponse`] when the connection takes no further request.
    pub async fn start(&self, path: &str) -> Result<Pending, Failure> {
        let request = Request::get(format!("https://{NAME}{path}")).body(());
        let request = request.map_err(|_| Failure::Malformed)?;
        // A clone, so that requests may run side by side.
        let mut sender = self.sender.clone();
        let sending = async {
            let mut stream = sender
                .send_request(request)
                .await
                .map_err(|_| Failure::NoResponse)?;
            stream.finish().await.map_err(|_| Failure::NoResponse)?;
            Ok(Pending(stream))
        };
        tokio::time::timeout(REQUEST_BOUND, sending)
            .await
            .map_err(|_| Failure::TimedOut)?
    }

    /// Whether the server has sent GOAWAY.
    #[must_use]
    pub fn told_to_leave(&self) -> bool {
        self.sender.is_closing()
    }

    /// Waits until the server has sent GOAWAY.
    ///
    /// # Errors
    /// When it has not within `bound`.
    pub async fn goaway(&self, bound: Duration) -> Result<()> {
        wait::until("the server sends GOAWAY on HTTP/3", bound, || async {
            Ok(self.told_to_leave())
        })
        .await
    }

    /// Why the connection was closed; none while it is open.
    #[must_use]
    pub fn closed(&self) -> Option<quinn::ConnectionError> {
        self.quic.close_reason()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.quic.close(0x100_u32.into(), b"done");
        self.driver.abort();
    }
}

impl Pending {
    /// Reads the response, at most for [`REQUEST_BOUND`].
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn response(mut self) -> Result<Response, Failure> {
        let reading = async {
            let head = self.0.recv_response().await.map_err(|_| Failure::NoResponse)?;
            let mut body = BytesMut::new();
            while let Some(mut part) = self.0.recv_data().await.map_err(|_| Failure::Truncated)? {
                body.extend_from_slice(&part.copy_to_bytes(part.remaining()));
            }
            let (head, ()) = head.into_parts();
            Ok(Response {
                status: head.status,
                headers: head.headers,
                body: body.freeze(),
            })
        };
        tokio::time::timeout(REQUEST_BOUND, reading)
            .await
            .map_err(|_| Failure::TimedOut)?
    }
}
