//! The upstream of `tcp_proxy`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::book::{Book, Holder};

pub(super) async fn accept(listener: TcpListener, book: Book) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let book = book.clone();
                    sessions.spawn(async move {
                        // One that is cut is noted where it was held.
                        let _ = serve(stream, book).await;
                    });
                }
            }
            Some(_) = sessions.join_next() => {}
        }
    }
}

/// One session: held for a while, then answered and closed.
async fn serve(stream: TcpStream, book: Book) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = String::new();
    read.read_line(&mut line).await?;
    let mut numbers = line.split_whitespace().map(str::parse::<u64>);
    let mut number = || {
        numbers
            .next()
            .context("a session says too little")?
            .context("no number")
    };
    let (id, hold, bytes) = (number()?, number()?, number()?);
    let held = book.hold(id, Holder::Upstream);
    let mut rest = [0; 1];
    tokio::select! {
        // Its client sends nothing more: this is its end.
        _ = read.read(&mut rest) => return Ok(()),
        () = tokio::time::sleep(Duration::from_millis(hold)) => {}
    }
    write.write_all(&vec![b'x'; usize::try_from(bytes)?]).await?;
    write.shutdown().await?;
    held.answered();
    // The client closes next; until then the socket has to stay, or what is under way would be reset.
    let _ = tokio::time::timeout(Duration::from_secs(20), read.read(&mut rest)).await;
    Ok(())
}
