//! `[[process]]`: one supervised process.

use std::{collections::BTreeMap, ops::Range, path::PathBuf, time::Duration};

use nix::sys::signal::Signal;
use toml::Spanned;

use super::{
    defaults,
    reader::Section,
    values::{AdminAddress, AttachTo, DurationText, HttpTarget, Identity, RelayedSignal, SignalName, Text},
};
use crate::address::Address;

/// A process that Ebb keeps, validated.
#[derive(Clone, Debug)]
pub struct Process {
    /// Unique; letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// How it comes to run.
    pub origin: Origin,
    /// Indexes into [`super::Config::processes`] of what starts before it and stops after it.
    pub depends_on: Vec<usize>,
    /// When it counts as ready. Unset: as soon as it runs.
    pub ready: Option<Ready>,
    /// How it is stopped.
    pub stop: Stop,
    /// Signals to Ebb that it is to get as well, of [`super::RELAYABLE`]; its first process, and not the others of its group.
    /// Unset: none.
    pub relay: Vec<Signal>,
    /// The listeners it serves. Unset: it is stopped without a drain.
    pub drain: Option<DrainTarget>,
    /// Upstream endpoints that it serves: it is stopped only when nothing is in flight towards them. Empty: no gate.
    pub gate: Vec<Address>,
    /// What follows its unexpected death.
    pub restart: Restart,
    /// Whether its unexpected death, once it is not restarted any more, is an ordered shutdown of all. Default false.
    pub critical: bool,
}

/// How a process comes to run.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Ebb starts it.
    Command(Command),
    /// It runs already; Ebb watches and stops it, and never starts it again.
    Attach(AttachTo),
}

/// What is executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The program: a path, or a name that is looked up in `PATH`.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Added to Ebb's own environment, which is inherited.
    pub env: BTreeMap<String, String>,
    /// Unset: Ebb's own.
    pub working_dir: Option<PathBuf>,
    /// Unset: Ebb's own.
    pub user: Option<Identity>,
}

/// When a process counts as ready.
#[derive(Clone, Debug)]
pub struct Ready {
    /// What is asked.
    pub check: Check,
    /// How long it may take from its start. Unset: 30 s. 0: the first attempt decides, within 1 s. What is left of it
    /// bounds an attempt.
    pub timeout: Duration,
    /// Between two attempts. Unset: 100 ms. 0 is refused.
    pub interval: Duration,
}

/// What shows that a process is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// GET answers with a status from 200 to 299.
    Http(HttpTarget),
    /// A TCP connection is accepted.
    Tcp(Address),
    /// A connection to the Unix stream socket is accepted.
    Unix(PathBuf),
    /// The command (program, arguments) ends with 0.
    Exec(String, Vec<String>),
    /// It has run for this long. 0: at once.
    Delay(Duration),
}

/// How a process is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Unset: the signal that Ebb received, or SIGTERM if it was none.
    pub signal: Option<Signal>,
    /// From the signal to SIGKILL. Unset: 4 s, of which drains before it may take what [`Stop::kept`] does not keep. 0: SIGKILL
    /// at once, without another signal before it.
    pub timeout: Option<Duration>,
}

impl Stop {
    /// From the signal to SIGKILL, where there is time for it.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(defaults::STOP_TIMEOUT)
    }

    /// What it has in any case, of a shutdown with this grace period: all of a timeout that is set. Nobody has asked for one that
    /// is not, and few processes need it.
    #[must_use]
    pub fn kept(&self, grace_period: Duration) -> Duration {
        let share = grace_period / defaults::STOP_SHARE;
        self.timeout
            .unwrap_or_else(|| share.clamp(defaults::STOP_LEAST, defaults::STOP_TIMEOUT))
    }
}

/// What is drained before a process is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainTarget {
    /// Names from the plugin configuration. Empty (the key is unset): every listener.
    pub listeners: Vec<String>,
    /// Envoy's admin endpoint. Unset: the drain works through the filter alone, and the listeners stay open until the
    /// signal.
    pub admin: Option<Address>,
    /// Envoy's `node.id`: only this node is drained. Unset: the one that the admin endpoint tells; without that every
    /// node that is attached.
    pub node: Option<String>,
}

/// What follows an unexpected death.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Nothing. The default.
    Never,
    /// It is started again after a failure (a status other than 0, or a signal).
    OnFailure {
        /// Wait before the first restart; doubles up to 30 s. Unset: 500 ms. 0: at once.
        backoff: Duration,
        /// Restarts until it is given up; forgotten after 60 s of being ready. Unset: no limit. 0: never restarted.
        limit: Option<u32>,
    },
}

