//! Load by well-kept tools, each with its numbers read from what it prints; and by the tests' own clients, which open a
//! new connection whenever the server has said that the old one ends.
//!
//! | client | protocol | what it does when the server closes |
//! |---|---|---|
//! | [`wrk`] | HTTP/1.1 | opens a new connection after `Connection: close`, and after a failure |
//! | [`h2load`] | HTTP/1.1 | opens a new connection after `Connection: close`; after a close without it, all that this connection had left to send has failed |
//! | [`h2load`] | HTTP/2 | opens no new connection after a GOAWAY either: all that this connection had left to send has failed |
//! | [`clients`] | both | opens a new connection after `Connection: close` or GOAWAY, and after a failure |
//!
//! `tests/loads` checks them against each other on a server that cuts connections on purpose.

use std::{
    collections::BTreeMap, ffi::OsString, net::SocketAddr, path::Path, process::Stdio, time::Duration,
};

use anyhow::{Context as _, Result, bail};
use ebb_e2e::{
    bins,
    load::{Load, Plan, Protocol},
    process::{describe, spawn_bound_to_us},
    wait,
};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

/// How long a tool may take beyond the time for which it sends.
const PATIENCE: Duration = Duration::from_secs(60);

/// After how long without a response a request has failed, in seconds.
const TIMEOUT: &str = "10";

/// What a client has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Responses that came completely, whatever their status.
    pub responses: u64,
    /// Requests and connections that failed, by kind in the client's words; kinds without any are absent.
    pub failures: BTreeMap<String, u64>,
}

impl Outcome {
    fn new(responses: u64, failures: impl IntoIterator<Item = (String, u64)>) -> Self {
        let failures = failures.into_iter().filter(|(_, count)| *count > 0).collect();
        Self { responses, failures }
    }

    /// How many have failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

/// What to ask of which server.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// The path of every request.
    pub path: String,
    /// How many connections, each with one request at a time.
    pub connections: usize,
}

impl Target {
    fn url(&self) -> String {
        format!("http://{}{}", self.address, self.path)
    }
}

/// Sends over HTTP/1.1 for as long as said, in whole seconds. Requests that are in flight at the end count nowhere.
///
/// # Errors
/// When `wrk` is not there, does not end in time or prints something unknown.
pub async fn wrk(target: &Target, seconds: u32) -> Result<Outcome> {
    let connections = target.connections.to_string();
    let duration = format!("{seconds}s");
    let url = target.url();
    let timeout = format!("{TIMEOUT}s");
    let args = [
        "-t",
        "1",
        "-c",
        &connections,
        "-d",
        &duration,
        "--timeout",
        &timeout,
        &url,
    ];
    let text = output_of(
        &bins::wrk()?,
        &args,
        Duration::from_secs(seconds.into()) + PATIENCE,
    )
    .await?;
    parse_wrk(&text).with_context(|| format!("`wrk {url}` printed something unknown:\n{text}"))
}

/// Sends so many requests; over HTTP/2 with prior knowledge.
///
/// # Errors
/// When `h2load` is not there, does not end in time or prints something unknown.
pub async fn h2load(protocol: Protocol, target: &Target, requests: u64) -> Result<Outcome> {
    let connections = target.connections.to_string();
    let requests = requests.to_string();
    let url = target.url();
    let mut args = vec![
        "-t",
        "1",
        "-c",
        &connections,
        "-m",
        "1",
        "-n",
        &requests,
        "-N",
        TIMEOUT,
    ];
    if protocol == Protocol::Http1 {
        args.push("--h1");
    }
    args.push(&url);
    let text = output_of(&bins::h2load()?, &args, PATIENCE).await?;
    parse_h2load(&text).with_context(|| format!("`h2load {url}` printed something unknown:\n{text}"))
}

/// Sends at least so many requests with the tests' own clients, on a new connection whenever the server has announced
/// the end of the old one. Each client sends at most one request per millisecond.
///
/// # Errors
/// When they do not end in time.
pub async fn clients(protocol: Protocol, target: &Target, requests: u64) -> Result<Outcome> {
    let load = Load::start(&[Plan {
        address: target.address,
        protocol,
        clients: target.connections,
        interval: Duration::from_millis(1),
        path: target.path.clone(),
    }]);
    let what = format!("{requests} requests to {} end", target.url());
    wait::until(what, PATIENCE, || async { Ok(load.tally().requests >= requests) }).await?;
    let tally = load.stop().await;
    let responses = tally.requests.saturating_sub(tally.failed());
    let failures = tally
        .failures
        .iter()
        .map(|(kind, count)| (kind.to_string(), *count));
    Ok(Outcome::new(responses, failures))
}

