//! `ebb forget`: says that reporters of a node which are away are gone for good.

use ebb_proto::v1::ForgetNodeRequest;

use super::{
    client::Client,
    common::{EndpointArgs, block_on, count},
    exit::{Exit, Failure},
    output::{self, one_line},
};
use crate::address::Address;

/// Say that an Envoy which is not attached any more is gone for good
///
/// An Envoy whose streams broke may still be serving requests, so every drain that would have covered it waits for it, until
/// its deadline: unless it said goodbye, was seen to end on this machine, has a successor, or you say with this command that
/// it is gone. Requests that it had in flight count as cut.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The node, as `ebb status` lists it
    #[arg(value_name = "NODE")]
    node: String,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

const EXAMPLES: &str = "\
Examples:
  ebb forget edge-7
  ebb status -o json | jq -r '.nodes[].id'   the nodes that are known";

/// A node to forget.
#[derive(Debug)]
pub(crate) struct Forget {
    node: String,
    endpoint: Address,
}

impl TryFrom<Args> for Forget {
    type Error = Failure;

    fn try_from(args: Args) -> Result<Self, Failure> {
        if args.node.is_empty() {
            return Err(Failure::Usage(
                "NODE is empty: name one that `ebb status` lists".to_owned(),
            ));
        }
        Ok(Self {
            node: args.node,
            endpoint: args.endpoint.try_into()?,
        })
    }
}

/// Forgets the node and says how much of it.
///
/// # Errors
/// If there is no such node, all of it is attached, or the control plane does not answer.
pub(crate) fn run(forget: &Forget) -> Result<Exit, Failure> {
    block_on(async {
        let client = Client::connect(&forget.endpoint).await?;
        let request = ForgetNodeRequest {
            node: forget.node.clone(),
        };
        let reporters = client.call(client.fleet().forget_node(request)).await?.reporters;
        output::print(&format!(
            "{} forgotten: {}",
            one_line(&forget.node),
            count(reporters.into(), "reporter")
        ))?;
        Ok(Exit::Success)
    })
}
