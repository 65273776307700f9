//! TCP sockets of this network namespace, by netlink's sock_diag.

use std::{io, net::IpAddr, os::fd::OwnedFd, time::Duration};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_CLOSING, TCP_FIN_WAIT1, TCP_LAST_ACK},
    inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags},
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

/// The kernel answers from memory; this bounds a kernel that does not.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);

/// The largest datagram that the kernel makes of a dump is 32 KiB.
const DATAGRAM: usize = 64 * 1024;

/// Which sockets are asked for.
#[derive(Clone, Debug)]
pub(super) struct States(StateFlags);

impl States {
    /// Those that wait for clients.
    pub(super) const LISTENING: Self = Self(StateFlags::LISTEN);

    /// Those that may have something to deliver, with or without a process that still holds them.
    pub(super) const SENDING: Self = Self(
        StateFlags::ESTABLISHED
            .union(StateFlags::FIN_WAIT1)
            .union(StateFlags::CLOSE_WAIT)
            .union(StateFlags::CLOSING)
            .union(StateFlags::LAST_ACK),
    );
}

/// One TCP socket.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    pub(super) local: (IpAddr, u16),
    /// 0 = no process holds it any more.
    pub(super) inode: u32,
    state: u8,
    send_queue: u32,
}

impl Socket {
    /// Bytes that the other side's kernel has not acknowledged. A FIN takes a place in the queue and is no byte: a peer that
    /// has vanished while it was idle never acknowledges that, and is owed nothing.
    pub(super) fn unacknowledged(&self) -> u64 {
        let fin = u32::from(matches!(self.state, TCP_FIN_WAIT1 | TCP_CLOSING | TCP_LAST_ACK));
        u64::from(self.send_queue.saturating_sub(fin))
    }

    fn new(header: InetResponseHeader) -> Self {
        Self {
            local: (header.socket_id.source_address, header.socket_id.source_port),
            inode: header.inode,
            state: header.state,
            send_queue: header.send_queue,
        }
    }
}

/// The TCP sockets in these states, over IPv4 and IPv6; of all local ports, or of one.
///
/// # Errors
/// The system's: a sandbox may forbid it, and a kernel may be without it.
pub(super) fn tcp(states: States, port: Option<u16>) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for (family, mut id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        id.source_port = port.unwrap_or_default();
        dump(family, id, states.clone(), &mut sockets)?;
    }
    Ok(sockets)
}

fn dump(family: u8, socket_id: SocketId, states: States, into: &mut Vec<Socket>) -> io::Result<()> {
    let netlink = netlink()?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: states.0,
        socket_id,
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut buffer = vec![0; message.buffer_len()];
    message.serialize(&mut buffer);
    send(&netlink, &buffer, SendFlags::empty())?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let (_, size) = recv(&netlink, &mut *buffer, RecvFlags::TRUNC)?;
        let datagram = buffer.get(..size).filter(|datagram| !datagram.is_empty());
        let datagram = datagram.ok_or_else(|| io::Error::other("netlink: an answer of an unlikely size"))?;
        if take(datagram, into)? {
            return Ok(());
        }
    }
}

fn netlink() -> io::Result<OwnedFd> {
    let netlink = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    set_socket_timeout(&netlink, Timeout::Recv, Some(ANSWER_WITHIN))?;
    Ok(netlink)
}

/// Takes in what a datagram has, and says whether it was the last.
fn take(mut datagram: &[u8], into: &mut Vec<Socket>) -> io::Result<bool> {
    while !datagram.is_empty() {
        let message: NetlinkMessage<SockDiagMessage> =
            NetlinkMessage::deserialize(datagram).map_err(io::Error::other)?;
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
                into.push(Socket::new(socket.header));
            }
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::Overrun(_) => return Err(io::Error::other("netlink: overrun")),
            _ => {}
        }
        // Messages start at multiples of four bytes.
        let length = usize::try_from(message.header.length)
            .unwrap_or(usize::MAX)
            .next_multiple_of(4);
        datagram = datagram.get(length..).unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
pub(super) use netlink_packet_sock_diag::constants::TCP_ESTABLISHED as ESTABLISHED;

#[cfg(test)]
pub(super) const WITH_FIN: [u8; 3] = [TCP_FIN_WAIT1, TCP_CLOSING, TCP_LAST_ACK];

#[cfg(test)]
impl Socket {
    pub(super) fn test(state: u8, send_queue: u32) -> Self {
        let local = (IpAddr::from([127, 0, 0, 1]), 80);
        Self {
            local,
            inode: 1,
            state,
            send_queue,
        }
    }
}
