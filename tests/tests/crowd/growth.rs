//! A reporter with ever new names.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    ebb::{Ebb, EbbOptions},
    fake_filter::{FakeFilter, Identity},
    world::{folder, wait_attached},
};
use ebb_proto::v1::FilterReport;
use tonic::Code;

use crate::{Hostile, drain_of_node, names, resident};

/// Reports of ever new names, and how many names each has: a minute's worth of a filter that reports four times a second.
const ROUNDS: usize = 240;
const NAMES: usize = 4000;
/// What one VM may cost, in bytes, and what one peer may.
const OF_VM: u64 = 32 << 20;
const OF_PEER: u64 = 256 << 20;
/// What the state file may take.
const OF_FILE: u64 = 32 << 20;

#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// One VM that comes back whenever it is refused.
    OneVm,
    /// A new VM for every report; the old one just goes.
    NewVms,
    /// The same, and the old one says goodbye.
    Goodbyes,
}

#[tokio::test]
async fn one_vm_with_ever_new_names_costs_a_bounded_amount_of_memory() -> Result<()> {
    stays_bounded(Way::OneVm, OF_VM).await
}

#[tokio::test]
async fn one_peer_with_ever_new_vms_costs_a_bounded_amount_of_memory() -> Result<()> {
    stays_bounded(Way::NewVms, OF_PEER).await
}

#[tokio::test]
async fn vms_that_say_goodbye_leave_a_bounded_amount_of_memory_behind() -> Result<()> {
    stays_bounded(Way::Goodbyes, OF_VM).await
}

async fn stays_bounded(way: Way, bound: u64) -> Result<()> {
    let folder = folder()?;
    let mut options = EbbOptions::in_folder(folder.path());
    let state = folder.path().join("state");
    options.state = Some(state.clone());
    let ebb = Ebb::start(options).await?;
    let identity = Identity {
        node: "honest".to_owned(),
        process: 1,
        epoch: 1,
    };
    let honest = FakeFilter::start(ebb.socket(), identity, &["ingress"]);
    honest.set_in_flight(1);
    let mut client = ebb.client().await?;
    wait_attached(&mut client, "honest", 0).await?;
    // A drain of everything remembers all that its members have had.
    let drain = client
        .start(drain_of_node(None, Duration::from_secs(3600)))
        .await?;
    let pid = ebb.pid().context("it runs")?;
    let before = resident(pid)?;
    let mut refusals = 0;
    for round in 0..ROUNDS {
        let epoch = if way == Way::OneVm { 10 } else { 10 + round as u64 };
        if let Err(status) = speak(&ebb, epoch, round, way).await {
            refusals += 1;
            ensure!(
                status.message().contains("names") || status.message().contains("peer"),
                "{status}"
            );
        }
        if round % 40 == 39 {
            let grown = resident(pid)?.saturating_sub(before);
            println!("{round}: {grown} bytes more, {refusals} refusals");
            ensure!(grown < bound, "{grown} bytes more after {round} rounds");
            works(&ebb).await?;
        }
    }
    ensure!(way == Way::Goodbyes || refusals > 0, "nothing was refused");
    client.cancel(&drain.id).await?;
    works(&ebb).await?;
    let size = fs::metadata(state.join("ebb.redb"))?.len();
    ensure!(size < OF_FILE, "the state takes {size} bytes");
    let ebb = Ebb::start(ebb.kill().await?).await?;
    works(&ebb).await?;
    let grown = resident(ebb.pid().context("it runs")?)?.saturating_sub(before);
    ensure!(grown < bound, "{grown} bytes more after the restart");
    Ok(())
}

/// Names listeners, in answer to what it is told, so that the drain counts them.
async fn speak(ebb: &Ebb, epoch: u64, round: usize, way: Way) -> Result<(), tonic::Status> {
    let mut vm = Hostile::attach(ebb.socket(), epoch, names(round, NAMES)).await?;
    vm.answer(names(round, NAMES)).await?;
    if way == Way::Goodbyes {
        let goodbye = FilterReport {
            goodbye: true,
            ..names(round, NAMES)
        };
        let _ = vm.reports.send(goodbye).await;
    }
    let Hostile {
        reports,
        mut commands,
    } = vm;
    // Whatever it says after this it has heard the rest.
    drop(reports);
    loop {
        match commands.message().await {
            Ok(Some(_)) => {}
            // What ends the stream is that this side has ended it.
            Ok(None) => return Ok(()),
            Err(status) if status.code() == Code::Unavailable => return Ok(()),
            Err(status) => return Err(status),
        }
    }
}

async fn works(ebb: &Ebb) -> Result<()> {
    for format in ["text", "json"] {
        let status = ebb.cli(&["status", "-o", format]).await?;
        ensure!(status.code == Some(0), "ebb status fails: {}", status.stderr);
        ensure!(status.stdout.contains("honest"), "{}", status.stdout);
    }
    Ok(())
}
