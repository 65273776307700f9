//! The filter as its control plane sees it: every VM of one Envoy, and what each of them says.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use ebb_proto::v1::{Blocker, Directive, FilterCommand, FilterReport, UpstreamCounts};
use futures::future::{select_all, try_join_all};

use crate::{
    api::proto,
    fake_control::{Attached, FakeControl},
    wait,
};

/// A control plane of the test's own, to which the VMs of one Envoy attach.
#[derive(Debug)]
pub struct Vms {
    control: FakeControl,
    streams: Vec<Attached>,
    state: FilterCommand,
    /// When the directives were given: each sending of them says how much of their ramp has passed since.
    given: Instant,
    asks: u64,
}

impl Vms {
    /// Serves on a Unix socket; no VM is attached yet.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn listen(socket: &Path) -> Result<Self> {
        Ok(Self {
            control: FakeControl::start(socket)?,
            streams: Vec::new(),
            state: FilterCommand::default(),
            given: Instant::now(),
            asks: 0,
        })
    }

    /// Waits until the VMs of an Envoy with that many workers are attached, and says that nothing drains.
    ///
    /// # Errors
    /// When they are not within [`wait::PATIENCE`].
    pub async fn attach(&mut self, workers: u32) -> Result<()> {
        for _ in 0..=workers {
            self.streams.push(self.control.attached().await?);
        }
        self.command(Vec::new()).await
    }

    /// Whether there are more streams than VMs were expected.
    pub fn has_more_streams(&mut self) -> bool {
        self.control.attached_by_now().is_some()
    }

    /// Says what drains, and waits until every VM has applied it.
    ///
    /// # Errors
    /// When one has not within [`wait::PATIENCE`].
    pub async fn command(&mut self, directives: Vec<Directive>) -> Result<()> {
        self.state.generation += 1;
        self.state.directives = directives;
        self.given = Instant::now();
        self.ask(0).await?;
        Ok(())
    }

    /// Asks every VM, and returns their answers.
    ///
    /// # Errors
    /// When one does not answer within [`wait::PATIENCE`].
    pub async fn ask(&mut self, blockers: u32) -> Result<Vec<FilterReport>> {
        self.asks += 1;
        let mut command = FilterCommand {
            ask: self.asks,
            blockers,
            ..self.state.clone()
        };
        for directive in &mut command.directives {
            directive.elapsed = Some(proto(self.given.elapsed()));
        }
        let answers = self.streams.iter_mut().map(|stream| {
            let command = command.clone();
            async move {
                stream.send(command.clone()).await?;
                loop {
                    let report = next(stream).await?;
                    if report.answers == command.ask {
                        return anyhow::Ok(report);
                    }
                }
            }
        });
        wait::within("every VM answers", wait::PATIENCE, try_join_all(answers)).await?
    }

    /// The blockers of every VM, in the order of the reports.
    ///
    /// # Errors
    /// As [`Vms::ask`].
    pub async fn blockers(&mut self, most: u32) -> Result<Vec<Blocker>> {
        let answers = self.ask(most).await?.into_iter();
        Ok(answers.flat_map(|report| report.blockers).collect())
    }

    /// The attempts in flight and begun towards an endpoint, summed over the VMs; none = no VM has heard of it.
    ///
    /// # Errors
    /// As [`Vms::ask`].
    pub async fn upstream(&mut self, address: &str) -> Result<Option<(u64, u64)>> {
        let answers = self.ask(0).await?;
        let found = answers.iter().flat_map(|report| &report.upstreams);
        Ok(sum(found.filter(|counts| counts.address == address)))
    }

    /// Waits until that many attempts are in flight towards an endpoint.
    ///
    /// # Errors
    /// When they are not within [`wait::PATIENCE`].
    pub async fn wait_upstream(&mut self, address: &str, in_flight: u64) -> Result<()> {
        let start = Instant::now();
        loop {
            let now = self.upstream(address).await?.unwrap_or_default().0;
            if now == in_flight {
                return Ok(());
            }
            if start.elapsed() > wait::PATIENCE {
                bail!("waited in vain: {in_flight} in flight towards `{address}`, not {now}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The requests in flight on a listener, summed over the VMs.
    ///
    /// # Errors
    /// As [`Vms::ask`].
    pub async fn in_flight(&mut self, listener: &str) -> Result<u64> {
        let answers = self.ask(0).await?;
        let found = answers.iter().flat_map(|report| &report.listeners);
        Ok(found
            .filter(|counts| counts.name == listener)
            .map(|counts| counts.in_flight)
            .sum())
    }

    /// The next report that nobody has asked for, of whichever VM.
    ///
    /// # Errors
    /// When none comes within [`wait::PATIENCE`].
    pub async fn unasked(&mut self) -> Result<FilterReport> {
        let reports = self.streams.iter_mut().map(|stream| Box::pin(next(stream)));
        let first = wait::within("a VM reports by itself", wait::PATIENCE, select_all(reports)).await?;
        first.0
    }
}

/// The next report of a VM. Given up in the middle, it loses nothing.
async fn next(stream: &mut Attached) -> Result<FilterReport> {
    let report = stream.reports.message().await.context("a VM's stream broke")?;
    report.context("a VM has ended its stream")
}

fn sum<'a>(counts: impl Iterator<Item = &'a UpstreamCounts>) -> Option<(u64, u64)> {
    counts
        .map(|counts| (counts.in_flight, counts.started))
        .reduce(|one, other| (one.0 + other.0, one.1 + other.1))
}
