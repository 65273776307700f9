//! Disks that cannot be written: full, and read-only.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    disk::Disk,
    ebb::{Ebb, EbbOptions},
    wait,
    world::{folder, wait_attached},
};
use ebb_proto::v1::Phase;

use crate::{fleet, not_kept, of_node};

/// More drains than fit into what a state file has left inside.
const MANY: usize = 200;

#[tokio::test]
async fn on_a_full_disk_drains_go_on_the_caller_is_told_and_all_is_well_once_there_is_space() -> Result<()> {
    let folder = folder()?;
    let Some(disk) = Disk::tmpfs(folder.path().join("state"))? else {
        return Ok(());
    };
    let mut options = EbbOptions::in_folder(folder.path());
    options.state = Some(disk.path().to_path_buf());
    let _filters = fleet(&options.socket);
    let ebb = Ebb::start(options).await?;
    let mut client = ebb.client().await?;
    wait_attached(&mut client, "idle", 1).await?;
    let drain = client
        .start(of_node("idle", String::new(), wait::PATIENCE))
        .await?;
    assert_eq!(drain.warnings, Vec::<String>::new(), "{drain:?}");

    disk.fill()?;
    // The file has some space left inside.
    let mut told = None;
    for _ in 0..MANY {
        let drain = client
            .start(of_node("idle", String::new(), wait::PATIENCE))
            .await?;
        if not_kept(&drain) {
            told = Some(drain);
            break;
        }
    }
    let told = told.context("the disk is full, and nobody was told")?;
    client
        .wait_for_phase(&told.id, Phase::Drained, wait::PATIENCE)
        .await?;
    assert_eq!(client.cancel(&told.id).await?.phase(), Phase::Drained);

    disk.make_space()?;
    let kept = client
        .start(of_node("idle", String::new(), wait::PATIENCE))
        .await?;
    assert_eq!(kept.warnings, Vec::<String>::new(), "{kept:?}");
    let ebb = Ebb::start(ebb.kill().await?).await?;
    let mut client = ebb.client().await?;
    assert_eq!(client.drain(&drain.id).await?.started_at, drain.started_at);
    assert_eq!(client.drain(&kept.id).await?.started_at, kept.started_at);
    drop(ebb);
    Ok(())
}

#[tokio::test]
async fn on_a_read_only_disk_drains_go_on_the_caller_is_told_and_all_is_well_once_it_can_be_written()
-> Result<()> {
    let folder = folder()?;
    let Some(disk) = Disk::tmpfs(folder.path().join("state"))? else {
        return Ok(());
    };
    let mut options = EbbOptions::in_folder(folder.path());
    options.state = Some(disk.path().to_path_buf());
    let _filters = fleet(&options.socket);
    let ebb = Ebb::start(options).await?;
    let mut client = ebb.client().await?;
    wait_attached(&mut client, "idle", 1).await?;
    let before = client
        .start(of_node("idle", String::new(), wait::PATIENCE))
        .await?;
    assert_eq!(before.warnings, Vec::<String>::new(), "{before:?}");
    client
        .wait_for_phase(&before.id, Phase::Drained, wait::PATIENCE)
        .await?;

    let options = ebb.kill().await?;
    disk.set_read_only(true)?;
    let probe = std::fs::write(disk.path().join("probe"), "");
    ensure!(probe.is_err(), "the disk should be read-only");
    let ebb = Ebb::start(options).await?;
    ensure!(ebb.log().contains("the state cannot be used"), "{}", ebb.log());
    let mut client = ebb.client().await?;
    assert_eq!(client.drain(&before.id).await?.started_at, before.started_at);
    wait_attached(&mut client, "idle", 1).await?;
    let told = client
        .start(of_node("idle", String::new(), wait::PATIENCE))
        .await?;
    assert!(not_kept(&told), "{told:?}");
    client
        .wait_for_phase(&told.id, Phase::Drained, wait::PATIENCE)
        .await?;
    assert!(!client.cancel(&told.id).await?.holding);

    disk.set_read_only(false)?;
    let kept = client
        .start(of_node("idle", String::new(), wait::PATIENCE))
        .await?;
    assert_eq!(kept.warnings, Vec::<String>::new(), "{kept:?}");
    let ebb = Ebb::start(ebb.kill().await?).await?;
    let mut client = ebb.client().await?;
    for drain in [before, told, kept] {
        assert_eq!(client.drain(&drain.id).await?.started_at, drain.started_at);
    }
    drop(ebb);
    Ok(())
}

#[tokio::test]
async fn on_a_disk_that_hangs_deadlines_are_kept_and_nothing_is_lost_once_it_is_back() -> Result<()> {
    let folder = folder()?;
    let Some(disk) = Disk::ext4(folder.path().join("disk"), &folder.path().join("image"))? else {
        return Ok(());
    };
    let mut options = EbbOptions::in_folder(folder.path());
    options.state = Some(disk.path().join("state"));
    let _filters = fleet(&options.socket);
    let ebb = Ebb::start(options).await?;
    let mut client = ebb.client().await?;
    for node in ["busy", "idle"] {
        wait_attached(&mut client, node, 1).await?;
    }
    let mut hangs = disk.hang_for(Duration::from_secs(8))?;
    wait::until("a caller is told that the disk hangs", wait::PATIENCE, || {
        let mut client = client.clone();
        async move {
            let request = of_node("idle", String::new(), wait::PATIENCE);
            Ok(not_kept(&client.start(request).await?))
        }
    })
    .await?;
    let request = of_node("busy", String::new(), Duration::from_secs(1));
    let drain = client.start(request).await?;
    client
        .wait_for_phase(&drain.id, Phase::TimedOut, wait::PATIENCE)
        .await?;
    assert!(
        hangs.try_wait()?.is_none(),
        "the drain ended only when the disk was back"
    );
    hangs.wait().await?;
    wait::until("what was late is written", wait::PATIENCE, || async {
        Ok(ebb.log().contains("the state is written again"))
    })
    .await?;
    let ebb = Ebb::start(ebb.kill().await?).await?;
    let known = ebb.client().await?.drain(&drain.id).await?;
    assert_eq!(
        (known.phase(), known.started_at),
        (Phase::TimedOut, drain.started_at)
    );
    drop(ebb);
    Ok(())
}
