//! `ebb cancel`: ends a drain, or releases one that has ended and still holds. Or undoes what a drain left that nobody knows.

use ebb_proto::v1::{CancelDrainRequest, Phase, RestoreNodeRequest};

use super::{
    client::Client,
    common::{self, EndpointArgs, block_on, count},
    exit::{Exit, Failure},
    output::{self, one_line},
};
use crate::address::Address;

/// Cancel a running drain, or release one that has ended
///
/// The listeners of the drain serve as before. A drain that has ended as drained or timed out goes on closing
/// connections until it is released like this; its outcome stays. Repeating it does nothing.
///
/// A control plane that keeps nothing (`--state ""`) and is killed leaves an Envoy that it told to fail its health checks, and no
/// drain to cancel: then `--node` has that Envoy pass them again.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The drain, as `ebb drain` printed it and `ebb status` lists it
    #[arg(value_name = "ID", required_unless_present = "node")]
    id: Option<String>,
    /// No drain, but the Envoys of this node (`node.id`), by their admin endpoints: they pass their health checks again
    #[arg(long, value_name = "NODE", conflicts_with = "id")]
    node: Option<String>,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

const EXAMPLES: &str = "\
Examples:
  ebb cancel \"$(ebb drain --listener ingress)\"
  ebb cancel --node edge-1                                     its control plane kept nothing, and is gone
  ebb status -o json | jq -r '.drains[] | select(.holding).id' | xargs -n1 ebb cancel";

/// A drain to cancel, or what is left of one.
#[derive(Debug)]
pub(crate) struct Cancel {
    what: What,
    endpoint: Address,
}

#[derive(Debug)]
enum What {
    /// By its id.
    Drain(String),
    /// Of the Envoys of this node.
    Node(String),
}

impl TryFrom<Args> for Cancel {
    type Error = Failure;

    fn try_from(args: Args) -> Result<Self, Failure> {
        let what = match args.node {
            None => What::Drain(common::drain_id(args.id.unwrap_or_default())?),
            Some(node) if node.trim().is_empty() => {
                let text = "--node: the name is empty: name one that `ebb status` lists";
                return Err(Failure::Usage(text.to_owned()));
            }
            Some(node) => What::Node(node),
        };
        Ok(Self {
            what,
            endpoint: args.endpoint.try_into()?,
        })
    }
}

/// Cancels the drain and says what became of it.
///
/// # Errors
/// If there is no such drain or node, or the control plane does not answer.
pub(crate) fn run(cancel: &Cancel) -> Result<Exit, Failure> {
    block_on(async {
        let client = Client::connect(&cancel.endpoint).await?;
        match &cancel.what {
            What::Drain(id) => cancel_drain(&client, id).await?,
            What::Node(node) => restore_node(&client, node).await?,
        }
        Ok(Exit::Success)
    })
}

async fn cancel_drain(client: &Client, id: &str) -> Result<(), Failure> {
    let request = CancelDrainRequest { id: id.to_owned() };
    let answer = client.call(client.drains().cancel_drain(request)).await?;
    let drain = answer.drain.unwrap_or_default();
    let done = match drain.phase() {
        Phase::Drained => "released (it had drained)",
        Phase::TimedOut => "released (it had timed out)",
        Phase::Cut => "released (it had ended with requests cut)",
        _ => "cancelled",
    };
    output::print(&format!("{} {done}", one_line(id)))?;
    for warning in &drain.warnings {
        output::say(&format!("warning: {warning}"));
    }
    Ok(())
}

async fn restore_node(client: &Client, node: &str) -> Result<(), Failure> {
    let request = RestoreNodeRequest {
        node: node.to_owned(),
    };
    let envoys = client.call(client.fleet().restore_node(request)).await?.envoys;
    output::print(&format!(
        "{} passes its health checks again ({})",
        one_line(node),
        count(envoys.into(), "Envoy")
    ))?;
    Ok(())
}
