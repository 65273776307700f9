//! Connections to the gRPC services. They never take all that the system lets this process have open: whoever connects and
//! says nothing is closed after [`SPEAK_WITHIN`], or as soon as somebody else needs the room.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{FutureExt, Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
    time::{Sleep, sleep},
};
use tonic::transport::server::Connected;

use crate::socket::{Accept, Faults};

/// A client says hello at once.
const SPEAK_WITHIN: Duration = Duration::from_secs(10);

/// How long the hello of HTTP/2 is, in bytes. From there on pings tell whether anybody is there.
const HELLO: usize = 24;

/// As many connections as there may be at a time, on all sockets together.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Mutex<Seats>>);

#[derive(Debug)]
struct Seats {
    max: usize,
    taken: usize,
    next: u64,
    /// Those that have not said hello, oldest first. Dropped, they have to go.
    silent: BTreeMap<u64, oneshot::Sender<()>>,
    faults: Faults,
}

/// The place of one connection.
#[derive(Debug)]
struct Seat {
    room: Room,
    number: u64,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection<S> {
    stream: S,
    seat: Seat,
    hello: Hello,
}

#[derive(Debug)]
enum Hello {
    /// So many bytes are missing.
    Awaited {
        missing: usize,
        until: Pin<Box<Sleep>>,
        /// Resolves when its room is needed.
        evicted: oneshot::Receiver<()>,
    },
    Said,
}

impl Room {
    /// For so many.
    pub(super) fn new(max: usize) -> Self {
        Self(Arc::new(Mutex::new(Seats {
            max: max.max(1),
            taken: 0,
            next: 0,
            silent: BTreeMap::new(),
            faults: Faults::new("the control plane"),
        })))
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection in; `None` = there is no room, and it is closed.
    fn admit<S>(&self, stream: S) -> Option<Connection<S>> {
        let mut seats = self.seats();
        if seats.taken >= seats.max {
            // The oldest that says nothing goes, a moment later.
            if seats.silent.pop_first().is_none() {
                let max = seats.max;
                if seats.faults.is_to_say() {
                    tracing::warn!(
                        connections = max,
                        "as many connections as the limit of open files allows: refusing more; raise it (`ulimit -n`, LimitNOFILE)"
                    );
                }
                return None;
            }
        }
        let number = seats.next;
        seats.next += 1;
        seats.taken += 1;
        let (stay, evicted) = oneshot::channel();
        seats.silent.insert(number, stay);
        drop(seats);
        Some(Connection {
            stream,
            seat: Seat {
                room: self.clone(),
                number,
            },
            hello: Hello::Awaited {
                missing: HELLO,
                until: Box::pin(sleep(SPEAK_WITHIN)),
                evicted,
            },
        })
    }
}

impl Seat {
    fn has_spoken(&self) {
        self.room.seats().silent.remove(&self.number);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.room.seats();
        seats.silent.remove(&self.number);
        seats.taken = seats.taken.saturating_sub(1);
    }
}

/// The connections of a listener, for ever.
pub(super) fn incoming<L: Accept>(
    listener: L,
    room: Room,
) -> impl Stream<Item = io::Result<Connection<L::Io>>> {
    let faults = Faults::new("the control plane");
    stream::unfold(
        (listener, room, faults),
        |(listener, room, mut faults)| async move {
            loop {
                let stream = listener.next(&mut faults).await;
                if let Some(connection) = room.admit(stream) {
                    return Some((Ok(connection), (listener, room, faults)));
                }
            }
        },
    )
}

impl<S: Connected> Connected for Connection<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let Hello::Awaited {
            missing,
            until,
            evicted,
        } = &mut this.hello
        else {
            return read;
        };
        if read.is_ready() {
            let said = buffer.filled().len() - before;
            *missing = missing.saturating_sub(said);
            // Nothing more comes from one that has closed its end.
            if *missing == 0 || said == 0 {
                this.hello = Hello::Said;
                this.seat.has_spoken();
            }
            return read;
        }
        let evicted = evicted.poll_unpin(context).is_ready();
        if !evicted {
            ready!(until.poll_unpin(context));
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    fn connect(room: &Room) -> (DuplexStream, Option<Connection<DuplexStream>>) {
        let (peer, own) = duplex(64);
        (peer, room.admit(own))
    }

    async fn read(connection: &mut Connection<DuplexStream>) -> io::Result<usize> {
        connection.read(&mut [0; 64]).await
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_or_too_little_is_closed_and_who_has_said_hello_is_not() {
        let room = Room::new(9);
        let (_silent, connection) = connect(&room);
        let mut connection = connection.unwrap();
        assert_eq!(
            read(&mut connection).await.unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
        let (mut slow, connection) = connect(&room);
        let mut connection = connection.unwrap();
        slow.write_all(b"PRI * HTTP").await.unwrap();
        assert_eq!(read(&mut connection).await.unwrap(), 10);
        assert!(read(&mut connection).await.is_err(), "it trickles");
        let (mut client, connection) = connect(&room);
        let mut connection = connection.unwrap();
        client.write_all(&[0; HELLO]).await.unwrap();
        assert_eq!(read(&mut connection).await.unwrap(), HELLO);
        let later = tokio::time::timeout(100 * SPEAK_WITHIN, read(&mut connection));
        assert!(later.await.is_err(), "pings tell of it from here on");
    }

    #[tokio::test]
    async fn who_says_nothing_makes_room_and_who_has_said_hello_keeps_it() {
        let room = Room::new(2);
        let (mut client, spoken) = connect(&room);
        let mut spoken = spoken.unwrap();
        client.write_all(&[0; HELLO]).await.unwrap();
        read(&mut spoken).await.unwrap();
        let (_silent, silent) = connect(&room);
        let (_third, third) = connect(&room);
        let mut third = third.unwrap();
        assert!(read(&mut silent.unwrap()).await.is_err(), "it has to go");
        let (_fourth, fourth) = connect(&room);
        assert!(read(&mut third).await.is_err(), "and so has the next");
        let fourth = fourth.unwrap();
        drop(third);
        fourth.seat.has_spoken();
        let (_fifth, fifth) = connect(&room);
        assert!(fifth.is_none(), "there is no room");
        drop(fourth);
        assert!(connect(&room).1.is_some());
    }
}
