//! A control plane that does what a test wants, for what a real one never does.

use std::path::Path;

use anyhow::{Context as _, Result};
use ebb_proto::v1::{
    FilterCommand, FilterReport,
    filter_service_server::{FilterService, FilterServiceServer},
};
use tokio::{net::UnixListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

use crate::wait;

/// A running fake; dropping it ends it.
#[derive(Debug)]
pub struct FakeControl {
    attached: mpsc::UnboundedReceiver<Attached>,
    serving: JoinHandle<()>,
}

/// A stream of one VM.
#[derive(Debug)]
pub struct Attached {
    /// What comes from the filter; nothing is read unless the test does.
    pub reports: Streaming<FilterReport>,
    commands: mpsc::Sender<Result<FilterCommand, Status>>,
}

impl FakeControl {
    /// Serves on a Unix socket.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn start(socket: &Path) -> Result<Self> {
        let listener =
            UnixListener::bind(socket).with_context(|| format!("cannot bind {}", socket.display()))?;
        let (sender, attached) = mpsc::unbounded_channel();
        let service = FilterServiceServer::new(Service { attached: sender });
        let serving = tokio::spawn(async move {
            let incoming = UnixListenerStream::new(listener);
            if let Err(error) = Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
            {
                eprintln!("the fake control plane has ended: {error}");
            }
        });
        Ok(Self { attached, serving })
    }

    /// Waits until a VM opens a stream.
    ///
    /// # Errors
    /// When none does within [`wait::PATIENCE`].
    pub async fn attached(&mut self) -> Result<Attached> {
        let next = wait::within("a VM opens its stream", wait::PATIENCE, self.attached.recv()).await?;
        next.context("the fake control plane has ended")
    }

    /// A further stream that a VM has opened by now.
    pub fn attached_by_now(&mut self) -> Option<Attached> {
        self.attached.try_recv().ok()
    }
}

impl Drop for FakeControl {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Attached {
    /// Sends a command.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn send(&self, command: FilterCommand) -> Result<()> {
        self.commands
            .send(Ok(command))
            .await
            .context("the stream has ended")
    }

    /// Ends the stream.
    pub async fn end(self, status: Status) {
        // One that has ended already needs no end.
        let _ = self.commands.send(Err(status)).await;
    }
}

struct Service {
    attached: mpsc::UnboundedSender<Attached>,
}

#[tonic::async_trait]
impl FilterService for Service {
    type AttachStream = ReceiverStream<Result<FilterCommand, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<FilterReport>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (commands, outgoing) = mpsc::channel(16);
        let attached = Attached {
            reports: request.into_inner(),
            commands,
        };
        let sent = self.attached.send(attached);
        sent.map_err(|_| Status::unavailable("the test has ended"))?;
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}
