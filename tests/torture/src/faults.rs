//! Carrying out faults. What cannot be done here is noted as not done, with the reason.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::client::http1;
use rustix::process::Signal;

use crate::{
    crowd,
    journal::{EnvoyEnd, FaultSeen, Moment, Why},
    schedule::{Claim, Fault, FaultPlan, Harmless, Listener},
    stranger,
    world::{World, can_step},
};

/// Does what a plan says, and undoes it when its time has come.
pub async fn run(world: Arc<World>, plan: FaultPlan, start: Moment) -> (FaultSeen, Option<EnvoyEnd>) {
    world
        .clock
        .sleep_until(start + Duration::from_millis(plan.at))
        .await;
    let from = world.clock.now();
    let done = carry_out(&world, plan.fault).await;
    let end = match (plan.fault, &done) {
        (Fault::EnvoyKilled(envoy) | Fault::EnvoyTerminated(envoy), Ok(())) => Some(EnvoyEnd {
            envoy,
            at: from,
            why: Why::Fault,
        }),
        _ => None,
    };
    let seen = FaultSeen {
        fault: plan.fault,
        from,
        until: world.clock.now(),
        skipped: done.err().map(|error| format!("{error:#}")),
    };
    (seen, end)
}

async fn carry_out(world: &World, fault: Fault) -> Result<()> {
    let time = Duration::from_millis;
    match fault {
        Fault::ControlKilled(away) => world.control.restart(true, time(away), || Ok(())).await,
        Fault::ControlTerminated(away) => world.control.restart(false, time(away), || Ok(())).await,
        Fault::ControlPaused(length) => world.control.pause(time(length)).await,
        Fault::EnvoyPaused(envoy, length) => {
            let envoy = world.envoy(envoy)?;
            envoy.signal(Signal::STOP)?;
            tokio::time::sleep(time(length)).await;
            // It may have been stopped for good meanwhile.
            let _ = envoy.signal(Signal::CONT);
            Ok(())
        }
        Fault::EnvoyKilled(envoy) => end(world, envoy, Signal::KILL).await,
        Fault::EnvoyTerminated(envoy) => end(world, envoy, Signal::TERM).await,
        Fault::StreamsCut(envoy, length) => {
            let relay = world.envoy(envoy)?.relay().context("there is no relay")?;
            relay.cut_all(true);
            tokio::time::sleep(time(length)).await;
            relay.cut_all(false);
            Ok(())
        }
        Fault::StreamsSilent(envoy, length) => {
            let relay = world.envoy(envoy)?.relay().context("there is no relay")?;
            relay.silence_all(true);
            tokio::time::sleep(time(length)).await;
            relay.silence_all(false);
            Ok(())
        }
        Fault::VmTrapped(envoy) => trap(world, envoy).await,
        Fault::DiskFull(length) => {
            let disk = world.disk().await?;
            disk.fill()?;
            tokio::time::sleep(time(length)).await;
            disk.make_space()
        }
        Fault::DiskReadOnly(length) => {
            let disk = world.disk().await?;
            let away = Duration::ZERO;
            let restarted = world.control.restart(true, away, || disk.set_read_only(true));
            let restarted = restarted.await;
            tokio::time::sleep(time(length)).await;
            disk.set_read_only(false)?;
            restarted
        }
        Fault::DiskHangs(length) => {
            let disk = world.disk().await?;
            let status = disk.hang_for(time(length))?.wait().await?;
            ensure!(status.success(), "the disk cannot be frozen");
            Ok(())
        }
        Fault::Stranger(claim, length) => lie(world, claim, time(length)).await,
        Fault::ControlSignalled(harmless) => {
            world
                .control
                .signal(match harmless {
                    Harmless::Hup => Signal::HUP,
                    Harmless::Usr1 => Signal::USR1,
                    Harmless::Usr2 => Signal::USR2,
                })
                .await
        }
        Fault::StateBroken(page) => {
            let away = Duration::ZERO;
            world
                .control
                .restart(true, away, || world.control.break_state(page))
                .await
        }
        Fault::IdleConnections(number, length) => crowd::idle(world, number, time(length)).await,
        Fault::Watchers(number, length) => crowd::watchers(world, number, time(length)).await,
        Fault::ClockStep(seconds) => {
            ensure!(can_step(), "libfaketime is not there");
            world.control.step(seconds)
        }
    }
}

async fn end(world: &World, envoy: usize, signal: Signal) -> Result<()> {
    let ran = world.envoy(envoy)?.end(signal).await?;
    ensure!(ran, "it has ended already");
    Ok(())
}

/// Sends the request at which a VM of this build traps.
async fn trap(world: &World, envoy: usize) -> Result<()> {
    ensure!(world.plan.trap, "this build does not trap");
    let dialer = world.dialer(envoy, Listener::Internal).context("it has ended")?;
    let mut connection = http1::Connection::open(dialer.address).await?;
    let id = world.next_id();
    let path = format!("/a/{id}/0/0/0");
    let response = connection.get_with(&path, "x-ebb-test-trap: 1\r\n").await?;
    ensure!(
        response.status == 200,
        "the request that traps was answered {}",
        response.status
    );
    Ok(())
}

/// Has a process of its own attach as a filter and lie.
async fn lie(world: &World, claim: Claim, length: Duration) -> Result<()> {
    let victim = world.plan.envoys.first().context("there is no Envoy")?.node;
    let nodes = world.control.client().await?.nodes().await?;
    let reporters = nodes.into_iter().filter(|node| node.id == victim);
    let epoch = reporters.flat_map(|node| node.reporters).next_back();
    let lie = stranger::Lie {
        socket: world.control.socket(),
        claim,
        node: victim.to_owned(),
        epoch: epoch.context("no VM is attached")?.id,
        milliseconds: u64::try_from(length.as_millis())?,
    };
    let mut child = lie.start(&world.torture)?;
    let status = child.wait().await?;
    ensure!(status.success(), "the stranger ended with {status}");
    Ok(())
}
