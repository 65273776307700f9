//! What the kernel holds for an Envoy's clients: bytes that it was given and that no client's kernel has acknowledged.
//!
//! When a process exits, the kernel goes on delivering what is in its sockets' send queues only until the other side sends
//! something: a socket that nobody reads any more answers that with RST, and drops the rest. In a network namespace that
//! ends with its process, as a container's does, the queues go at once. Unix sockets need none of this: what was written is
//! in the receiver's queue already, and survives its sender.

mod diag;
mod process;

use std::{collections::BTreeSet, io, net::IpAddr};

use self::diag::{Socket, States};
pub(super) use self::process::peer_of;
use crate::core::outstanding::Unsent;

/// A local address of a listener, as a socket is matched with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Local {
    /// `None` = any.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
}

/// Why the kernel does not tell.
#[derive(Debug, thiserror::Error)]
pub(super) enum Blind {
    #[error("no process of it can be seen here")]
    NoProcess,
    #[error("it is in another network namespace")]
    Elsewhere,
    #[error("another process listens on its ports here")]
    Stranger,
    #[error("it has no listening sockets")]
    NotListening,
    #[error("nothing tells the ports of these listeners")]
    NoPorts,
    #[error("the system did not answer in time")]
    Late,
    #[error(transparent)]
    System(#[from] io::Error),
}

impl Local {
    fn new(socket: &Socket) -> Self {
        Self::at(socket.local.0, socket.local.1)
    }

    pub(super) fn at(address: IpAddr, port: u16) -> Self {
        let address = Some(address.to_canonical()).filter(|address| !address.is_unspecified());
        Self { address, port }
    }

    fn has(&self, socket: &Socket) -> bool {
        let (address, port) = socket.local;
        self.port == port && self.address.is_none_or(|own| own == address.to_canonical())
    }
}

/// The send queues of an Envoy's connections from clients. `pids`: the Envoy's, its parents' and children's may be among
/// them; `locals`: where it listens, `None` = find out.
///
/// # Errors
/// [`Blind`]: it cannot be told, which is not zero.
pub(super) fn unsent(pids: &[u32], locals: Option<&[Local]>) -> Result<Unsent, Blind> {
    let pids = process::here(pids)?;
    let locals = listening(&pids, locals)?;
    let open = diag::tcp(States::SENDING, only_port(&locals))?;
    let queues = open
        .iter()
        .filter(|socket| locals.iter().any(|local| local.has(socket)))
        .map(Socket::unacknowledged)
        .filter(|queued| *queued > 0);
    Ok(queues.fold(Unsent::default(), |sum, queued| Unsent {
        queued: sum.queued.saturating_add(queued),
        clients: sum.clients.saturating_add(1),
        ..sum
    }))
}

/// Where these processes listen, or what was told of that, if it is not told of somebody else: a forwarder may have the
/// same ports here as an Envoy in another namespace has there.
fn listening(pids: &[u32], told: Option<&[Local]>) -> Result<Vec<Local>, Blind> {
    let port = told.and_then(only_port);
    let sockets = diag::tcp(States::LISTENING, port)?;
    let own = process::sockets(pids)?;
    let is_own = |socket: &&Socket| own.contains(&socket.inode);
    let Some(told) = told else {
        let found: Vec<Local> = sockets.iter().filter(is_own).map(Local::new).collect();
        return if found.is_empty() {
            Err(Blind::NotListening)
        } else {
            Ok(found)
        };
    };
    let mut there = sockets
        .iter()
        .filter(|socket| told.iter().any(|local| local.port == socket.local.1))
        .peekable();
    // None at all = its listeners are closed, and their connections may still be open.
    if there.peek().is_some() && !there.any(|socket| is_own(&socket)) {
        return Err(Blind::Stranger);
    }
    Ok(told.to_vec())
}

/// The port, if there is but one: the kernel can look for that by itself.
fn only_port(locals: &[Local]) -> Option<u16> {
    let ports: BTreeSet<u16> = locals.iter().map(|local| local.port).collect();
    (ports.len() == 1).then(|| ports.first().copied()).flatten()
}

#[cfg(test)]
mod tests;
