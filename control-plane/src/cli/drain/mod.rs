//! `ebb drain`: starts a drain and, if asked, waits for its end.

mod lines;
mod progress;
pub(super) mod report;
mod wait;

use std::time::Duration;

use clap::ValueEnum;
use ebb_proto::v1::{Drain, Evidence, OnTimeout, Policy, Scope, StartDrainRequest, Tcp};

use super::{
    client::Client,
    common::{self, EndpointArgs, Format, OutputArgs, block_on},
    exit::{Exit, Failure},
    output::{self, one_line},
};
use crate::address::Address;

/// Drain Envoy: have clients move on, and wait for the last request
///
/// Without --node and --listener everything is drained, also what attaches later. A key that is not given takes the
/// control plane's default, shown here as it is unless configured otherwise. A drain that has ended goes on closing
/// connections until `ebb cancel ID` releases it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Drain this node only (Envoy's `node.id`); may be repeated [default: every node]
    #[arg(long, value_name = "NODE")]
    node: Vec<String>,
    /// Drain this listener only (the name in the filter's configuration); may be repeated [default: every listener]
    #[arg(long, value_name = "LISTENER")]
    listener: Vec<String>,
    /// Deadline over the whole drain, the announcement included; 0 = do not wait, time out at once [default: 30s]
    #[arg(long, value_name = "DURATION")]
    timeout: Option<String>,
    /// How long nothing may be in flight and nothing may arrive before the drain is done; 0 = the first confirmed
    /// zero is enough; with --upstream at least 300ms if unset [default: 200ms]
    #[arg(long, value_name = "DURATION")]
    quiet_period: Option<String>,
    /// How long to go on serving as usual first, so that load balancers hear of it; 0 = close at once [default: 0]
    #[arg(long, value_name = "DURATION")]
    announce: Option<String>,
    /// Time over which the share of responses that close their connection grows from none to all; 0 = all at once
    /// [default: 0]
    #[arg(long, value_name = "DURATION")]
    ramp: Option<String>,
    /// How long a filter goes on closing without hearing from the control plane, which renews it; at least 1s
    /// [default: 60s]
    #[arg(long, value_name = "DURATION")]
    lease: Option<String>,
    /// What a missed deadline means [default: proceed]
    #[arg(long, value_name = "WHAT", value_enum)]
    on_timeout: Option<WhenLate>,
    /// What has to tell that nothing is in flight [default: auto]
    #[arg(long, value_name = "WHAT", value_enum)]
    evidence: Option<ByWhat>,
    /// What raw TCP sessions are, which Envoy's admin endpoint tells of [default: wait]
    #[arg(long, value_name = "WHAT", value_enum)]
    tcp: Option<OfTcp>,
    /// How long to go on after the last request where it cannot be seen whether clients have received everything (no
    /// admin endpoint, and an Envoy elsewhere); 0 = do not; if unset at most what the timeout leaves [default: 1s]
    #[arg(long, value_name = "DURATION")]
    linger: Option<String>,
    /// How long to go on after the last request, so that access loggers send what they buffer: at least their
    /// buffer_flush_interval; 0 = do not [default: 0]
    #[arg(long, value_name = "DURATION")]
    flush: Option<String>,
    /// How long to go on at least once closing, so that clients that are idle now may come back and be told; 0 = do not
    /// [default: 0]
    #[arg(long, value_name = "DURATION")]
    idle: Option<String>,
    /// Wait until nothing is in flight towards this upstream endpoint, as 127.0.0.1:8081, and close nothing; may be
    /// repeated, but not with --listener. The filter has to count upstreams (`upstreams` in its configuration)
    #[arg(long, value_name = "ENDPOINT", conflicts_with = "listener")]
    upstream: Vec<String>,
    /// Makes it safe to repeat this command: an equal ID (at most 128 bytes) with an equal scope and policy is the
    /// same drain
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Wait for the end, with progress on standard error; the exit code says how it ended
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    endpoint: EndpointArgs,
    #[command(flatten)]
    output: OutputArgs,
}

const EXAMPLES: &str = "\
Exit codes with --wait:
  0 drained, 3 timed out, 4 cancelled, 6 cut, 1 error, 2 usage, 130 Ctrl-C (the drain goes on)

Examples:
  ebb drain --listener ingress --wait
  ebb drain --node edge-1 --announce 5s --timeout 2m --wait -o json
  id=$(ebb drain --listener ingress --ramp 30s) && ebb cancel \"$id\"";

/// What a drain goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ByWhat {
    /// The filter; while reporters of a node are unknown, its Envoy's own count
    Auto,
    /// The filter, and nothing else
    Filter,
    /// Envoy's own count, by its admin endpoint (`ebb serve --admin`)
    Admin,
    /// Nothing: the drain takes its whole timeout, and ends drained unless requests are known to be in flight
    Delay,
}

/// What raw TCP sessions are to a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OfTcp {
    /// They are waited for like requests in flight
    Wait,
    /// They are not waited for
    Ignore,
}

/// What happens at a missed deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WhenLate {
    /// The drain ends as timed out, and its listeners go on closing
    Proceed,
    /// The drain ends as timed out, and its listeners serve as before
    Abort,
}

