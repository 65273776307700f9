//! `ebb status`: what is attached, in flight and draining, now.

use super::{
    blockers,
    client::Client,
    common::{EndpointArgs, Format, OutputArgs, block_on},
    exit::{Exit, Failure},
    fleet::Fleet,
    output,
};
use crate::address::Address;

/// Show nodes, what they have in flight, and drains
///
/// The control plane asks every filter, so the numbers are no older than 250 ms. A reporter is one worker of an
/// Envoy; one that does not answer is unknown, and what it has in flight is not in the numbers.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    endpoint: EndpointArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Also list the oldest requests in flight, at most N (1 to 100) of each listener of a node: how old, which
    /// protocol, route and upstream. Filters are asked for them now, and show no path, header or other content
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "10", value_parser = clap::value_parser!(u32).range(1..=100))]
    blockers: Option<u32>,
}

const EXAMPLES: &str = "\
Examples:
  ebb status
  ebb status --blockers 3                      what keeps each listener busy
  ebb status -o json | jq '[.nodes[].listeners[].in_flight] | add'   requests in flight in all";

/// A request for the status.
#[derive(Debug)]
pub(crate) struct Status {
    endpoint: Address,
    format: Format,
    blockers: Option<u32>,
}

impl TryFrom<Args> for Status {
    type Error = Failure;

    fn try_from(args: Args) -> Result<Self, Failure> {
        Ok(Self {
            endpoint: args.endpoint.try_into()?,
            format: args.output.output,
            blockers: args.blockers,
        })
    }
}

/// Prints the status.
///
/// # Errors
/// If the control plane does not answer.
pub(crate) fn run(status: &Status) -> Result<Exit, Failure> {
    block_on(async {
        let client = Client::connect(&status.endpoint).await?;
        let mut fleet = Fleet::ask(&client).await?;
        if let Some(limit) = status.blockers {
            fleet.blockers = Some(blockers::ask(&client, "", limit).await?);
        }
        match status.format {
            Format::Text => output::print(&fleet.lines().join("\n"))?,
            Format::Json => output::print_json(&fleet)?,
        };
        Ok(Exit::Success)
    })
}
