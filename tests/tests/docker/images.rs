//! Stand-ins for the public base images, built from what this machine has, and kept between runs.

use std::{
    fs,
    hash::{DefaultHasher, Hasher as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use ebb_e2e::bins::{self, EnvoyVersion};
use tokio::process::Command;

use crate::command::{docker, run};

/// For building one stand-in: about 1 GB is copied.
const STAND_IN: Duration = Duration::from_secs(5 * 60);
/// For questions to the daemon, and for a build that finds everything in the cache.
const ANSWER: Duration = Duration::from_secs(120);

const RUST: &str = "ebb-test-rust";
const ENVOY: &str = "ebb-test-envoy";
const BUILD_CACHE: &str = "ebb-test-build:latest";

/// The tags of the stand-ins.
pub(crate) struct BaseImages {
    /// In place of `rust`.
    pub(crate) rust: String,
    /// In place of `envoyproxy/envoy`.
    pub(crate) envoy: String,
}

impl BaseImages {
    /// Builds those stand-ins that are not there yet. Their tags name what they are made of.
    pub(crate) async fn prepare() -> Result<Self> {
        let repository = bins::repository();
        let lock = fs::read(repository.join("Cargo.lock")).context("cannot read Cargo.lock")?;
        let rustc = run(Command::new("rustc").arg("-vV"), ANSWER).await?;
        let gcc = run(Command::new("gcc").arg("--version"), ANSWER)
            .await
            .context("a linker is needed")?;
        let script = script("rust-image.sh");
        let rust = tag(RUST, &(&lock, rustc, gcc, fs::read(&script)?));
        ensure_image(&rust, Command::new(&script).arg(&rust).arg(&repository)).await?;

        let binary = bins::envoy(EnvoyVersion::V1_40)?.canonicalize()?;
        let script = self::script("envoy-image.sh");
        let metadata = fs::metadata(&binary)?;
        let envoy = tag(
            ENVOY,
            &(&binary, metadata.len(), metadata.modified()?, fs::read(&script)?),
        );
        ensure_image(&envoy, Command::new(&script).arg(&envoy).arg(&binary)).await?;
        Ok(Self { rust, envoy })
    }

    /// Keeps the build stage of the images that were just built for the next run, and removes its predecessor and
    /// the stand-ins of earlier runs: without BuildKit, nothing else ever removes them.
    pub(crate) async fn keep_build_cache(&self) -> Result<()> {
        let repository = bins::repository();
        let before = image_ids(BUILD_CACHE).await?;
        let dockerfile = repository.join("envoy-config/Dockerfile");
        let mut build = docker(&[
            "build",
            "--quiet",
            "--target",
            "build",
            "--tag",
            BUILD_CACHE,
            "--file",
        ]);
        build
            .arg(dockerfile)
            .args(["--build-arg", &format!("RUST_IMAGE={}", self.rust)])
            .args(["--build-arg", "LTO=off"])
            .arg(repository);
        run(&mut build, ANSWER).await?;
        let after = image_ids(BUILD_CACHE).await?;

        let old = before.into_iter().filter(|id| !after.contains(id));
        let tags = [image_tags(RUST).await?, image_tags(ENVOY).await?].concat();
        let unused = tags
            .into_iter()
            .filter(|tag| *tag != self.rust && *tag != self.envoy);
        for image in old.chain(unused) {
            // Another run may be using it: then it stays.
            if let Err(error) = run(&mut docker(&["rmi", &image]), ANSWER).await {
                eprintln!("kept {image}: {error:#}");
            }
        }
        Ok(())
    }
}

async fn ensure_image(tag: &str, build: &mut Command) -> Result<()> {
    if image_ids(tag).await?.is_empty() {
        run(build, STAND_IN).await?;
    }
    Ok(())
}

async fn image_ids(tag: &str) -> Result<Vec<String>> {
    lines(&["image", "ls", "--quiet", "--no-trunc", tag]).await
}

async fn image_tags(name: &str) -> Result<Vec<String>> {
    lines(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}", name]).await
}

async fn lines(arguments: &[&str]) -> Result<Vec<String>> {
    let printed = run(&mut docker(arguments), ANSWER).await?;
    Ok(printed.lines().map(str::to_owned).collect())
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/docker")
        .join(name)
}

fn tag(name: &str, contents: &impl std::hash::Hash) -> String {
    let mut hasher = DefaultHasher::new();
    contents.hash(&mut hasher);
    format!("{name}:{:016x}", hasher.finish())
}
