//! A gRPC server that takes reports and does nothing with them, in a process of its own: what a stream costs anyway.

use std::{path::Path, pin::Pin, time::Duration};

use anyhow::{Context as _, Result, bail};
use ebb_e2e::{
    process::{Process, Spec},
    wait,
};
use ebb_proto::v1::{
    FilterCommand, FilterReport,
    filter_service_server::{FilterService, FilterServiceServer},
};
use futures::{Stream, StreamExt as _, stream};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    figures::Bare,
    stage::{idle, until_attached},
    swarm::{Layout, Swarm},
};
use crate::proc;

/// The name of its binary, which lies beside that of the benchmarks.
const BINARY: &str = "bare-server";

struct Nothing;

#[tonic::async_trait]
impl FilterService for Nothing {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<FilterCommand, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<FilterReport>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        // A first command, so that the filter takes itself for attached; then reports are read, and never answered.
        let first = FilterCommand {
            generation: 1,
            ..FilterCommand::default()
        };
        let reports = request
            .into_inner()
            .filter_map(|report| async move { report.err().map(Err) });
        Ok(Response::new(Box::pin(stream::iter([Ok(first)]).chain(reports))))
    }
}

/// Serves on a Unix socket for ever, with tonic's defaults but for the codec, which is Ebb's.
///
/// # Errors
/// When it cannot listen there.
pub async fn serve(socket: &Path) -> Result<()> {
    let listener =
        UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    let server = tonic::transport::Server::builder().add_service(FilterServiceServer::new(Nothing));
    Ok(server
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await?)
}

/// What it needs for so many filters.
pub(super) async fn measure(layout: Layout, settle: Duration, time: Duration) -> Result<Bare> {
    let own = std::env::current_exe().context("cannot tell where this program lies")?;
    // Tests lie one folder further down.
    let program = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(BINARY))
        .find(|file| file.is_file());
    let Some(program) = program else {
        bail!(
            "{BINARY} does not lie beside {}: build all of ebb-bench",
            own.display()
        );
    };
    let folder = ebb_e2e::world::folder()?;
    let socket = folder.path().join("bare.sock");
    let server = Process::spawn(Spec {
        name: BINARY.to_owned(),
        program,
        args: vec![socket.clone().into()],
        env: Vec::new(),
        log: folder.path().join("bare.log"),
        show_log: false,
    })?;
    wait::until("the bare server listens", wait::PATIENCE, || async {
        Ok(socket.exists())
    })
    .await?;
    let pid = server.pid().context("the bare server has ended")?;
    tokio::time::sleep(settle).await;
    let memory_empty = proc::private_memory(pid)?;
    let swarm = Swarm::start(&socket, layout)?;
    until_attached(&swarm, layout.streams as u64).await?;
    tokio::time::sleep(settle).await;
    let memory_attached = proc::private_memory(pid)?;
    let idle = idle(pid, &swarm, time).await?;
    // First the filters: without a server they would only spin.
    drop(swarm);
    drop(server);
    Ok(Bare {
        memory_empty,
        memory_attached,
        idle,
    })
}
