//! Disks that cannot be written: full, and read-only.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    ebb::{Ebb, EbbOptions},
    wait,
    world::{folder, wait_attached},
};
use ebb_proto::v1::Phase;

use crate::{fleet, not_kept, of_node};

/// More drains than fit into what a state file has left inside.
const MANY: usize = 200;

/// A file system of its own; dropping it unmounts it.
struct Mount(PathBuf);

impl Mount {
    /// None where this user may not mount: then nothing is shown here, and CI fails.
    fn small(at: PathBuf) -> Result<Option<Self>> {
        std::fs::create_dir(&at)?;
        let mounted = Self::mount(&at, &["-t", "tmpfs", "-o", "size=8m", "tmpfs"]);
        if let Err(error) = &mounted {
            ensure!(
                std::env::var("CI").as_deref() != Ok("true"),
                "CI has to allow mounting a tmpfs: {error:#}"
            );
            eprintln!("SKIPPED, NOTHING IS SHOWN HERE: this user may not mount a tmpfs: {error:#}");
        }
        Ok(mounted.is_ok().then_some(Self(at)))
    }

    /// Turns it read-only, or back. Nobody may have a file of it open for writing.
    fn set_read_only(&self, read_only: bool) -> Result<()> {
        let options = if read_only { "remount,ro" } else { "remount,rw" };
        Self::mount(&self.0, &["-o", options])
    }

    fn mount(at: &Path, arguments: &[&str]) -> Result<()> {
        let mut mount = Command::new("mount");
        let output = mount.args(arguments).arg(at).output().context("mount")?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a process that still has a file there ends a moment later.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn on_a_full_disk_drains_go_on_the_caller_is_told_and_all_is_well_once_there_is_space() -> Result<()> {
    let folder = folder()?;
    let Some(mount) = Mount::small(folder.path().join("state"))? else {
        return Ok(());
    };
    let mut options = EbbOptions::in_folder(folder.path());
    options.state = Some(mount.0.clone());
    let _filters = fleet(&options.socket);
    let ebb = Ebb::start(options).await?;
    let mut client = ebb.client().await?;
    wait_attached(&mut client, "idle", 1).await?;
    let drain = client
        .start(of_node("idle", String::new(), wait::PATIENCE))
        .await?;
    assert_eq!(drain.warnings, Vec::<String>::new(), "{drain:?}");

    let filler = mount.0.join("filler");
    let filled = Command::new("dd")
        .args(["if=/dev/zero", "bs=4k"])
        .arg(format!("of={}", filler.display()))
        .output()?;
    ensure!(!filled.status.success(), "the disk should be full: {filled:?}");
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

    std::fs::remove_file(&filler)?;
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
    let Some(mount) = Mount::small(folder.path().join("state"))? else {
        return Ok(());
    };
    let mut options = EbbOptions::in_folder(folder.path());
    options.state = Some(mount.0.clone());
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
    mount.set_read_only(true)?;
    let probe = std::fs::write(mount.0.join("probe"), "");
    ensure!(probe.is_err(), "the disk should be read-only");
    let ebb = Ebb::start(options).await?;
    ensure!(ebb.log().contains("the state cannot be used"), "{}", ebb.log());
    let mut client = ebb.client().await?;
    wait_attached(&mut client, "idle", 1).await?;
    let told = client
        .start(of_node("idle", String::new(), wait::PATIENCE))
        .await?;
    assert!(not_kept(&told), "{told:?}");
    client
        .wait_for_phase(&told.id, Phase::Drained, wait::PATIENCE)
        .await?;
    assert!(!client.cancel(&told.id).await?.holding);

    mount.set_read_only(false)?;
    let kept = client
        .start(of_node("idle", String::new(), wait::PATIENCE))
        .await?;
    assert_eq!(kept.warnings, Vec::<String>::new(), "{kept:?}");
    let ebb = Ebb::start(ebb.kill().await?).await?;
    let mut client = ebb.client().await?;
    assert_eq!(client.drain(&before.id).await?.started_at, before.started_at);
    assert_eq!(client.drain(&kept.id).await?.started_at, kept.started_at);
    drop(ebb);
    Ok(())
}
