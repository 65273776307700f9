//! File systems of a test's own, to be full, read-only, or hanging.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tokio::process::Child;

/// Of an ext4 that holds a state file with room to spare, in bytes.
const IMAGE: u64 = 16 << 20;

/// A mounted file system; dropping it unmounts it.
#[derive(Debug)]
pub struct Disk(PathBuf);

impl Disk {
    /// Mounts a small tmpfs at a folder that is made for it. None where this user may not mount: then nothing can be shown,
    /// and CI fails.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn tmpfs(at: PathBuf) -> Result<Option<Self>> {
        fs::create_dir(&at)?;
        let mounted = mount(&at, &["-t", "tmpfs", "-o", "size=8m", "tmpfs"]);
        Self::if_allowed(at, mounted)
    }

    /// As [`Disk::tmpfs`], an ext4 in the file `image`, which is made: this one can hang.
    ///
    /// # Errors
    /// When the folder or the file cannot be made.
    pub fn ext4(at: PathBuf, image: &Path) -> Result<Option<Self>> {
        fs::create_dir(&at)?;
        fs::File::create(image)?.set_len(IMAGE)?;
        let made = run(Command::new("mkfs.ext4").arg("-q").arg(image));
        let device = image.to_string_lossy();
        let mounted = made.and_then(|()| mount(&at, &["-o", "loop", &device]));
        Self::if_allowed(at, mounted)
    }

    fn if_allowed(at: PathBuf, mounted: Result<()>) -> Result<Option<Self>> {
        if let Err(error) = &mounted {
            ensure!(
                std::env::var("CI").as_deref() != Ok("true"),
                "CI has to allow mounting a disk: {error:#}"
            );
            eprintln!("SKIPPED, NOTHING IS SHOWN HERE: this user may not mount a disk: {error:#}");
        }
        Ok(mounted.is_ok().then_some(Self(at)))
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Turns it read-only, or back. Nobody may have a file of it open for writing.
    ///
    /// # Errors
    /// When somebody has.
    pub fn set_read_only(&self, read_only: bool) -> Result<()> {
        mount(
            &self.0,
            &["-o", if read_only { "remount,ro" } else { "remount,rw" }],
        )
    }

    /// Leaves no space on it.
    ///
    /// # Errors
    /// When there still is some.
    pub fn fill(&self) -> Result<()> {
        let filled = Command::new("dd")
            .args(["if=/dev/zero", "bs=4k"])
            .arg(format!("of={}", self.filler().display()))
            .output()?;
        ensure!(!filled.status.success(), "the disk should be full: {filled:?}");
        Ok(())
    }

    /// Gives back what [`Disk::fill`] took.
    ///
    /// # Errors
    /// When it was not filled.
    pub fn make_space(&self) -> Result<()> {
        fs::remove_file(self.filler()).context("the disk was not filled")
    }

    /// Has every write hang for a while. It is another process that ends this: the disk comes back whatever becomes of us.
    ///
    /// # Errors
    /// When that process cannot be started.
    pub fn hang_for(&self, time: Duration) -> Result<Child> {
        let script = r#"fsfreeze -f "$1" && { sleep "$2"; fsfreeze -u "$1"; }"#;
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", script, "hang"]).arg(&self.0);
        command.arg(time.as_secs_f64().to_string());
        command.spawn().context("cannot start sh")
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that still has a file there ends a moment later.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn mount(at: &Path, arguments: &[&str]) -> Result<()> {
    run(Command::new("mount").args(arguments).arg(at))
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.success(), "{name}: {error}");
    Ok(())
}
