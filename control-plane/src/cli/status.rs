//! `ebb status`: what is attached, in flight and draining, now.

use super::{
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
}

const EXAMPLES: &str = "\
Examples:
  ebb status
  ebb status -o json | jq '[.nodes[].listeners[].in_flight] | add'   requests in flight in all";

/// A request for the status.
#[derive(Debug)]
pub(crate) struct Status {
    endpoint: Address,
    format: Format,
}

impl TryFrom<Args> for Status {
    type Error = Failure;

    fn try_from(args: Args) -> Result<Self, Failure> {
        Ok(Self {
            endpoint: args.endpoint.try_into()?,
            format: args.output.output,
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
        let fleet = Fleet::ask(&client).await?;
        match status.format {
            Format::Text => output::print(&fleet.lines().join("\n"))?,
            Format::Json => output::print_json(&fleet)?,
        };
        Ok(Exit::Success)
    })
}