async fn output_of(program: &Path, args: &[&str], bound: Duration) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args.iter().map(OsString::from));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child =
        spawn_bound_to_us(&mut command).with_context(|| format!("cannot start {}", program.display()))?;
    let what = format!("{} ends", program.display());
    let output = wait::within(what, bound, child.wait_with_output()).await??;
    if !output.status.success() {
        bail!(
            "{} ended with {}: {}",
            program.display(),
            describe(output.status),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Reads what `wrk` prints. It counts a response of 400 and above among the responses, and says so.
fn parse_wrk(text: &str) -> Option<Outcome> {
    let lines = || text.lines().map(str::trim);
    let responses = lines().find_map(|line| line.split_once(" requests in ")?.0.parse().ok())?;
    let mut failures = Vec::new();
    if let Some(errors) = lines().find_map(|line| line.strip_prefix("Socket errors: ")) {
        for error in errors.split(", ") {
            let (kind, count) = error.split_once(' ')?;
            failures.push((kind.to_owned(), count.parse().ok()?));
        }
    }
    if let Some(count) = lines().find_map(|line| line.strip_prefix("Non-2xx or 3xx responses: ")) {
        failures.push(("status".to_owned(), count.parse().ok()?));
    }
    Some(Outcome::new(responses, failures))
}

/// Reads what `h2load` prints. Its `failed` are responses of 400 and above, and all that got no response at all.
fn parse_h2load(text: &str) -> Option<Outcome> {
    let numbers = |heading: &str| -> Option<BTreeMap<String, u64>> {
        let line = text.lines().find_map(|line| line.strip_prefix(heading))?;
        let pair = |part: &str| -> Option<(String, u64)> {
            let (count, kind) = part.trim().split_once(' ')?;
            Some((kind.to_owned(), count.parse().ok()?))
        };
        line.split(',').map(pair).collect()
    };
    let requests = numbers("requests: ")?;
    let statuses = numbers("status codes: ")?;
    let bad = statuses.get("4xx")?.saturating_add(*statuses.get("5xx")?);
    let lost = requests.get("failed")?.saturating_sub(bad);
    let responses = requests.get("succeeded")?.saturating_add(bad);
    Some(Outcome::new(
        responses,
        [("status".to_owned(), bad), ("no response".to_owned(), lost)],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(kinds: &[(&str, u64)]) -> BTreeMap<String, u64> {
        kinds
            .iter()
            .map(|(kind, count)| ((*kind).to_owned(), *count))
            .collect()
    }

    #[test]
    fn what_wrk_prints() {
        let well = "Running 1s test @ http://127.0.0.1:1/\n  1 threads and 16 connections\n  \
                    26354 requests in 1.00s, 3.17MB read\nRequests/sec:  26310.51\n";
        assert_eq!(parse_wrk(well), Some(Outcome::new(26354, [])));
        let badly = "  970 requests in 1.00s, 3.17MB read\n  Socket errors: connect 0, read 9, write 0, timeout 1\n  \
                     Non-2xx or 3xx responses: 4\n";
        let outcome = parse_wrk(badly).unwrap();
        assert_eq!(outcome.responses, 970);
        assert_eq!(
            outcome.failures,
            failures(&[("read", 9), ("timeout", 1), ("status", 4)])
        );
        assert_eq!(
            parse_wrk("unable to connect to 127.0.0.1:1 Connection refused"),
            None
        );
    }

    #[test]
    fn what_h2load_prints() {
        let text = "finished in 70.77ms, 1412.98 req/s, 1.00MB/s\n\
                    requests: 100 total, 100 started, 97 done, 90 succeeded, 10 failed, 3 errored, 0 timeout\n\
                    status codes: 90 2xx, 0 3xx, 0 4xx, 7 5xx\n";
        let outcome = parse_h2load(text).unwrap();
        assert_eq!(outcome.responses, 97);
        assert_eq!(outcome.failures, failures(&[("status", 7), ("no response", 3)]));
        assert_eq!((outcome.failed(), parse_h2load("usage: h2load")), (10, None));
    }
}
