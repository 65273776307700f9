//! `ebb run` with real processes, in a directory of its own; dropped, nothing of it is left.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{
        net::UnixStream,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The bound for what takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// In the environment of everything that a test starts.
const MARK: &str = "EBB_TEST_WORLD";

/// A process that writes into the journal when it starts, when it is told to stop and when it ends.
const RECORDER: &str = r#"
    note() { echo "$NAME $1" >> "$JOURNAL"; }
    trap 'note term; sleep ${LINGER:-0}; note exit; exit ${CODE:-0}' TERM INT QUIT
    trap 'note hup' HUP
    trap 'note usr1' USR1
    note start
    while :; do sleep 0.02 & wait $!; done
"#;

pub(crate) struct World {
    pub(crate) directory: tempfile::TempDir,
    mark: String,
    /// The folder of the durable state; empty = memory only.
    pub(crate) state: PathBuf,
    child: Option<Child>,
    /// The pid of `ebb`, which may be a child of the child.
    pid: Option<i32>,
}

/// Asks until there is an answer.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(value) = probe() {
            return value;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("waited {PATIENCE:?} in vain: {what}");
}

impl World {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mark = format!("{MARK}={}", directory.path().display());
        fs::write(directory.path().join("recorder.sh"), RECORDER).expect("recorder");
        fs::write(directory.path().join("journal"), "").expect("journal");
        Self {
            directory,
            mark,
            state: PathBuf::new(),
            child: None,
            pid: None,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A `[[process]]` that keeps a journal.
    pub(crate) fn recorder(&self, name: &str, keys: &str) -> String {
        self.process(
            name,
            &["sh", self.path("recorder.sh").to_str().expect("UTF-8")],
            keys,
        )
    }

    pub(crate) fn process(&self, name: &str, command: &[&str], keys: &str) -> String {
        format!(
            "[[process]]\nname = \"{name}\"\ncommand = {command:?}\n{keys}\n{}",
            {
                // A table of its own has to come last.
                if keys.contains("env =") {
                    String::new()
                } else {
                    self.env(name, &[])
                }
            }
        )
    }

    pub(crate) fn env(&self, name: &str, more: &[(&str, &str)]) -> String {
        let mut env = format!(
            "[process.env]\nNAME = \"{name}\"\nJOURNAL = {:?}\n",
            self.path("journal")
        );
        for (key, value) in more {
            env.push_str(&format!("{key} = \"{value}\"\n"));
        }
        env
    }

    /// The arguments of `ebb run` with this configuration, after a `[control_plane]` of its own.
    pub(crate) fn command(&self, config: &str, arguments: &[&str]) -> Command {
        let head = format!(
            "[control_plane]\nlisten = {:?}\nstate = {}\nhealth = {:?}\n",
            format!("unix:{}", self.path("ebb.sock").display()),
            quoted(&self.state),
            format!("unix:{}", self.path("health.sock").display()),
        );
        fs::write(self.path("ebb.toml"), format!("{head}{config}")).expect("configuration");
        let mut command = Command::new(env!("CARGO_BIN_EXE_ebb"));
        command
            .arg("run")
            .arg("--config")
            .arg(self.path("ebb.toml"))
            .args(arguments);
        self.surround(&mut command);
        command
    }

    fn surround(&self, command: &mut Command) {
        let file = |name: &str| fs::File::create(self.path(name)).expect("log file");
        let (key, value) = self.mark.split_once('=').expect("mark");
        command
            .env(key, value)
            .env_remove("EBB_GRACE_PERIOD")
            .env("EBB_LOG", "info")
            .stdin(Stdio::null())
            .stdout(file("out"))
            .stderr(file("err"))
            .process_group(0);
    }

    /// Starts `ebb run` and returns at once.
    pub(crate) fn start(&mut self, config: &str) {
        let mut command = self.command(config, &[]);
        self.start_command(&mut command);
    }

    pub(crate) fn start_command(&mut self, command: &mut Command) {
        let child = command.spawn().expect("ebb starts");
        self.pid = i32::try_from(child.id()).ok();
        self.child = Some(child);
    }

    /// `ebb run` as PID 1 of a pid namespace; `false` where the system does not allow that.
    pub(crate) fn start_as_pid_1(&mut self, config: &str) -> bool {
        let ebb = self.command(config, &[]);
        let unshare = ["--pid", "--fork", "--mount-proc", "--kill-child"];
        let possible = Command::new("unshare").args(unshare).arg("true").output();
        if !possible.is_ok_and(|output| output.status.success()) {
            return false;
        }
        let mut command = Command::new("unshare");
        command.args(unshare).arg(ebb.get_program()).args(ebb.get_args());
        self.surround(&mut command);
        self.start_command(&mut command);
        let unshare = self.pid.expect("pid");
        let inner = eventually("unshare has forked", || {
            let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).ok()?;
            children.split_whitespace().next()?.parse().ok()
        });
        self.pid = Some(inner);
        true
    }

