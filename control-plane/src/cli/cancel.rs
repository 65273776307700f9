//! `ebb cancel`: ends a drain, or releases one that has ended and still holds.

use ebb_proto::v1::{CancelDrainRequest, Phase};

use super::{
    client::Client,
    common::{self, EndpointArgs, block_on},
    exit::{Exit, Failure},
    output::{self, one_line},
};
use crate::address::Address;

/// Cancel a running drain, or release one that has ended
///
/// The listeners of the drain serve as before. A drain that has ended as drained or timed out goes on closing
/// connections until it is released like this; its outcome stays. Repeating it does nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The drain, as `ebb drain` printed it and `ebb status` lists it
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

const EXAMPLES: &str = "\
Examples:
  ebb cancel \"$(ebb drain --listener ingress)\"
  ebb status -o json | jq -r '.drains[] | select(.holding).id' | xargs -n1 ebb cancel";

/// A drain to cancel.
#[derive(Debug)]
pub(crate) struct Cancel {
    id: String,
    endpoint: Address,
}

impl TryFrom<Args> for Cancel {
    type Error = Failure;

    fn try_from(args: Args) -> Result<Self, Failure> {
        Ok(Self {
            id: common::drain_id(args.id)?,
            endpoint: args.endpoint.try_into()?,
        })
    }
}

/// Cancels the drain and says what became of it.
///
/// # Errors
/// If there is no such drain, or the control plane does not answer.
pub(crate) fn run(cancel: &Cancel) -> Result<Exit, Failure> {
    block_on(async {
        let client = Client::connect(&cancel.endpoint).await?;
        let request = CancelDrainRequest {
            id: cancel.id.clone(),
        };
        let drain = client
            .call(client.drains().cancel_drain(request))
            .await?
            .drain
            .unwrap_or_default();
        let done = match drain.phase() {
            Phase::Drained => "released (it had drained)",
            Phase::TimedOut => "released (it had timed out)",
            Phase::Cut => "released (it had ended with requests cut)",
            _ => "cancelled",
        };
        output::print(&format!("{} {done}", one_line(&cancel.id)))?;
        for warning in &drain.warnings {
            output::say(&format!("warning: {warning}"));
        }
        Ok(Exit::Success)
    })
}
