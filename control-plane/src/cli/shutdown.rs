//! `ebb shutdown`: the ordered shutdown of an `ebb run`.

use ebb_proto::v1::{ShutdownEvent, ShutdownRequest};

use super::{
    client::Client,
    common::{EndpointArgs, block_on, from_wire, human, interrupted},
    exit::{Exit, Failure},
    output,
};
use crate::address::Address;

/// Stop the processes of `ebb run` in order, drain included
///
/// The same as SIGTERM to `ebb run`, which ends once every process has. The last line with --wait says what was cut.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Wait for the end, with what happens on standard error
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

const EXAMPLES: &str = "\
Exit codes with --wait:
  0 everything has stopped, 1 error, 2 usage, 130 Ctrl-C (the shutdown goes on)

Examples:
  ebb shutdown
  ebb shutdown --wait";

/// A shutdown to ask for.
#[derive(Debug)]
pub(crate) struct Shutdown {
    endpoint: Address,
    wait: bool,
}

impl TryFrom<Args> for Shutdown {
    type Error = Failure;

    fn try_from(args: Args) -> Result<Self, Failure> {
        Ok(Self {
            endpoint: args.endpoint.try_into()?,
            wait: args.wait,
        })
    }
}

/// Asks for it, and waits if told to.
///
/// # Errors
/// If the control plane does not answer, keeps no process, or is lost before the end.
pub(crate) fn run(shutdown: &Shutdown) -> Result<Exit, Failure> {
    block_on(async {
        let interrupted = interrupted();
        let client = Client::connect(&shutdown.endpoint).await?;
        let mut calls = client.processes();
        let mut messages = client.call(calls.shutdown(ShutdownRequest {})).await?;
        if !shutdown.wait {
            return Ok(Exit::Success);
        }
        let watching = async {
            loop {
                match messages.message().await {
                    Ok(Some(message)) => match (message.event, message.exit_code) {
                        (Some(event), _) => output::say(&line(&event)),
                        (None, Some(_)) => return Ok(Exit::Success),
                        (None, None) => {}
                    },
                    Ok(None) => {
                        let text = "the shutdown was not followed to its end: the control plane went away";
                        return Err(Failure::Error(text.to_owned()));
                    }
                    Err(status) => return Err(client.error(&status).into()),
                }
            }
        };
        tokio::select! {
            ended = watching => ended,
            () = interrupted => Ok(Exit::Interrupted),
        }
    })
}

fn line(event: &ShutdownEvent) -> String {
    let since = human(from_wire(event.since));
    if event.process.is_empty() {
        format!("+{since} {}", event.text)
    } else {
        format!("+{since} {}: {}", event.process, event.text)
    }
}
