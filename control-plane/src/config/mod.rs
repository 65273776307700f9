//! The configuration file of `ebb run` and `ebb serve`: TOML, read once, validated as a whole.
//!
//! Every error names file, line, key and value, and all of them are reported at once. Every key is optional unless its
//! comment says otherwise; unset and an explicit 0 are different things, and the comment of each key says what 0 means.
//! What unset means is a number in [`defaults`].

mod budget;
pub mod defaults;
mod error;
mod graph;
mod process;
mod reader;
mod values;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::Spanned;

use crate::{
    address::Address,
    core::{
        policies::Special,
        policy::{Evidence, OnTimeout, Policy, PolicyError, PolicyOverrides, Tcp},
    },
};
pub use error::{ConfigError, Problem};
use process::duration;
pub use process::{Check, Command, DrainTarget, Origin, Process, Ready, Restart, Stop};
use reader::{Document, Section};
use values::Text;
pub use values::{AdminAddress, AttachTo, HttpTarget, Identity, RELAYABLE};

/// Everything in the file.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[control_plane]`.
    pub control_plane: ControlPlane,
    /// `[drain]`: what a drain that does not say otherwise does; the keys that the file sets. In a shutdown an unset
    /// `timeout` is what the grace period leaves, and `on_timeout` is always `proceed`.
    pub drain: PolicyOverrides,
    /// `[[drain.for]]`: the same for drains of certain nodes or listeners, in the order of the file.
    pub drain_for: Vec<Special>,
    /// `[shutdown]`.
    pub shutdown: Shutdown,
    /// `[[process]]`, in the order of the file. May be empty: `ebb serve` needs none.
    pub processes: Vec<Process>,
}

impl Config {
    /// The admin endpoints of the Envoys among the processes.
    pub fn admins(&self) -> impl Iterator<Item = Address> {
        let drains = self.processes.iter().filter_map(|process| process.drain.as_ref());
        drains.filter_map(|drain| drain.admin.clone())
    }
}

/// `[control_plane]`: where it listens and what it keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlPlane {
    /// gRPC endpoints. Empty (the key is unset): the default of the command line.
    pub listen: Vec<Address>,
    /// The durable store.
    pub state: State,
    /// HTTP `/ready` and `/live`. Unset: none.
    pub health: Option<Address>,
}

/// Where started drains are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// The key is unset: the default directory of the command line.
    #[default]
    Default,
    /// `""`: in memory only.
    Memory,
    /// In this directory.
    Directory(PathBuf),
}

/// `[shutdown]`: the bounds of an ordered shutdown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// Time until the orchestrator kills. Unset: 30 s. 0: do not wait, kill everything at once.
    pub grace_period: Duration,
    /// What a drain of a shutdown may take, announcement included; computed, see [`Config::drain`].
    pub drain: DrainTimes,
}

/// How long a drain of a shutdown may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainTimes {
    /// Whatever else happens.
    pub least: Duration,
    /// Where what comes before it and after it leaves as much: `[drain] timeout`, or the grace period.
    pub most: Duration,
}

/// Reads and validates a file. `grace_period` is the value of `EBB_GRACE_PERIOD`, which overrides the key of the file.
///
/// # Errors
/// The file cannot be read, or all of its problems.
pub fn load(path: &Path, grace_period: Option<&str>) -> Result<Config, ConfigError> {
    let source = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    parse(&source, grace_period).map_err(|problems| ConfigError::Invalid {
        path: path.to_owned(),
        problems,
    })
}

/// As [`load`], from the text of a file.
///
/// # Errors
/// All problems of the text.
pub fn parse(source: &str, grace_period: Option<&str>) -> Result<Config, Vec<Problem>> {
    let document = Document::new(source);
    let config = read(&document, grace_period);
    if document.is_clean() {
        Ok(config)
    } else {
        Err(document.into_problems())
    }
}

fn read<'s>(document: &'s Document<'s>, grace_override: Option<&str>) -> Config {
    let mut root = document.root();
    let control_plane = root
        .section("control_plane")
        .map(control_plane)
        .unwrap_or_default();
    let (drain, drain_for) = root.section("drain").map(drain).unwrap_or_default();
    let grace_file = root.section("shutdown").and_then(|mut section| {
        let grace = section.take::<Spanned<values::DurationText>>("grace_period");
        section.finish();
        grace
    });
    let processes = root.sections("process");
    root.finish();
    let unresolved = processes.into_iter().filter_map(process::read).collect();
    let mut config = Config {
        control_plane,
        drain,
        drain_for,
        shutdown: Shutdown {
            grace_period: defaults::GRACE_PERIOD,
            drain: DrainTimes {
                least: Policy::default().timeout,
                most: Policy::default().timeout,
            },
        },
        processes: graph::resolve(document, unresolved),
    };
    let mut grace = Problem {
        line: None,
        key: "shutdown.grace_period".to_owned(),
        process: None,
        value: Some(format!(
            "{} (default)",
            humantime::format_duration(defaults::GRACE_PERIOD)
        )),
        message: String::new(),
    };
    if let Some(file) = grace_file {
        grace.line = Some(document.line(&file.span()));
        grace.value = Some(document.text(&file.span()));
        config.shutdown.grace_period = file.get_ref().0;
    }
    if let Some(text) = grace_override {
        grace.line = None;
        grace.key = "EBB_GRACE_PERIOD".to_owned();
        grace.value = Some(format!("\"{text}\""));
        match values::parse_duration(text) {
            Ok(duration) => config.shutdown.grace_period = duration,
            Err(message) => document.add(Problem {
                message,
                ..grace.clone()
            }),
        }
    }
    // The sum means something only for a graph and durations that were accepted.
    if document.is_clean() {
        match budget::drain_times(&config) {
            Ok(times) => config.shutdown.drain = times,
            Err(message) => document.add(Problem { message, ..grace }),
        }
    }
    config
}

