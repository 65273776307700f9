//! The witness: an upstream that notes from its own sockets which requests it holds, and an ext_authz service that does.
//!
//! A request says by its path what is done with it: `/a/ID/AUTHZ/HOLD/BYTES` is held by ext_authz for AUTHZ milliseconds, by
//! the upstream for HOLD, and answered with BYTES. A session of `tcp_proxy` says it by its first line: `ID HOLD BYTES`.

mod book;
mod http;
mod tcp;

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use tokio::{net::TcpListener, task::JoinSet};

pub use self::book::Book;
use self::http::Role;
use crate::clock::Clock;

/// The upstreams and the ext_authz service; dropping it closes them and their connections.
#[derive(Debug)]
pub struct Witness {
    /// What it has seen.
    pub book: Book,
    /// The first upstream.
    pub a: SocketAddr,
    /// The second.
    pub b: SocketAddr,
    /// Of `tcp_proxy`.
    pub raw: SocketAddr,
    /// ext_authz, over HTTP.
    pub authz: SocketAddr,
    _serving: JoinSet<()>,
}

impl Witness {
    /// Starts all of them on free loopback ports.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(clock: Clock) -> Result<Self> {
        let book = Book::new(clock);
        let mut serving = JoinSet::new();
        let mut addresses = Vec::new();
        for role in [Role::Upstream, Role::Upstream, Role::Authz] {
            let (listener, address) = bind().await?;
            serving.spawn(http::accept(listener, role, book.clone()));
            addresses.push(address);
        }
        let (listener, raw) = bind().await?;
        serving.spawn(tcp::accept(listener, book.clone()));
        let [a, b, authz] = *addresses else {
            anyhow::bail!("three addresses")
        };
        Ok(Self {
            book,
            a,
            b,
            raw,
            authz,
            _serving: serving,
        })
    }
}

async fn bind() -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .context("the witness cannot bind a port")?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}
