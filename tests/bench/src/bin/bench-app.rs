//! The upstream app of a replica: a process of its own that ends at once on SIGTERM, as most apps do, and writes down
//! when it had its last response ready.
//!
//! `bench-app ADDRESS FILE`: where it listens, and the file into which it writes that moment of the monotonic clock, in
//! nanoseconds; 0 if there was none.

use std::{fs, net::SocketAddr};

use anyhow::{Context as _, Result};
use ebb_e2e::upstream::Upstream;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (address, file) = (arguments.next(), arguments.next());
    let address: SocketAddr = address
        .context("usage: bench-app ADDRESS FILE")?
        .parse()
        .context("the first argument is no address")?;
    let file = file.context("usage: bench-app ADDRESS FILE")?;
    let mut term = signal(SignalKind::terminate())?;
    let upstream = Upstream::start_on(address).await?;
    term.recv().await;
    let last = upstream.last_answer().unwrap_or(0);
    fs::write(&file, last.to_string()).with_context(|| format!("cannot write {file}"))
}