/// A drain to start.
#[derive(Debug)]
pub(crate) struct Start {
    request: StartDrainRequest,
    endpoint: Address,
    format: Format,
    wait: bool,
}

impl TryFrom<Args> for Start {
    type Error = Failure;

    fn try_from(args: Args) -> Result<Self, Failure> {
        let on_timeout = match args.on_timeout {
            None => OnTimeout::Unspecified,
            Some(WhenLate::Proceed) => OnTimeout::Proceed,
            Some(WhenLate::Abort) => OnTimeout::Abort,
        };
        let policy = Policy {
            announce: duration("--announce", args.announce)?,
            quiet_period: duration("--quiet-period", args.quiet_period)?,
            timeout: duration("--timeout", args.timeout)?,
            ramp: duration("--ramp", args.ramp)?,
            lease: duration("--lease", args.lease)?,
            on_timeout: on_timeout.into(),
            evidence: match args.evidence {
                None => Evidence::Unspecified,
                Some(ByWhat::Auto) => Evidence::Auto,
                Some(ByWhat::Filter) => Evidence::Filter,
                Some(ByWhat::Admin) => Evidence::Admin,
                Some(ByWhat::Delay) => Evidence::Delay,
            }
            .into(),
            tcp: match args.tcp {
                None => Tcp::Unspecified,
                Some(OfTcp::Wait) => Tcp::Wait,
                Some(OfTcp::Ignore) => Tcp::Ignore,
            }
            .into(),
            linger: duration("--linger", args.linger)?,
            flush: duration("--flush", args.flush)?,
            idle: duration("--idle", args.idle)?,
        };
        let scope = Scope {
            nodes: common::names("--node", args.node)?,
            listeners: common::names("--listener", args.listener)?,
            upstreams: common::names("--upstream", args.upstream)?,
        };
        let request_id = args.request_id.unwrap_or_default();
        Ok(Self {
            request: StartDrainRequest {
                request_id,
                scope: Some(scope),
                policy: Some(policy),
            },
            endpoint: args.endpoint.try_into()?,
            format: args.output.output,
            wait: args.wait,
        })
    }
}

fn duration(flag: &str, text: Option<String>) -> Result<Option<prost_types::Duration>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let duration: Duration = common::duration(flag, &text)?;
    let wire = duration
        .try_into()
        .map_err(|_| Failure::Usage(format!("{flag}: `{text}` is too long a time")))?;
    Ok(Some(wire))
}

/// Starts the drain; waits for it if asked.
///
/// # Errors
/// If it cannot be started, or be followed to its end.
pub(crate) fn run(start: &Start) -> Result<Exit, Failure> {
    block_on(async {
        let client = Client::connect(&start.endpoint).await?;
        let answer = client
            .call_within(START_WITHIN, client.drains().start_drain(start.request.clone()))
            .await?;
        let drain = answer.drain.unwrap_or_default();
        if start.wait {
            finish(start, drain).await
        } else {
            print_started(start.format, &drain)
        }
    })
}

/// A control plane that has just been started waits some seconds for filters to come back before it refuses.
const START_WITHIN: Duration = Duration::from_secs(10);

fn print_started(format: Format, drain: &Drain) -> Result<Exit, Failure> {
    match format {
        Format::Text => {
            report::warnings(drain).for_each(|line| output::say(&line));
            output::print(&one_line(&drain.id))?
        }
        Format::Json => output::print_json(&report::Started::new(drain))?,
    };
    Ok(Exit::Success)
}

async fn finish(start: &Start, drain: Drain) -> Result<Exit, Failure> {
    let id = drain.id.clone();
    match wait::until_end(&start.endpoint, drain).await? {
        wait::End::Ended(drain, outcome) => {
            match start.format {
                Format::Text => output::print(&report::text(&drain, outcome).join("\n"))?,
                Format::Json => output::print_json(&report::Ended::new(&drain, Some(outcome)))?,
            };
            Ok(outcome.exit())
        }
        wait::End::Interrupted => {
            output::say(&format!(
                "the drain goes on; `{}` cancels it",
                cancel_command(&start.endpoint, &id)
            ));
            Ok(Exit::Interrupted)
        }
    }
}

/// What to type to cancel a drain of this control plane.
fn cancel_command(endpoint: &Address, id: &str) -> String {
    match super::paths::Surroundings::of_this_process().address() == *endpoint {
        true => format!("ebb cancel {id}"),
        false => format!("ebb cancel {id} --endpoint {endpoint}"),
    }
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Drained,
    TimedOut,
    Cancelled,
    Cut,
}

impl Outcome {
    /// None while the drain is on.
    pub(super) fn of(drain: &Drain) -> Option<Self> {
        use ebb_proto::v1::Phase;
        match drain.phase() {
            Phase::Drained => Some(Self::Drained),
            Phase::TimedOut => Some(Self::TimedOut),
            Phase::Cancelled => Some(Self::Cancelled),
            Phase::Cut => Some(Self::Cut),
            Phase::Unspecified | Phase::Announced | Phase::Draining | Phase::Quiet => None,
        }
    }

    fn exit(self) -> Exit {
        match self {
            Self::Drained => Exit::Success,
            Self::TimedOut => Exit::TimedOut,
            Self::Cancelled => Exit::Cancelled,
            Self::Cut => Exit::Cut,
        }
    }
}