fn control_plane(mut section: Section<'_>) -> ControlPlane {
    let listen = section.take_list::<Text<Address>>("listen");
    if listen.as_ref().is_some_and(Vec::is_empty) {
        section.refuse(
            "listen",
            None,
            "an empty list listens nowhere: name an address, or remove the key",
        );
    }
    let state = match section.take::<String>("state") {
        None => State::Default,
        Some(path) if path.is_empty() => State::Memory,
        Some(path) => State::Directory(PathBuf::from(path)),
    };
    let health = section.take("health").map(|Text(address)| address);
    section.finish();
    ControlPlane {
        listen: listen
            .unwrap_or_default()
            .into_iter()
            .map(|Text(address)| address)
            .collect(),
        state,
        health,
    }
}

fn drain(mut section: Section<'_>) -> (PolicyOverrides, Vec<Special>) {
    let overrides = keys(&mut section);
    let general = Policy::default().overridden(&overrides);
    refuse_problems(&mut section, &Policy::default().fitted(&overrides));
    let special = section
        .sections("for")
        .into_iter()
        .map(|section| special(section, &general));
    let special = special.collect();
    section.finish();
    (overrides, special)
}

/// One `[[drain.for]]`. What it does not set is as in `[drain]`.
fn special(mut section: Section<'_>, general: &Policy) -> Special {
    let special = Special {
        nodes: section.take_list("nodes").unwrap_or_default(),
        listeners: section.take_list("listeners").unwrap_or_default(),
        overrides: keys(&mut section),
    };
    if special.nodes.is_empty() && special.listeners.is_empty() {
        section.refuse(
            "",
            None,
            "name `nodes` or `listeners`, or put the keys into [drain]",
        );
    }
    // What is wrong with `[drain]` itself has been told there.
    if general.fitted(&PolicyOverrides::default()).problems().is_empty() {
        refuse_problems(&mut section, &general.fitted(&special.overrides));
    }
    section.finish();
    special
}

/// Tells everything in a policy that cannot be.
fn refuse_problems(section: &mut Section<'_>, policy: &Policy) {
    for error in policy.problems() {
        let key = match &error {
            PolicyError::NotADuration { key } | PolicyError::TooLong { key, .. } => key,
            PolicyError::ShortLease { .. } => "lease",
            PolicyError::CannotFit { .. } => "timeout",
            PolicyError::UnknownOnTimeout(_) => "on_timeout",
            PolicyError::UnknownEvidence(_) => "evidence",
            PolicyError::UnknownTcp(_) => "tcp",
        };
        let text = error.to_string();
        section.refuse(
            key,
            None,
            text.split_once(": ").map_or(text.as_str(), |(_, why)| why),
        );
    }
}

/// The keys of a policy.
fn keys(section: &mut Section<'_>) -> PolicyOverrides {
    PolicyOverrides {
        announce: duration(section, "announce"),
        quiet_period: duration(section, "quiet_period"),
        timeout: duration(section, "timeout"),
        ramp: duration(section, "ramp"),
        lease: duration(section, "lease"),
        on_timeout: word(
            section,
            "on_timeout",
            &[("proceed", OnTimeout::Proceed), ("abort", OnTimeout::Abort)],
        ),
        evidence: word(
            section,
            "evidence",
            &[
                ("auto", Evidence::Auto),
                ("filter", Evidence::Filter),
                ("admin", Evidence::Admin),
                ("delay", Evidence::Delay),
            ],
        ),
        tcp: word(section, "tcp", &[("wait", Tcp::Wait), ("ignore", Tcp::Ignore)]),
        linger: duration(section, "linger"),
        flush: duration(section, "flush"),
        idle: duration(section, "idle"),
    }
}

/// One of a few words.
fn word<T: Copy>(section: &mut Section<'_>, key: &'static str, words: &[(&str, T)]) -> Option<T> {
    let text = section.take::<Spanned<String>>(key)?;
    let found = words.iter().find(|(word, _)| word == text.get_ref());
    if found.is_none() {
        let quoted: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let why = match quoted.split_last() {
            Some((last, [])) => format!("write {last}"),
            Some((last, others)) => format!("write {} or {last}", others.join(", ")),
            None => String::new(),
        };
        section.refuse(key, Some(&text.span()), &why);
    }
    found.map(|(_, value)| *value)
}

#[cfg(test)]
mod tests;