    /// `ebb run` through a program that becomes it, or whose only child is it.
    pub(crate) fn start_through(&mut self, wrapper: &[&str], config: &str, stdin: Stdio) {
        let ebb = self.command(config, &[]);
        let mut command = Command::new(wrapper[0]);
        command
            .args(&wrapper[1..])
            .arg(ebb.get_program())
            .args(ebb.get_args());
        self.surround(&mut command);
        command.stdin(stdin);
        self.start_command(&mut command);
        let outer = self.pid.expect("pid");
        let is_ebb = |pid: i32| {
            let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
            (path == Path::new(env!("CARGO_BIN_EXE_ebb"))).then_some(pid)
        };
        self.pid = Some(eventually("ebb is there", || {
            let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?;
            let inner = children.split_whitespace().find_map(|pid| pid.parse().ok());
            is_ebb(outer).or_else(|| inner.and_then(is_ebb))
        }));
    }

    /// Starts it, and waits until `/ready` says so.
    pub(crate) fn ready(&mut self, config: &str) {
        self.start(config);
        self.until_ready();
    }

    pub(crate) fn until_ready(&mut self) {
        eventually("ready", || {
            let child = self.child.as_mut().expect("started");
            if let Ok(Some(status)) = child.try_wait() {
                panic!("ebb has ended: {status}\n{}", self.read("err"));
            }
            self.health("/ready").filter(|(status, _)| *status == 200)
        });
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.expect("started")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("ebb is alive");
    }

    /// Sends a signal by its number or name, as the shell does: also those that have no name.
    pub(crate) fn signal_by_name(&self, name: &str) {
        let kill = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", self.pid())])
            .status();
        assert!(kill.expect("sh").success(), "{name}: ebb is alive");
    }

    /// Kills `ebb`, and nothing of what it started. What it logged is gone with the next start.
    pub(crate) fn kill_ebb(&mut self) {
        self.signal(Signal::SIGKILL);
        let mut child = self.child.take().expect("started");
        child.wait().expect("waited");
        self.pid = None;
    }

