//! A stranger: a process that attaches as a filter and lies. It is not the process that the control plane knows the filters
//! of, so nothing of what it claims is its own.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use ebb_e2e::{api::Client, process::spawn_bound_to_us};
use ebb_proto::v1::{
    FilterHello, FilterReport, ListenerCounts, UpstreamCounts, filter_service_client::FilterServiceClient,
};
use tokio::{
    process::{Child, Command},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::schedule::Claim;

/// Between two reports.
const PAUSE: Duration = Duration::from_millis(20);

/// New names in each report.
const FRESH: usize = 2_000;

/// The word on the command line that makes a process a stranger.
pub const STRANGER: &str = "stranger";

/// What a stranger says, and for how long.
#[derive(Clone, Debug, Parser)]
pub struct Lie {
    /// The control plane.
    #[arg(long)]
    pub socket: PathBuf,
    /// What it claims.
    #[arg(long, value_enum)]
    pub claim: Claim,
    /// The node whose VM it claims to be.
    #[arg(long)]
    pub node: String,
    /// The epoch of one of that node's VMs, in hex.
    #[arg(long)]
    pub epoch: String,
    /// For how long.
    #[arg(long)]
    pub milliseconds: u64,
}

impl Lie {
    /// Starts a process that does it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, torture: &Path) -> Result<Child> {
        let mut command = Command::new(torture);
        let claim = self.claim.to_possible_value().context("a claim has a name")?;
        command
            .arg(STRANGER)
            .arg("--socket")
            .arg(&self.socket)
            .args(["--claim", claim.get_name()])
            .args(["--node", &self.node, "--epoch", &self.epoch])
            .args(["--milliseconds", &self.milliseconds.to_string()]);
        spawn_bound_to_us(&mut command).context("cannot start a stranger")
    }

    /// Lies until its time is over. A control plane that closes the stream is asked again, as a stranger would.
    ///
    /// # Errors
    /// When the epoch is no number.
    pub async fn tell(&self) -> Result<()> {
        let epoch = u64::from_str_radix(&self.epoch, 16).context("no epoch")?;
        let lying = async {
            loop {
                // Refused or cut off: that is what should happen.
                let _ = self.attach(epoch).await;
                tokio::time::sleep(PAUSE).await;
            }
        };
        let time = Duration::from_millis(self.milliseconds);
        let _: Result<(), _> = tokio::time::timeout(time, lying).await;
        Ok(())
    }

    async fn attach(&self, epoch: u64) -> Result<()> {
        let channel = Client::connect(&self.socket).await?.channel();
        let (reports, outgoing) = mpsc::channel(16);
        let mut first = self.report(0);
        first.hello = self.hello(epoch);
        reports.send(first).await?;
        let mut client = FilterServiceClient::new(channel);
        let mut commands = client.attach(ReceiverStream::new(outgoing)).await?.into_inner();
        let mut ask = 0;
        let mut pause = tokio::time::interval(PAUSE);
        loop {
            tokio::select! {
                command = commands.message() => match command? {
                    Some(command) => ask = command.ask,
                    None => return Ok(()),
                },
                _ = pause.tick() => {}
            }
            let mut report = self.report(ask);
            if self.claim == Claim::Nonsense {
                // Once too often, and of nobody.
                report.hello = Some(FilterHello::default());
            }
            reports.send(report).await?;
        }
    }

    fn hello(&self, epoch: u64) -> Option<FilterHello> {
        let stolen = FilterHello {
            node_id: self.node.clone(),
            process: 1,
            epoch,
            version: "0.1.0".to_owned(),
            ..FilterHello::default()
        };
        match self.claim {
            Claim::Epoch | Claim::Goodbye => Some(stolen),
            Claim::EpochFromElsewhere => Some(FilterHello {
                node_id: "stranger".to_owned(),
                ..stolen
            }),
            Claim::AnswersUnasked | Claim::HugeCounts | Claim::FreshNames => Some(FilterHello {
                epoch: !epoch,
                ..stolen
            }),
            Claim::Nonsense if epoch.is_multiple_of(2) => None,
            Claim::Nonsense => Some(FilterHello {
                node_id: String::new(),
                ..stolen
            }),
        }
    }

    fn report(&self, ask: u64) -> FilterReport {
        let count = if self.claim == Claim::HugeCounts {
            u64::MAX
        } else {
            0
        };
        let counts = |name: &str| ListenerCounts {
            name: name.to_owned(),
            in_flight: count,
            started: count,
            marked: count,
            ..ListenerCounts::default()
        };
        let unasked = matches!(self.claim, Claim::Epoch | Claim::AnswersUnasked | Claim::Nonsense);
        let fresh = if self.claim == Claim::FreshNames { FRESH } else { 0 };
        let fresh: Vec<String> = (0..fresh).map(|_| fastrand::u64(..).to_string()).collect();
        let upstream = |address: &String| UpstreamCounts {
            address: address.clone(),
            in_flight: 1,
            ..UpstreamCounts::default()
        };
        let names = ["ingress", "internal", "secure"].into_iter();
        FilterReport {
            listeners: names
                .chain(fresh.iter().map(String::as_str))
                .map(counts)
                .collect(),
            upstreams: fresh
                .iter()
                .map(upstream)
                .chain([UpstreamCounts::default()])
                .collect(),
            counts_upstreams: true,
            generation: u64::MAX,
            answers: if unasked { 1 << 63 } else { ask },
            goodbye: self.claim == Claim::Goodbye,
            ..FilterReport::default()
        }
    }
}
