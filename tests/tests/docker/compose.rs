//! The compose project under test: as the plugin `docker compose`, or as the older `docker-compose`.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use ebb_e2e::{bins, wait};
use tokio::process::Command;

use crate::{
    command::{docker, run},
    images::BaseImages,
};

/// For questions to the daemon.
const ANSWER: Duration = Duration::from_secs(60);
/// For stopping and removing all containers.
const REMOVAL: Duration = Duration::from_secs(120);

/// A Compose that works here.
pub(crate) struct Compose {
    program: Vec<&'static str>,
}

impl Compose {
    /// Finds the Docker at hand.
    ///
    /// Fails with the reason when there is no daemon or no Compose.
    pub(crate) async fn find() -> Result<Self> {
        run(
            &mut docker(&["version", "--format", "{{.Server.Version}}"]),
            ANSWER,
        )
        .await
        .context("no Docker daemon answers")?;
        for program in [vec!["docker", "compose"], vec!["docker-compose"]] {
            let compose = Self { program };
            if run(compose.command().arg("version"), ANSWER).await.is_ok() {
                return Ok(compose);
            }
        }
        bail!("Docker is here, but neither `docker compose` nor `docker-compose`")
    }

    fn command(&self) -> Command {
        let (program, arguments) = self.program.split_first().unwrap_or((&"docker-compose", &[]));
        let mut command = Command::new(program);
        command.args(arguments);
        command
    }
}

/// One project with a name of its own. Dropping it removes everything that it made.
pub(crate) struct Project<'a> {
    compose: &'a Compose,
    images: &'a BaseImages,
    name: String,
}

impl<'a> Project<'a> {
    /// Names a project; nothing is started yet.
    pub(crate) fn new(compose: &'a Compose, images: &'a BaseImages) -> Self {
        let name = format!("ebb-test-{}-{:08x}", std::process::id(), fastrand::u32(..));
        Self {
            compose,
            images,
            name,
        }
    }

    /// Runs a Compose command on the shipped file and returns its standard output.
    pub(crate) async fn run(&self, arguments: &[&str], bound: Duration) -> Result<String> {
        run(self.command().args(arguments), bound).await
    }

    /// Waits until the health check of a service's container succeeds.
    pub(crate) async fn wait_until_healthy(&self, service: &str, bound: Duration) -> Result<()> {
        let label = format!("label=com.docker.compose.service={service}");
        let result = wait::until(format!("service `{service}` is healthy"), bound, || async {
            let status = self
                .list(&["ps", "--filter", &label, "--format", "{{.Status}}"])
                .await?;
            Ok(status.contains("(healthy)"))
        })
        .await;
        if result.is_err() {
            eprintln!(
                "{}",
                self.run(&["logs", "--no-color"], ANSWER)
                    .await
                    .unwrap_or_default()
            );
        }
        result
    }

    /// The address on this machine at which a service's port is published.
    pub(crate) async fn published_address(&self, service: &str, port: u16) -> Result<String> {
        let address = self.run(&["port", service, &port.to_string()], ANSWER).await?;
        Ok(address.trim().to_owned())
    }

    /// Stops and removes everything of the project, its images included.
    pub(crate) async fn down(&self) -> Result<()> {
        run(&mut self.down_command(), REMOVAL).await.map(drop)
    }

    /// Containers, volumes and networks that belong to the project.
    pub(crate) async fn leftovers(&self) -> Result<String> {
        let mut left = self.list(&["ps", "--all", "--quiet"]).await?;
        left += &self.list(&["volume", "ls", "--quiet"]).await?;
        left += &self.list(&["network", "ls", "--quiet"]).await?;
        let images = format!("reference={}*", self.name);
        left += &run(
            &mut docker(&["image", "ls", "--quiet", "--filter", &images]),
            ANSWER,
        )
        .await?;
        Ok(left)
    }

    async fn list(&self, arguments: &[&str]) -> Result<String> {
        let label = format!("label=com.docker.compose.project={}", self.name);
        run(docker(arguments).args(["--filter", &label]), ANSWER).await
    }

    fn command(&self) -> Command {
        let file = bins::repository().join("envoy-config/docker-compose.yaml");
        let mut command = self.compose.command();
        command
            .arg("--file")
            .arg(file)
            .args(["--project-name", &self.name]);
        // Port 0: Docker chooses a free one.
        command.envs([
            ("RUST_IMAGE", self.images.rust.as_str()),
            ("ENVOY_IMAGE", self.images.envoy.as_str()),
            ("EBB_LTO", "off"),
            ("EBB_INGRESS_PORT", "0"),
            ("EBB_INTERNAL_PORT", "0"),
        ]);
        command
    }

    fn down_command(&self) -> Command {
        let mut command = self.command();
        command.args([
            "--profile",
            "load",
            "down",
            "--volumes",
            "--remove-orphans",
            "--rmi",
            "local",
            "--timeout",
            "5",
        ]);
        command
    }
}

impl Drop for Project<'_> {
    /// Removes what a failed test left; after `down` this finds nothing.
    fn drop(&mut self) {
        let mut down = self.down_command().into_std();
        let Ok(mut child) = down.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
            return;
        };
        let start = Instant::now();
        while start.elapsed() < REMOVAL && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        // Of a child that has ended, `kill` is a no-op.
        let _ = child.kill();
        let _ = child.wait();
    }
}
