//! The defaults of a drain's policy are told in four places, and are the same in all of them.

use std::{fs, io, path::Path, process::Command};

use ebb::core::policy::{Evidence, OnTimeout, Policy, Tcp};

/// Every key with its default, as the code has it.
fn keys() -> Vec<(&'static str, String)> {
    let policy = Policy::default();
    let span = |value| humantime::format_duration(value).to_string();
    vec![
        ("announce", span(policy.announce)),
        ("quiet_period", span(policy.quiet_period)),
        ("timeout", span(policy.timeout)),
        ("ramp", span(policy.ramp)),
        ("lease", span(policy.lease)),
        (
            "on_timeout",
            match policy.on_timeout {
                OnTimeout::Proceed => "proceed",
                OnTimeout::Abort => "abort",
            }
            .to_owned(),
        ),
        (
            "evidence",
            match policy.evidence {
                Evidence::Auto => "auto",
                Evidence::Filter => "filter",
                Evidence::Admin => "admin",
                Evidence::Delay => "delay",
            }
            .to_owned(),
        ),
        (
            "tcp",
            match policy.tcp {
                Tcp::Wait => "wait",
                Tcp::Ignore => "ignore",
            }
            .to_owned(),
        ),
        ("linger", span(policy.linger)),
        ("flush", span(policy.flush)),
        ("idle", span(policy.idle)),
    ]
}

/// The same value however it is written: `0`, `0s`, `60s`, `1m`, `200 ms`, `PROCEED`.
fn same(written: &str, default: &str) -> bool {
    let tidy = |text: &str| text.replace(' ', "").to_lowercase();
    let span = |text: &str| match tidy(text).as_str() {
        "0" => Some(std::time::Duration::ZERO),
        text => humantime::parse_duration(text).ok(),
    };
    match (span(written), span(default)) {
        (Some(a), Some(b)) => a == b,
        _ => tidy(written) == tidy(default),
    }
}

fn read(path: &str) -> io::Result<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path))
}

#[test]
fn the_proto_comments_have_them() {
    let proto = read("proto/ebb/v1/drain.proto").unwrap();
    let policy = proto.split("message Policy {").nth(1).unwrap();
    for (key, default) in keys() {
        let lines: Vec<&str> = policy.lines().map(str::trim).collect();
        let field = lines
            .iter()
            .position(|line| line.contains(&format!(" {key} = ")))
            .unwrap();
        let comment: Vec<&str> = lines[..field]
            .iter()
            .rev()
            .map_while(|line| line.strip_prefix("//"))
            .collect();
        let comment: String = comment.into_iter().rev().collect();
        let told = comment
            .split("Default ")
            .nth(1)
            .unwrap_or_else(|| panic!("{key}: no default in {comment}"));
        let told = told.split([';', '.', '=', '\n']).next().unwrap();
        assert!(
            same(told, &default),
            "{key}: the proto says {told:?}, the code {default:?}"
        );
    }
}

#[test]
fn the_help_has_them() {
    let help = Command::new(env!("CARGO_BIN_EXE_ebb"))
        .args(["drain", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for (key, default) in keys() {
        let flag = format!("--{} <", key.replace('_', "-"));
        let text = help
            .split(&flag)
            .nth(1)
            .unwrap_or_else(|| panic!("no {flag} in {help}"));
        let told = text.split("[default:").nth(1).unwrap().split(']').next().unwrap();
        assert!(
            same(told, &default),
            "{key}: the help says {told:?}, the code {default:?}"
        );
    }
}

#[test]
fn the_reference_has_them() {
    let reference = read("docs/configuration.md").unwrap();
    for (key, default) in keys() {
        let row = reference
            .lines()
            .find(|line| line.starts_with(&format!("| `{key}` |")));
        let row = row.unwrap_or_else(|| panic!("no row of `{key}`"));
        let told = row.split('|').nth(2).unwrap().trim().trim_matches('`');
        assert!(
            same(told, &default),
            "{key}: the reference says {told:?}, the code {default:?}"
        );
    }
}