    /// The pid of a process that `ebb status` shows.
    pub(crate) fn pid_of(&self, name: &str) -> i32 {
        let output = self.ebb(&["status", "-o", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let all = status["processes"].as_array().expect("a list");
        let found = all.iter().find(|process| process["name"] == name).expect("known");
        found["pid"]
            .as_i64()
            .and_then(|pid| i32::try_from(pid).ok())
            .expect("alive")
    }

    /// The exit code of `ebb`, and that nothing it started is left.
    pub(crate) fn ends(&mut self) -> i32 {
        let status: ExitStatus = eventually("ebb ends", || {
            self.child.as_mut().expect("started").try_wait().expect("waited")
        });
        self.child = None;
        let left = self.marked();
        assert!(left.is_empty(), "left behind: {left:?}\n{}", self.read("err"));
        status
            .code()
            .unwrap_or_else(|| panic!("ended by signal {:?}", status.signal()))
    }

    pub(crate) fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(name)).unwrap_or_default()).into_owned()
    }

    pub(crate) fn journal(&self) -> Vec<String> {
        self.read("journal").lines().map(str::to_owned).collect()
    }

    /// Waits for a line in the journal.
    pub(crate) fn noted(&self, line: &str) {
        eventually(&format!("{line:?} in the journal"), || {
            self.journal().iter().any(|entry| entry == line).then_some(())
        });
    }

    /// Waits for a text in the log.
    pub(crate) fn logged(&self, text: &str) {
        eventually(&format!("{text:?} in the log"), || {
            self.read("err").contains(text).then_some(())
        });
    }

    /// Status and body of an answer of the health endpoint; `None` while nobody listens.
    pub(crate) fn health(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = UnixStream::connect(self.path("health.sock")).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split_whitespace().nth(1)?.parse().ok()?;
        Some((status, answer.split("\r\n\r\n").nth(1)?.trim().to_owned()))
    }

    /// Another command of the same `ebb`.
    pub(crate) fn ebb(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ebb"))
            .args(arguments)
            .env(
                "EBB_ENDPOINT",
                format!("unix:{}", self.path("ebb.sock").display()),
            )
            .output()
            .expect("ebb runs")
    }

    /// Waits until `ebb status -o json` is as wanted.
    pub(crate) fn status(&self, what: &str, wanted: impl Fn(&serde_json::Value) -> bool) {
        let mut last = String::new();
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let output = self.ebb(&["status", "-o", "json"]);
            last = format!("{output:?}");
            if serde_json::from_slice(&output.stdout).is_ok_and(|status| wanted(&status)) {
                return;
            }
        }
        panic!("waited {PATIENCE:?} in vain: {what}; the last status: {last}");
    }

    /// Every living process that this world started, but for `ebb` and its wrapper.
    pub(crate) fn marked(&self) -> Vec<(i32, String)> {
        let own = [
            self.pid,
            self.child
                .as_ref()
                .and_then(|child| i32::try_from(child.id()).ok()),
        ];
        let all = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = all.filter_map(|entry| {
            entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<i32>().ok())
        });
        pids.filter(|pid| !own.contains(&Some(*pid)))
            .filter(|pid| {
                let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                environ
                    .split(|byte| *byte == 0)
                    .any(|variable| variable == self.mark.as_bytes())
            })
            .map(|pid| (pid, command_line(pid)))
            .collect()
    }
}

fn command_line(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// Zombies whose parent is this process.
pub(crate) fn zombies_of(parent: i32) -> usize {
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    let stats = all.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let parent = parent.to_string();
    stats
        .filter(|stat| {
            let mut fields = stat
                .rsplit_once(')')
                .map_or("", |(_, rest)| rest)
                .split_whitespace();
            fields.next() == Some("Z") && fields.next() == Some(&parent)
        })
        .count()
}

pub(crate) fn position(journal: &[String], line: &str) -> usize {
    journal
        .iter()
        .position(|entry| entry == line)
        .unwrap_or_else(|| panic!("no {line:?} in {journal:?}"))
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- log\n{}--- output\n{}--- journal\n{}",
                self.read("err"),
                self.read("out"),
                self.read("journal")
            );
        }
        if let Some(mut child) = self.child.take() {
            if let Some(pid) = self.pid {
                // It may have ended by itself meanwhile.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        self.pid = None;
        for _ in 0..100 {
            let left = self.marked();
            if left.is_empty() {
                return;
            }
            for (pid, _) in left {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A path as it stands in a configuration.
pub(crate) fn quoted(path: &Path) -> String {
    format!("{:?}", path.to_str().expect("UTF-8"))
}
