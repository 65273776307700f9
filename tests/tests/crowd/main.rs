//! Peers that are too many, say too much, or ask too often, and a disk that hangs: who behaves as it should does not notice.

mod deadlines;
mod growth;
mod hanging;
mod words;

use std::path::Path;

use anyhow::{Context as _, Result};
use ebb_e2e::api::{Client, proto};
use ebb_proto::v1::{
    FilterCommand, FilterHello, FilterReport, ListenerCounts, OnTimeout, Policy, Scope, StartDrainRequest,
    filter_service_client::FilterServiceClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// A report of so many listeners with short names, which no other round has; each has had a request.
fn names(round: usize, count: usize) -> FilterReport {
    let counts = |place: usize| ListenerCounts {
        name: format!("{round}-{place}"),
        started: 1,
        ..ListenerCounts::default()
    };
    FilterReport {
        listeners: (0..count).map(counts).collect(),
        ..FilterReport::default()
    }
}

/// A VM of the node `hostile` that says what it likes.
struct Hostile {
    reports: mpsc::Sender<FilterReport>,
    commands: Streaming<FilterCommand>,
}

impl Hostile {
    /// Attaches with a report.
    async fn attach(socket: &Path, epoch: u64, first: FilterReport) -> Result<Self, Status> {
        let client = Client::connect(socket).await;
        let channel = client
            .map_err(|error| Status::unavailable(error.to_string()))?
            .channel();
        let (reports, outgoing) = mpsc::channel(1);
        let hello = FilterHello {
            node_id: "hostile".to_owned(),
            process: 666,
            epoch,
            version: "0.0.0".to_owned(),
            ..FilterHello::default()
        };
        let first = FilterReport {
            hello: Some(hello),
            ..first
        };
        // There is room for one.
        let _ = reports.send(first).await;
        let mut client = FilterServiceClient::new(channel);
        let commands = client.attach(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { reports, commands })
    }

    /// Answers the next command with a report.
    async fn answer(&mut self, report: FilterReport) -> Result<(), Status> {
        let command = self.commands.message().await?;
        let command = command.ok_or_else(|| Status::aborted("the stream has ended"))?;
        let report = FilterReport {
            answers: command.ask,
            ..report
        };
        if self.reports.send(report).await.is_ok() {
            return Ok(());
        }
        // It was refused meanwhile, and is told why.
        while self.commands.message().await?.is_some() {}
        Err(Status::aborted("the stream has ended"))
    }
}

/// A drain of a node, or of all of them, that is over after so long.
fn drain_of_node(node: Option<&str>, timeout: std::time::Duration) -> StartDrainRequest {
    StartDrainRequest {
        scope: Some(Scope {
            nodes: node.map(str::to_owned).into_iter().collect(),
            ..Scope::default()
        }),
        policy: Some(Policy {
            timeout: Some(proto(timeout)),
            on_timeout: OnTimeout::Abort.into(),
            ..Policy::default()
        }),
        ..StartDrainRequest::default()
    }
}

/// How much memory a process has, in bytes.
fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.context("no VmRSS")?.trim().trim_end_matches(" kB");
    Ok(kilobytes.parse::<u64>()? * 1024)
}