impl Process {
    /// Whether it is a proxy whose death has no consequence, so that nothing would serve and nobody would notice.
    #[must_use]
    pub fn may_be_missed(&self) -> bool {
        self.drain.is_some() && !self.critical && self.restart == Restart::Never
    }
}

/// A process whose dependencies are still names.
pub(super) struct Unresolved {
    pub(super) process: Process,
    pub(super) key: String,
    pub(super) name_span: Range<usize>,
    pub(super) depends_on: Vec<Spanned<String>>,
}

/// Reads one `[[process]]`. `None` if it has no usable name; other problems are recorded and replaced by defaults.
pub(super) fn read(mut section: Section<'_>) -> Option<Unresolved> {
    let name = section.require::<Spanned<String>>("name");
    if let Some(name) = &name {
        section.belongs_to(name.get_ref());
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.get_ref().is_empty() || !name.get_ref().chars().all(fits) {
            let message = "a name has letters, digits, '-', '_' and '.', at least one";
            section.refuse("name", Some(&name.span()), message);
        }
    }
    let origin = origin(&mut section);
    let depends_on = section.take_list("depends_on").unwrap_or_default();
    let ready = section.section("ready").and_then(ready);
    let stop = stop(section.section("stop"));
    let relay = section
        .take_list::<Text<RelayedSignal>>("relay")
        .unwrap_or_default();
    let drain = section.section("drain").map(drain);
    let gate = section.take_list::<Text<Address>>("gate").unwrap_or_default();
    let restart_span = section.has("restart");
    let restart = section.section("restart").map_or(Restart::Never, restart);
    let critical = section.take("critical").unwrap_or(false);
    if restart_span && matches!(origin, Origin::Attach(_)) {
        section.refuse(
            "restart",
            None,
            "an attached process cannot be started again: remove the key",
        );
    }
    if critical && matches!(restart, Restart::OnFailure { limit: None, .. }) {
        let message =
            "never takes effect while restarts have no limit: set restart.limit, or remove one of the two";
        section.refuse("critical", None, message);
    }
    let key = section.path("");
    section.finish();
    let name = name?;
    Some(Unresolved {
        process: Process {
            name: name.get_ref().clone(),
            origin,
            depends_on: Vec::new(),
            ready,
            stop,
            relay: relay
                .into_iter()
                .map(|Text(RelayedSignal(signal))| signal)
                .collect(),
            drain,
            gate: gate.into_iter().map(|Text(address)| address).collect(),
            restart,
            critical,
        },
        key,
        name_span: name.span(),
        depends_on,
    })
}

fn origin(section: &mut Section<'_>) -> Origin {
    if section.has("attach") {
        for key in ["command", "env", "working_dir", "user"] {
            if section.has(key) {
                section.refuse(
                    key,
                    None,
                    "does not go with attach, which starts nothing: remove one of the two",
                );
            }
        }
    }
    let command = if section.has("attach") {
        section.take::<Vec<String>>("command")
    } else {
        section.require::<Vec<String>>("command")
    };
    let env = section.section("env").map(Section::strings).unwrap_or_default();
    let working_dir = section.take("working_dir");
    let user = section.take::<Text<Identity>>("user").map(|Text(user)| user);
    if let Some(attach) = section.take::<AttachTo>("attach") {
        return Origin::Attach(attach);
    }
    if command
        .as_deref()
        .is_some_and(|words| words.first().is_none_or(String::is_empty))
    {
        section.refuse(
            "command",
            None,
            "names no program: write [\"program\", \"argument\"]",
        );
    }
    for (key, value) in &env {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            section.refuse(
                &format!("env.{key}"),
                None,
                "not a variable that a process can have",
            );
        }
    }
    let mut words = command.unwrap_or_default().into_iter();
    Origin::Command(Command {
        program: words.next().unwrap_or_default(),
        arguments: words.collect(),
        env: env.into_iter().collect(),
        working_dir,
        user,
    })
}

