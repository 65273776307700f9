//! Filters without an Envoy: each speaks to the control plane as one VM does, and comes back whenever it is gone.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use ebb_proto::v1::{FilterHello, FilterReport, ListenerCounts, filter_service_client::FilterServiceClient};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;

use crate::api::Client;

const PAUSE: Duration = Duration::from_millis(5);

/// Who a fake filter says it is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `node.id`.
    pub node: String,
    /// Of the process.
    pub process: u64,
    /// Of the VM.
    pub epoch: u64,
}

/// A VM that is not; dropping it ends it.
#[derive(Debug)]
pub struct FakeFilter {
    in_flight: Arc<AtomicU64>,
    speaking: JoinHandle<()>,
}

impl FakeFilter {
    /// Speaks to the control plane at `socket`, now and whenever it is there.
    #[must_use]
    pub fn start(socket: &Path, identity: Identity, listeners: &[&str]) -> Self {
        let in_flight = Arc::new(AtomicU64::new(0));
        let filter = Filter {
            socket: socket.to_path_buf(),
            identity,
            listeners: listeners.iter().map(|&name| name.to_owned()).collect(),
            in_flight: Arc::clone(&in_flight),
        };
        let speaking = tokio::spawn(async move {
            loop {
                // Whatever ended the stream, it is opened again.
                let _ = filter.attach().await;
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { in_flight, speaking }
    }

    /// What it says is in flight on each of its listeners, from its next report on.
    pub fn set_in_flight(&self, in_flight: u64) {
        self.in_flight.store(in_flight, Ordering::SeqCst);
    }
}

impl Drop for FakeFilter {
    fn drop(&mut self) {
        self.speaking.abort();
    }
}

struct Filter {
    socket: PathBuf,
    identity: Identity,
    listeners: Vec<String>,
    in_flight: Arc<AtomicU64>,
}

impl Filter {
    /// Answers every command of one stream, until that ends.
    async fn attach(&self) -> Result<()> {
        let channel = Client::connect(&self.socket).await?.channel();
        let (reports, outgoing) = mpsc::channel(16);
        let mut first = self.report();
        first.hello = Some(FilterHello {
            node_id: self.identity.node.clone(),
            process: self.identity.process,
            epoch: self.identity.epoch,
            version: "0.0.0".to_owned(),
            ..FilterHello::default()
        });
        reports.send(first).await?;
        let mut client = FilterServiceClient::new(channel);
        let mut commands = client.attach(ReceiverStream::new(outgoing)).await?.into_inner();
        let mut generation = 0;
        let mut answers = 0;
        let mut heartbeat = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                command = commands.message() => {
                    let Some(command) = command? else { return Ok(()) };
                    generation = command.generation;
                    answers = answers.max(command.ask);
                }
                _ = heartbeat.tick() => {}
            }
            let report = FilterReport {
                generation,
                answers,
                ..self.report()
            };
            reports.send(report).await?;
        }
    }

    fn report(&self) -> FilterReport {
        let in_flight = self.in_flight.load(Ordering::SeqCst);
        let counts = |name: &String| ListenerCounts {
            name: name.clone(),
            in_flight,
            started: in_flight,
            ..ListenerCounts::default()
        };
        FilterReport {
            listeners: self.listeners.iter().map(counts).collect(),
            ..FilterReport::default()
        }
    }
}
