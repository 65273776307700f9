//! The demo, as `make demo` runs it: it reports, and it leaves nothing behind, however it ends.

use std::{fs, path::Path, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{process::spawn_bound_to_us, wait};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

/// Names the demo and everything that it starts: children inherit the environment.
const MARK: &str = "EBB_DEMO_TEST";

struct Demo {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    said: Vec<String>,
    /// Where it makes its folders.
    folder: TempDir,
}

impl Demo {
    fn start() -> Result<Self> {
        let folder = ebb_e2e::world::folder()?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
        command
            .arg("--quick")
            .env("TMPDIR", folder.path())
            .env(MARK, folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = spawn_bound_to_us(&mut command).context("cannot start the demo")?;
        let stdout = child.stdout.take().context("its standard output is not piped")?;
        Ok(Self {
            child,
            lines: BufReader::new(stdout).lines(),
            said: Vec::new(),
            folder,
        })
    }

    /// Reads on until a line begins with `start`, or to the end.
    async fn read_until(&mut self, start: Option<&str>) -> Result<()> {
        let what = format!("the demo says {start:?}");
        let reading = async {
            while let Some(line) = self.lines.next_line().await? {
                println!("{line}");
                let found = start.is_some_and(|start| line.trim_start().starts_with(start));
                self.said.push(line);
                if found {
                    return Ok(true);
                }
            }
            anyhow::Ok(false)
        };
        let found = wait::within(what, 3 * wait::PATIENCE, reading).await??;
        ensure!(found || start.is_none(), "the demo ended without {start:?}");
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok());
        let pid = pid.and_then(Pid::from_raw).context("the demo has ended")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Its exit code; none after a signal.
    async fn exit(&mut self) -> Result<Option<i32>> {
        let status = wait::within("the demo ends", wait::PATIENCE, self.child.wait()).await??;
        Ok(status.code())
    }

    /// Processes of the demo that run now.
    fn processes(&self) -> Result<Vec<String>> {
        let mark = format!("{MARK}={}", self.folder.path().display());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let folder = entry?.path();
            // Processes come and go; of those that are not ours the environment may be unreadable.
            let environment = fs::read(folder.join("environ")).unwrap_or_default();
            if environment
                .split(|&byte| byte == 0)
                .any(|one| one == mark.as_bytes())
            {
                found.push(fs::read_to_string(folder.join("comm")).unwrap_or_default());
            }
        }
        Ok(found)
    }

    /// Waits until no process of it is left: a killed one takes the kernel a moment.
    async fn no_process_is_left(&self) -> Result<()> {
        let what = "no process of the demo is left";
        wait::until(what, wait::PATIENCE, || async {
            let processes = self.processes()?;
            ensure!(processes.is_empty(), "still there: {processes:?}");
            Ok(true)
        })
        .await
    }

    /// Checks that neither a process nor a file is left.
    async fn nothing_is_left(&self) -> Result<()> {
        self.no_process_is_left().await?;
        let files = files_in(self.folder.path())?;
        ensure!(files.is_empty(), "files are left: {files:?}");
        Ok(())
    }
}

fn files_in(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder)?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

#[tokio::test]
async fn it_drains_and_stops_without_a_failed_request_and_reports() -> Result<()> {
    let mut demo = Demo::start()?;
    demo.read_until(None).await?;
    assert_eq!(demo.exit().await?, Some(0));
    let said = demo.said.join("\n");
    for part in [
        "$ ebb drain --listener ingress --wait",
        "by Connection: close",
        "by GOAWAY",
        "ingress   drained after",
        "from the end of the last response",
        "`ebb drain --wait` returned, exit code 0",
        "internal  untouched",
        "$ kill -TERM",
        "router           exited with code 0",
        "policy-engine    sent SIGTERM",
        "s for router to exit",
        "s for policy-engine to exit",
        "gateway   stopped after",
        "OK: 0 of ",
    ] {
        assert!(said.contains(part), "no `{part}` in the report");
    }
    demo.nothing_is_left().await
}

/// Ends the demo by `signal` once it has said `moment`, with Envoy and the control plane running.
async fn interrupted(moment: &str, signal: Signal, code: i32) -> Result<()> {
    let mut demo = Demo::start()?;
    demo.read_until(Some(moment)).await?;
    let running = demo.processes()?;
    ensure!(
        running.len() >= 3,
        "the demo, Envoy and ebb should run: {running:?}"
    );
    demo.signal(signal)?;
    demo.read_until(None).await?;
    assert_eq!(demo.exit().await?, Some(code));
    demo.nothing_is_left().await
}

#[tokio::test]
async fn ctrl_c_while_it_serves_leaves_nothing_behind() -> Result<()> {
    interrupted("Clients with", Signal::INT, 130).await
}

#[tokio::test]
async fn sigterm_while_it_drains_leaves_nothing_behind() -> Result<()> {
    interrupted("$ ebb drain", Signal::TERM, 143).await
}

#[tokio::test]
async fn sigterm_while_the_gateway_stops_leaves_nothing_behind() -> Result<()> {
    interrupted("$ kill -TERM", Signal::TERM, 143).await
}

#[tokio::test]
async fn killing_it_leaves_no_process_behind() -> Result<()> {
    for moment in ["$ ebb drain", "$ kill -TERM"] {
        let mut demo = Demo::start()?;
        demo.read_until(Some(moment)).await?;
        demo.signal(Signal::KILL)?;
        demo.exit().await?;
        demo.no_process_is_left().await?;
    }
    Ok(())
}
