//! Stops while the disk hangs. The kernel lets no process go of which a write hangs, so that what is judged is what it does until
//! then: it has ended, and is a zombie.

use std::{
    ffi::OsString,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    bins,
    disk::Disk,
    ebb::{Ebb, EbbOptions},
    fake_filter::{FakeFilter, Identity},
    process::{Process, Spec},
    stalls::Stalls,
    wait,
    world::{folder, wait_attached},
};
use rustix::process::Signal;
use tokio::process::Child;

use crate::drain_of_node;

/// Longer than everything that is waited for here.
const HANGS: Duration = Duration::from_secs(20);
/// What an orchestrator gives.
const GRACE: Duration = Duration::from_secs(9);

/// Whether a process has ended, also one that the kernel does not let go yet.
fn has_ended(pid: u32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
        return true;
    };
    status.lines().any(|line| line.starts_with("State:\tZ"))
}

#[tokio::test]
async fn processes_are_stopped_in_time_and_none_is_blamed_while_the_disk_hangs() -> Result<()> {
    let folder = folder()?;
    let Some(disk) = Disk::ext4(folder.path().join("disk"), &folder.path().join("image"))? else {
        return Ok(());
    };
    let path = |name: &str| folder.path().join(name);
    let config = format!(
        r#"
        [control_plane]
        listen = "unix:{socket}"
        state = "{state}"
        [shutdown]
        grace_period = "{GRACE:?}"
        [[process]]
        name = "first"
        command = ["sleep", "1000"]
        [[process]]
        name = "second"
        command = ["sleep", "1000"]
        depends_on = ["first"]
        "#,
        socket = path("ebb.sock").display(),
        state = disk.path().join("state").display(),
    );
    fs::write(path("ebb.toml"), config)?;
    let ebb = Process::spawn(Spec {
        name: "ebb".to_owned(),
        program: bins::ebb()?,
        args: vec!["run".into(), "--config".into(), path("ebb.toml").into()],
        env: vec![
            ("EBB_LOG".into(), "info".into()),
            ("EBB_GRACE_PERIOD".into(), OsString::new()),
        ],
        log: path("ebb.log"),
        show_log: true,
    })?;
    let pid = ebb.pid().context("it runs")?;
    wait::until("both processes run", wait::PATIENCE, || async {
        Ok(ebb.log().matches("ready after").count() == 2)
    })
    .await?;
    let mut hangs = disk.hang_for(HANGS)?;
    wait::until("the disk hangs", wait::PATIENCE, || async {
        Ok(is_frozen(&hangs))
    })
    .await?;
    let (stalls, began) = (Stalls::measure(), Instant::now());
    ebb.signal(Signal::TERM)?;
    wait::until("it has ended", HANGS, || async { Ok(has_ended(pid)) }).await?;
    let took = began.elapsed();
    ensure!(
        took <= GRACE + stalls.within(began, Instant::now()),
        "it took {took:?}"
    );
    ensure!(hangs.try_wait()?.is_none(), "the disk was back before");
    let log = ebb.log();
    ensure!(log.contains("all stopped, exit code 0"), "{log}");
    ensure!(log.contains("the state is not written"), "{log}");
    for process in ["first", "second"] {
        let told = log
            .lines()
            .filter(|line| line.contains(&format!("process=\"{process}\"")));
        let blamed =
            told.filter(|line| line.contains("WARN") || line.contains("ERROR") || line.contains("SIGKILL"));
        ensure!(blamed.count() == 0, "{process} is blamed: {log}");
    }
    hangs.wait().await?;
    Ok(())
}

#[tokio::test]
async fn the_control_plane_ends_in_time_and_says_what_is_not_written_while_the_disk_hangs() -> Result<()> {
    let folder = folder()?;
    let Some(disk) = Disk::ext4(folder.path().join("disk"), &folder.path().join("image"))? else {
        return Ok(());
    };
    let mut options = EbbOptions::in_folder(folder.path());
    options.state = Some(disk.path().join("state"));
    let ebb = Ebb::start(options).await?;
    let identity = Identity {
        node: "honest".to_owned(),
        process: 1,
        epoch: 1,
    };
    let _honest = FakeFilter::start(ebb.socket(), identity, &["ingress"]);
    let mut client = ebb.client().await?;
    wait_attached(&mut client, "honest", 0).await?;
    let mut hangs = disk.hang_for(HANGS)?;
    wait::until("the disk hangs", wait::PATIENCE, || async {
        Ok(is_frozen(&hangs))
    })
    .await?;
    client.start(drain_of_node(None, Duration::from_secs(60))).await?;
    let pid = ebb.pid().context("it runs")?;
    let (stalls, began) = (Stalls::measure(), Instant::now());
    let stopping = tokio::spawn(ebb.terminate());
    wait::until("it has ended", HANGS, || async { Ok(has_ended(pid)) }).await?;
    let took = began.elapsed();
    ensure!(
        took <= GRACE + stalls.within(began, Instant::now()),
        "it took {took:?}"
    );
    ensure!(hangs.try_wait()?.is_none(), "the disk was back before");
    hangs.wait().await?;
    let options = stopping.await??;
    let log = fs::read_to_string(&options.log)?;
    ensure!(
        log.contains("the state is not written") && log.contains("stopped"),
        "{log}"
    );
    Ok(())
}

/// Whether the disk hangs already: then the process that has it do so sleeps.
fn is_frozen(hangs: &Child) -> bool {
    let children =
        |pid: u32| fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let sleeps =
        |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sleep");
    hangs
        .id()
        .is_some_and(|pid| children(pid).split_whitespace().any(sleeps))
}
