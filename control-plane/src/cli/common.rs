//! What several subcommands have in common.

use std::{env, future::Future, time::Duration};

use clap::ValueEnum;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    exit::{Exit, Failure},
    output::one_line,
    paths::Surroundings,
};
use crate::{address::Address, config::AdminAddress, core::policy};

/// Which control plane to talk to.
#[derive(Debug, clap::Args)]
pub(crate) struct EndpointArgs {
    /// The control plane: `unix:/path` or `host:port` [default: where `ebb serve` of this user listens, which is
    /// unix:/run/ebb/ebb.sock for root, else unix:$XDG_RUNTIME_DIR/ebb/ebb.sock, else unix:/tmp/ebb-UID/ebb.sock]
    #[arg(long, value_name = "ADDR", env = "EBB_ENDPOINT", hide_env_values = true)]
    endpoint: Option<String>,
}

/// How the result is written.
#[derive(Debug, clap::Args)]
pub(crate) struct OutputArgs {
    /// How the result is written to standard output
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
}

/// The form of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs: one object on one line, keys in snake_case
    Json,
}

impl TryFrom<EndpointArgs> for Address {
    type Error = Failure;

    fn try_from(args: EndpointArgs) -> Result<Self, Failure> {
        // An empty EBB_ENDPOINT is how scripts unset it.
        match args.endpoint.filter(|text| !text.is_empty()) {
            None => Ok(Surroundings::of_this_process().address()),
            Some(text) => address("--endpoint (EBB_ENDPOINT)", &text),
        }
    }
}

/// Reads the address that `flag` was given.
///
/// # Errors
/// A usage error that names the flag.
pub(crate) fn address(flag: &str, text: &str) -> Result<Address, Failure> {
    text.parse()
        .map_err(|error| Failure::Usage(format!("{flag}: {error}")))
}

/// Reads the address of an admin endpoint that `flag` was given.
///
/// # Errors
/// A usage error that names the flag.
pub(crate) fn admin(flag: &str, text: &str) -> Result<Address, Failure> {
    let parsed: Result<AdminAddress, String> = text.parse();
    parsed
        .map(|AdminAddress(address)| address)
        .map_err(|error| Failure::Usage(format!("{flag}: {error}")))
}

/// Says so where the other commands would look for another control plane than the one that listens here.
pub(crate) fn warn_of_endpoint(listen: &[Address]) {
    let Some(text) = env::var("EBB_ENDPOINT").ok().filter(|text| !text.is_empty()) else {
        return;
    };
    let is_here = text
        .parse::<Address>()
        .is_ok_and(|address| listen.contains(&address));
    if !is_here {
        let here: Vec<String> = listen.iter().map(ToString::to_string).collect();
        tracing::warn!(
            EBB_ENDPOINT = one_line(&text),
            listening = here.join(", "),
            "`ebb status` and the like look where EBB_ENDPOINT says, and this control plane does not listen there: unset it, or \
             listen there too (--listen, or control_plane.listen)"
        );
    }
}

/// Reads the duration that `flag` was given, as `250ms`, `30s` or `5m`; `0` needs no unit.
///
/// # Errors
/// A usage error that names the flag.
pub(crate) fn duration(flag: &str, text: &str) -> Result<Duration, Failure> {
    humantime::parse_duration(text).map_err(|_| {
        let shown = one_line(text);
        Failure::Usage(format!(
            "{flag}: `{shown}` is not a duration: write a number and a unit, as 250ms, 30s or 5m"
        ))
    })
}

/// Refuses names that are empty: as a scope they would look like "all".
///
/// # Errors
/// A usage error that names the flag.
pub(crate) fn names(flag: &str, names: Vec<String>) -> Result<Vec<String>, Failure> {
    if names.iter().any(|name| name.trim().is_empty()) {
        return Err(Failure::Usage(format!(
            "{flag}: the name is empty: leave {flag} out to mean all of them"
        )));
    }
    Ok(names)
}

/// Runs a client command on a runtime of its own.
///
/// # Errors
/// What the command fails with.
pub(crate) fn block_on(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Error(format!("cannot start the runtime: {error}")))?
        .block_on(command)
}

/// From now on Ctrl-C does not kill: the future resolves instead. Should that fail, it kills as before and the future
/// never resolves.
pub(crate) fn interrupted() -> impl Future<Output = ()> {
    let signal = signal(SignalKind::interrupt());
    async {
        match signal {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    }
}

/// A duration for a person: `850ms`, `4.2s`, `3m07s`, `2h05m`.
pub(crate) fn human(duration: Duration) -> String {
    let (millis, seconds) = (duration.as_millis(), duration.as_secs());
    match seconds {
        0 => format!("{millis}ms"),
        1..60 if millis % 1000 == 0 => format!("{seconds}s"),
        1..60 => format!("{seconds}.{}s", millis % 1000 / 100),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A duration of the wire; unset or negative is zero.
pub(crate) fn from_wire(duration: Option<prost_types::Duration>) -> Duration {
    duration.as_ref().and_then(policy::from_wire).unwrap_or_default()
}

/// `1 request`, `2 requests`.
pub(crate) fn count(n: u64, noun: &str) -> String {
    if n == 1 {
        format!("1 {noun}")
    } else {
        format!("{n} {noun}s")
    }
}

/// The id of a drain, as it was typed.
///
/// # Errors
/// It is empty, as a variable of a script may be that was never set.
pub(crate) fn drain_id(text: String) -> Result<String, Failure> {
    if text.trim().is_empty() {
        return Err(Failure::Usage(
            "the drain's id is empty: `ebb status` lists the drains".to_owned(),
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        for (text, millis) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("5m", 300_000),
            ("0", 0),
            ("1m30s", 90_000),
        ] {
            assert_eq!(
                duration("--timeout", text).ok(),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in ["30", "", "-1s", "soon", "1.s", "99999999999999999999s"] {
            let error = duration("--timeout", text).expect_err(text).to_string();
            assert!(
                error.starts_with("--timeout: ") && error.contains("250ms, 30s or 5m"),
                "{error}"
            );
        }
    }

    #[test]
    fn durations_are_written_short() {
        let cases = [
            (0, "0ms"),
            (850, "850ms"),
            (30_000, "30s"),
            (4_250, "4.2s"),
            (187_000, "3m07s"),
            (7_500_000, "2h05m"),
        ];
        for (millis, text) in cases {
            assert_eq!(human(Duration::from_millis(millis)), text);
        }
    }
}