fn ready(mut section: Section<'_>) -> Option<Ready> {
    let delay_alone: Vec<&str> = ["timeout", "interval"]
        .into_iter()
        .filter(|key| section.has(key))
        .collect();
    let timeout = duration(&mut section, "timeout").unwrap_or(defaults::READY_TIMEOUT);
    let interval = duration(&mut section, "interval").unwrap_or(defaults::READY_INTERVAL);
    if interval.is_zero() {
        section.refuse(
            "interval",
            None,
            "0 would ask without a pause: write for example \"100ms\"",
        );
    }
    let given: Vec<&str> = ["http", "tcp", "unix", "exec", "delay"]
        .into_iter()
        .filter(|key| section.has(key))
        .collect();
    let http = section.take("http").map(|Text(target)| Check::Http(target));
    let tcp = section.take("tcp").and_then(|Text(address)| match address {
        Address::Tcp { .. } => Some(Check::Tcp(address)),
        Address::Unix(_) => {
            section.refuse("tcp", None, "a Unix socket is not TCP: use the key unix");
            None
        }
    });
    let unix = section.take::<String>("unix").and_then(|path| {
        let path = path.strip_prefix("unix:").unwrap_or(&path);
        if path.is_empty() {
            section.refuse("unix", None, "names no socket: write its path");
            return None;
        }
        Some(Check::Unix(PathBuf::from(path)))
    });
    let exec = section.take::<Vec<String>>("exec").and_then(|words| {
        let mut words = words.into_iter();
        match words.next().filter(|program| !program.is_empty()) {
            Some(program) => Some(Check::Exec(program, words.collect())),
            None => {
                section.refuse(
                    "exec",
                    None,
                    "names no program: write [\"program\", \"argument\"]",
                );
                None
            }
        }
    });
    let delay = duration(&mut section, "delay").map(Check::Delay);
    match given.as_slice() {
        [_] => {}
        [] => section.refuse(
            "",
            None,
            "says nothing to check: set one of http, tcp, unix, exec, delay",
        ),
        many => {
            let message = format!(
                "has {} checks ({}): keep one of them",
                many.len(),
                many.join(", ")
            );
            section.refuse("", None, &message);
        }
    }
    if given.as_slice() == ["delay"] {
        for key in delay_alone {
            section.refuse(
                key,
                None,
                "does not go with delay, which is all that is waited for: remove one of the two",
            );
        }
    }
    section.finish();
    let check = http.or(tcp).or(unix).or(exec).or(delay)?;
    // A delay is its own timeout.
    let timeout = match check {
        Check::Delay(delay) => delay.saturating_add(defaults::READY_TIMEOUT),
        _ => timeout,
    };
    Some(Ready {
        check,
        timeout,
        interval,
    })
}

fn stop(section: Option<Section<'_>>) -> Stop {
    let mut stop = Stop {
        signal: None,
        timeout: None,
    };
    if let Some(mut section) = section {
        stop.signal = section.take("signal").map(|Text(SignalName(signal))| signal);
        stop.timeout = duration(&mut section, "timeout");
        section.finish();
    }
    stop
}

fn drain(mut section: Section<'_>) -> DrainTarget {
    let listeners = section.take_list::<String>("listeners");
    if listeners.as_ref().is_some_and(Vec::is_empty) {
        let message = "an empty list drains nothing: name listeners, or remove the key to drain all of them";
        section.refuse("listeners", None, message);
    }
    let admin = section.take("admin").map(|Text(AdminAddress(address))| address);
    let node = section.take::<String>("node");
    if node.as_ref().is_some_and(String::is_empty) {
        let message = "names no node: write Envoy's node.id, or remove the key";
        section.refuse("node", None, message);
    }
    section.finish();
    DrainTarget {
        listeners: listeners.unwrap_or_default(),
        admin,
        node,
    }
}

fn restart(mut section: Section<'_>) -> Restart {
    let when = section.require::<Spanned<String>>("when");
    let backoff = duration(&mut section, "backoff").unwrap_or(defaults::RESTART_BACKOFF);
    let limit = section.take::<u32>("limit");
    let restart = match when.as_ref().map(|when| when.get_ref().as_str()) {
        Some("on-failure") => Restart::OnFailure { backoff, limit },
        Some("never") | None => Restart::Never,
        Some(_) => {
            let span = when.as_ref().map(Spanned::span);
            section.refuse("when", span.as_ref(), "write \"never\" or \"on-failure\"");
            Restart::Never
        }
    };
    section.finish();
    restart
}

/// A duration under `key`.
pub(super) fn duration(section: &mut Section<'_>, key: &'static str) -> Option<Duration> {
    section.take(key).map(|DurationText(duration)| duration)
}
