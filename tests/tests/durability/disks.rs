//! Disks that cannot be written: full, and read-only. And a file that cannot be read.

use std::{os::unix::fs::FileExt as _, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    disk::Disk,
    ebb::{Ebb, EbbOptions},
    fake_filter::FakeFilter,
    wait,
    world::{folder, wait_attached},
};
use ebb_proto::v1::{Drain, Phase};

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

/// A control plane with one drain that has ended, holds, and is kept; then its disk is full, and its file too.
async fn holding_on_a_full_disk(folder: &Path, disk: &Disk) -> Result<(Ebb, Drain, Vec<FakeFilter>)> {
    let mut options = EbbOptions::in_folder(folder);
    options.state = Some(disk.path().to_path_buf());
    let filters = fleet(&options.socket);
    let ebb = Ebb::start(options).await?;
    let mut client = ebb.client().await?;
    wait_attached(&mut client, "idle", 1).await?;
    let request = || of_node("idle", String::new(), wait::PATIENCE);
    let drain = client.start(request()).await?;
    let held = client
        .wait_for_phase(&drain.id, Phase::Drained, wait::PATIENCE)
        .await?;
    ensure!(held.holding && !not_kept(&held), "{held:?}");
    disk.fill()?;
    for _ in 0..MANY {
        // Of a scope of their own, or they would take over what the first holds.
        let mut other = request();
        if let Some(scope) = &mut other.scope {
            scope.listeners = vec!["ingress".to_owned()];
        }
        let other = client.start(other).await?;
        if not_kept(&other) {
            return Ok((ebb, drain, filters));
        }
    }
    anyhow::bail!("the disk is full, and nobody was told")
}

#[tokio::test]
async fn a_cancel_on_a_full_disk_is_told_and_kept_as_soon_as_there_is_space() -> Result<()> {
    let folder = folder()?;
    let Some(disk) = Disk::tmpfs(folder.path().join("state"))? else {
        return Ok(());
    };
    let (ebb, drain, _filters) = holding_on_a_full_disk(folder.path(), &disk).await?;
    let mut client = ebb.client().await?;
    let cancelled = client.cancel(&drain.id).await?;
    assert!(!cancelled.holding && not_kept(&cancelled), "{cancelled:?}");
    assert!(not_kept(&client.drain(&drain.id).await?), "for whoever asks");
    let said = ebb.cli(&["cancel", &drain.id]).await?;
    let words = "it would not survive a restart of the control plane";
    assert!(said.code == Some(0) && said.stderr.contains(words), "{said:?}");

    disk.make_space()?;
    wait::until(
        "it is written, and nobody is warned any more",
        wait::PATIENCE,
        || {
            let (mut client, id) = (client.clone(), drain.id.clone());
            async move { Ok(!not_kept(&client.drain(&id).await?)) }
        },
    )
    .await?;
    let ebb = Ebb::start(ebb.kill().await?).await?;
    let known = ebb.client().await?.drain(&drain.id).await?;
    assert!(!known.holding && !not_kept(&known), "{known:?}");
    drop(ebb);
    Ok(())
}

#[tokio::test]
async fn what_could_not_be_written_is_written_before_a_stop() -> Result<()> {
    let folder = folder()?;
    let Some(disk) = Disk::tmpfs(folder.path().join("state"))? else {
        return Ok(());
    };
    let (ebb, drain, _filters) = holding_on_a_full_disk(folder.path(), &disk).await?;
    let cancelled = ebb.client().await?.cancel(&drain.id).await?;
    assert!(!cancelled.holding && not_kept(&cancelled), "{cancelled:?}");
    disk.make_space()?;
    let ebb = Ebb::start(ebb.terminate().await?).await?;
    assert!(!ebb.client().await?.drain(&drain.id).await?.holding);
    drop(ebb);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_written_before_a_stop_is_named() -> Result<()> {
    let folder = folder()?;
    let Some(disk) = Disk::tmpfs(folder.path().join("state"))? else {
        return Ok(());
    };
    let (ebb, drain, _filters) = holding_on_a_full_disk(folder.path(), &disk).await?;
    ebb.client().await?.cancel(&drain.id).await?;
    let options = ebb.terminate().await?;
    let log = std::fs::read_to_string(&options.log)?;
    let told = log.lines().find(|line| line.contains("the state is not written"));
    let told = told.with_context(|| format!("not told: {log}"))?;
    assert!(told.contains("ERROR") && told.contains(&drain.id), "{told}");
    Ok(())
}

#[tokio::test]
async fn a_state_that_is_broken_is_moved_aside_and_the_control_plane_serves() -> Result<()> {
    let folder = folder()?;
    let state = folder.path().join("state");
    let mut options = EbbOptions::in_folder(folder.path());
    options.state = Some(state.clone());
    let _filters = fleet(&options.socket);
    let mut ebb = Ebb::start(options).await?;
    for page in 1..12 {
        let mut client = ebb.client().await?;
        wait_attached(&mut client, "idle", 1).await?;
        let drain = client
            .start(of_node("idle", String::new(), wait::PATIENCE))
            .await?;
        client
            .wait_for_phase(&drain.id, Phase::Drained, wait::PATIENCE)
            .await?;
        // What was not closed is looked through when it is opened; what was closed is trusted.
        let options = if page % 2 == 0 {
            ebb.kill().await?
        } else {
            ebb.terminate().await?
        };
        let file = std::fs::File::options()
            .write(true)
            .open(state.join("ebb.redb"))?;
        file.write_all_at(&[0xff; 4096], page * 4096)?;
        ebb = Ebb::start(options).await?;
    }
    let log = ebb.log();
    let told = log.lines().find(|line| line.contains("the state is broken"));
    let told = told.with_context(|| format!("not told: {log}"))?;
    assert!(
        told.contains("ERROR") && told.contains("ebb.redb.broken-"),
        "{told}"
    );
    let aside = std::fs::read_dir(&state)?.flatten();
    let aside = aside.filter(|file| file.file_name().to_string_lossy().contains(".broken-"));
    assert_eq!(aside.count(), log.matches("the state is broken").count());
    let mut client = ebb.client().await?;
    wait_attached(&mut client, "idle", 1).await?;
    let kept = client
        .start(of_node("idle", String::new(), wait::PATIENCE))
        .await?;
    assert_eq!(kept.warnings, Vec::<String>::new(), "{kept:?}");
    let ebb = Ebb::start(ebb.kill().await?).await?;
    let known = ebb.client().await?.drain(&kept.id).await?;
    assert_eq!(known.started_at, kept.started_at);
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
