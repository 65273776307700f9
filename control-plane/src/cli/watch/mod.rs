//! `ebb watch`: follows nodes and drains until Ctrl-C.

mod oldest;
mod view;

use std::time::Duration;

use ebb_proto::v1::{WatchNodesRequest, WatchNodesResponse, WatchProcessesResponse};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use self::{oldest::Oldest, view::View};
use super::{
    client::{CallError, Client},
    common::{EndpointArgs, Format, OutputArgs, block_on, interrupted},
    exit::{Exit, Failure},
    fleet::Fleet,
    follow::{Update, follow},
    output::Reader,
    processes::{self, Told},
};
use crate::address::Address;

/// How often to look while the nodes have nothing new.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Follow nodes and drains until Ctrl-C
///
/// On a terminal a table that is kept up to date; otherwise a line for every change. It goes on over a restart of
/// the control plane. Numbers are asked for every 500 ms, and when something changes. While a drain waits for longer
/// than 2 s, the oldest requests that it waits for are shown too.
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
  ebb watch
  ebb watch -o json | jq -c .drains     an object as of `ebb status -o json` for every change";

/// A watch to keep.
#[derive(Debug)]
pub(crate) struct Watch {
    endpoint: Address,
    format: Format,
}

impl TryFrom<Args> for Watch {
    type Error = Failure;

    fn try_from(args: Args) -> Result<Self, Failure> {
        Ok(Self {
            endpoint: args.endpoint.try_into()?,
            format: args.output.output,
        })
    }
}

/// Watches until Ctrl-C, which is its regular end.
///
/// # Errors
/// If the control plane cannot be reached at the start, or refuses.
pub(crate) fn run(watch: &Watch) -> Result<Exit, Failure> {
    block_on(async {
        let interrupted = interrupted();
        // A wrong endpoint must be an error, not a watch that waits for ever.
        let client = Client::connect(&watch.endpoint).await?;
        let fleet = Fleet::ask(&client).await?;
        let processes = Told::now(fleet.processes.clone());
        let mut view = View::new(watch.format);
        if view.show(fleet)? == Reader::Gone {
            return Ok(Exit::Success);
        }
        let changes = follow(watch.endpoint.clone(), |client: Client| async move {
            client
                .call(client.fleet().watch_nodes(WatchNodesRequest {}))
                .await
        });
        let changes = Changes {
            nodes: changes,
            processes: processes::watch(watch.endpoint.clone()),
        };
        let ended = tokio::select! {
            ended = keep(&client, changes, processes, &mut view) => ended,
            () = interrupted => Ok(Exit::Success),
        };
        view.end();
        ended
    })
}

/// What is told without being asked for.
struct Changes {
    nodes: mpsc::Receiver<Update<WatchNodesResponse>>,
    processes: mpsc::Receiver<Update<WatchProcessesResponse>>,
}

/// The fleet as it is now, with what its drains wait for.
async fn look(client: &Client, processes: &Told, oldest: &mut Oldest) -> Result<Fleet, CallError> {
    let mut fleet = Fleet::ask_beside(client, processes.as_of_now()).await?;
    fleet.blockers = oldest.of(&fleet, client).await;
    Ok(fleet)
}

/// Shows the fleet again and again. The stream of nodes only says when to look: its numbers are as old as the last
/// reports, and filters that serve report rarely unless they are asked.
async fn keep(
    client: &Client,
    mut changes: Changes,
    mut processes: Told,
    view: &mut View,
) -> Result<Exit, Failure> {
    let mut look_again = interval(LOOK_AGAIN);
    look_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = false;
    let mut oldest = Oldest::default();
    loop {
        tokio::select! {
            // Whether the control plane is there is what the other stream says, and an older one refuses this one.
            Some(update) = changes.processes.recv() => match update {
                Update::Message(message) => processes = Told::now(processes::views(message.processes)),
                Update::Lost(_) | Update::Refused(_) => continue,
            },
            change = changes.nodes.recv() => match change {
                Some(Update::Message(_)) => heard = true,
                Some(Update::Lost(reason)) => {
                    heard = false;
                    view.lost(&reason);
                    continue;
                }
                Some(Update::Refused(reason)) => return Err(Failure::Error(reason)),
                None => return Ok(Exit::Success),
            },
            _ = look_again.tick(), if heard => {}
        }
        match look(client, &processes, &mut oldest).await {
            Ok(fleet) => {
                if view.show(fleet)? == Reader::Gone {
                    return Ok(Exit::Success);
                }
            }
            Err(CallError::Unavailable(reason)) => view.lost(&reason),
            Err(CallError::Refused(reason)) => return Err(Failure::Error(reason)),
        }
    }
}
