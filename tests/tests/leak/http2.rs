//! The cases over HTTP/2.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use ebb_e2e::client::{
    Failure,
    http2::{Connection, Pending},
};
use http::{Request, Version};
use tokio::sync::Mutex;

use crate::mix::Kind;

/// A client whose one connection carries the streams of several workers.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    connection: Arc<Mutex<Option<Arc<Connection>>>>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            connection: Arc::default(),
        }
    }

    /// Carries out a case, and checks that it ended as it must. `pause` is how long to wait before giving up.
    pub(crate) async fn carry_out(&self, kind: Kind, key: u64, pause: Duration) -> Result<()> {
        match kind {
            Kind::Plain => self.expect("/ok", 200).await,
            Kind::Post => {
                let mut pending = upload(&*self.connection().await?).await?;
                pending.send("whole", true)?;
                ensure!(pending.response().await?.status == 200);
                Ok(())
            }
            Kind::NoRoute => self.expect("/nowhere", 404).await,
            Kind::RouteTimeout => self.expect("/timeout", 504).await,
            Kind::UpstreamResetsBefore => self.expect("/reset/before", 503).await,
            Kind::UpstreamResetsAfter => {
                let answer = self.connection().await?.get("/reset/after").await;
                ensure!(
                    matches!(answer, Err(Failure::Truncated)),
                    "a response cut short expected: {answer:?}"
                );
                Ok(())
            }
            Kind::Retried => self.expect(&format!("/retry/{key}/2"), 200).await,
            Kind::RetriesExhausted => self.expect(&format!("/retry/{key}/9"), 503).await,
            Kind::Redirected => self.expect("/redirect?to=/delay/2", 200).await,
            Kind::ResetInRequest => {
                let mut pending = upload(&*self.connection().await?).await?;
                pending.send("part", false)?;
                tokio::time::sleep(pause).await;
                Ok(())
            }
            Kind::ResetWaiting => {
                let _pending = self.connection().await?.start("/hold").await?;
                tokio::time::sleep(pause).await;
                Ok(())
            }
            Kind::ResetInResponse => {
                let pending = self.connection().await?.start("/slow/1000/20").await?;
                let mut started = pending.started().await?;
                started.part().await?.context("the response ended")?;
                tokio::time::sleep(pause).await;
                Ok(())
            }
            Kind::LoseConnection => {
                let connection = Connection::open(self.address).await?;
                let _held = [connection.start("/hold").await?, connection.start("/hold").await?];
                let _uploading = upload(&connection).await?;
                tokio::time::sleep(pause).await;
                drop(connection);
                Ok(())
            }
            Kind::NoHost => {
                // As an HTTP/1.1 request passed on: that is how this client leaves `:authority` out.
                let head = Request::get("/ok").version(Version::HTTP_11).body(())?;
                let connection = Connection::open(self.address).await?;
                let answer = connection.send(head, true).await?.response().await;
                ensure!(
                    matches!(answer, Err(Failure::NoResponse)),
                    "a refused stream expected: {answer:?}"
                );
                Ok(())
            }
            Kind::CloseInRequest | Kind::CloseWaiting | Kind::CloseInResponse => {
                bail!("a case of HTTP/1 only")
            }
            Kind::Pipelined | Kind::WebSocket | Kind::WebSocketReset | Kind::Http10 | Kind::Garbage => {
                bail!("a case of HTTP/1 only")
            }
        }
    }

    async fn connection(&self) -> Result<Arc<Connection>> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = &*slot {
            return Ok(Arc::clone(connection));
        }
        let connection = Arc::new(Connection::open(self.address).await?);
        *slot = Some(Arc::clone(&connection));
        Ok(connection)
    }

    async fn expect(&self, path: &str, status: u16) -> Result<()> {
        let response = self.connection().await?.get(path).await?;
        ensure!(response.status == status, "{status} expected: {response:?}");
        Ok(())
    }
}

/// Begins a request whose body follows.
pub(crate) async fn upload(connection: &Connection) -> Result<Pending> {
    let head = Request::post("http://ebb.test/upload").body(())?;
    Ok(connection.send(head, false).await?)
}
