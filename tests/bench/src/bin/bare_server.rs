//! A gRPC server that does nothing, for [`ebb_bench::fleet::bare`]. Its one argument is the socket.

use anyhow::{Context as _, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let socket = std::env::args_os()
        .nth(1)
        .context("name the socket to listen on")?;
    ebb_bench::fleet::bare::serve(socket.as_ref()).await
}
