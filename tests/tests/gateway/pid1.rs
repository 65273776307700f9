//! `ebb run` as PID 1, as in a container.

use std::{fs, process::Command};

use anyhow::{Result, ensure};
use ebb_e2e::{
    bins::EnvoyVersion,
    gateway::{Gateway, journal, journal::What, witness},
    process::describe,
    upstream::Upstream,
    wait,
    world::folder,
};
use rustix::process::Signal;

use crate::world::setup;

/// Children, and children of children, whose parents have gone.
const DESCENDANTS: [&str; 2] = ["worker", "orphan"];

fn namespaces_are_allowed() -> bool {
    let arguments = ["--pid", "--fork", "--mount-proc", "true"];
    let tried = Command::new("unshare").args(arguments).output();
    tried.is_ok_and(|output| output.status.success())
}

#[tokio::test]
async fn as_pid_1_it_stops_a_tree_that_forks_in_order_and_leaves_nothing_behind() -> Result<()> {
    if !namespaces_are_allowed() {
        ensure!(
            std::env::var("CI").as_deref() != Ok("true"),
            "CI has to allow pid namespaces: `unshare --pid` failed"
        );
        eprintln!("skipped: `unshare --pid` is not permitted here");
        return Ok(());
    }
    let folder = folder()?;
    let upstream = Upstream::start().await?;
    let mut setup = setup(folder.path(), EnvoyVersion::V1_40, &upstream)?;
    setup.extend_command("python-executor", &["--forks"])?;
    let mut gateway = Gateway::spawn_as_pid_1(setup).await?;
    gateway.serves().await?;
    wait::until("the executor has forked", wait::PATIENCE, || async {
        let entries = gateway.journal()?;
        let started = |who: &str| {
            entries
                .iter()
                .any(|entry| entry.who == who && entry.what == What::Start)
        };
        Ok(DESCENDANTS.iter().all(|who| started(who)))
    })
    .await?;
    for one in witness::all(gateway.setup().folder()) {
        let status = fs::read_to_string(format!("/proc/{}/status", one.pid))?;
        let inside = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let inside = inside.and_then(|pids| pids.split_whitespace().nth(1));
        match one.command.as_str() {
            "unshare" => {}
            "ebb" => ensure!(inside == Some("1"), "ebb is not PID 1: {inside:?}"),
            _ => ensure!(inside.is_some(), "{one:?} is not in the namespace"),
        }
    }

    gateway.signal(Signal::TERM)?;
    let status = gateway.ended().await?;
    ensure!(status.success(), "{}", describe(status));
    gateway.nothing_is_left()?;
    // The kernel would have killed them with PID 1: they were told before, and only after the others had gone.
    let entries = gateway.journal()?;
    for who in ["python-executor"].iter().chain(&DESCENDANTS) {
        let term = journal::term(&entries, who)?;
        ensure!(
            matches!(&term.what, What::Term { alive, .. } if alive == &["python-executor"]),
            "{term:?}"
        );
    }
    let log = gateway.log();
    ensure!(!log.contains("killing a process"), "{log}");
    ensure!(log.contains("all stopped, exit code 0"), "{log}");
    Ok(())
}
