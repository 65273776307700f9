//! `ebb watch`: follows nodes, drains and processes until Ctrl-C.

use std::{collections::BTreeMap, time::Duration};

use console::Term;
use ebb_proto::v1::{Node, WatchNodesRequest};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{
    client::Client,
    common::{EndpointArgs, Format, OutputArgs, block_on, count, interrupted},
    exit::{Exit, Failure},
    fleet::{self, Fleet, scope},
    follow::{Update, follow},
    output::{self, Reader, one_line},
    screen::Screen,
};
use crate::address::Address;

/// How often drains and processes are looked at while the nodes have nothing new.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Follow nodes, drains and processes until Ctrl-C
///
/// On a terminal a table that is kept up to date; otherwise a line for every change. It goes on over a restart of
/// the control plane. Numbers change at most every 200 ms.
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
        fleet::drains(&client).await?;
        let updates = follow(watch.endpoint.clone(), |client: Client| async move {
            client
                .call(client.fleet().watch_nodes(WatchNodesRequest {}))
                .await
        });
        let mut view = View::new(watch.format);
        let watching = keep(&watch.endpoint, updates, &mut view);
        tokio::select! {
            ended = watching => ended,
            () = interrupted => Ok(Exit::Success),
        }
    })
}

async fn keep(
    endpoint: &Address,
    mut updates: mpsc::Receiver<Update<ebb_proto::v1::WatchNodesResponse>>,
    view: &mut View,
) -> Result<Exit, Failure> {
    let mut look_again = interval(LOOK_AGAIN);
    look_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut nodes: Option<Vec<Node>> = None;
    let mut client: Option<Client> = None;
    loop {
        tokio::select! {
            update = updates.recv() => match update {
                Some(Update::Message(message)) => nodes = Some(message.nodes),
                Some(Update::Lost(reason)) => {
                    (nodes, client) = (None, None);
                    view.lost(&reason);
                }
                Some(Update::Refused(reason)) => return Err(Failure::Error(reason)),
                None => return Ok(Exit::Success),
            },
            _ = look_again.tick() => {}
        }
        let Some(nodes) = nodes.clone() else { continue };
        let asked = match client.take() {
            Some(client) => Ok(client),
            None => Client::connect(endpoint).await,
        };
        // A failure here shows on the stream as well, which then says so.
        let Ok(asked) = asked else { continue };
        let (Ok(drains), Ok(processes)) = (fleet::drains(&asked).await, fleet::processes(&asked).await)
        else {
            continue;
        };
        client = Some(asked);
        if view.show(Fleet::new(nodes, drains, processes))? == Reader::Gone {
            return Ok(Exit::Success);
        }
    }
}

/// Where the fleet is shown, and what was shown last.
enum View {
    Live {
        screen: Screen,
        last: Vec<String>,
    },
    Lines {
        last: BTreeMap<String, String>,
        lost: bool,
    },
    Json {
        last: Option<Fleet>,
        lost: bool,
    },
}

impl View {
    fn new(format: Format) -> Self {
        match (format, Screen::on(Term::buffered_stdout())) {
            (Format::Json, _) => Self::Json {
                last: None,
                lost: false,
            },
            (Format::Text, Some(screen)) => Self::Live {
                screen,
                last: Vec::new(),
            },
            (Format::Text, None) => Self::Lines {
                last: BTreeMap::new(),
                lost: false,
            },
        }
    }

    fn show(&mut self, fleet: Fleet) -> Result<Reader, Failure> {
        match self {
            Self::Live { screen, last } => {
                *last = fleet.lines();
                screen.paint(last);
            }
            Self::Lines { last, lost } => {
                *lost = false;
                let now = facts(&fleet);
                let changes = changes(last, &now);
                *last = now;
                if !changes.is_empty() {
                    return output::print(&changes.join("\n"));
                }
            }
            Self::Json { last, lost } => {
                *lost = false;
                if last.as_ref().map(timeless) != Some(timeless(&fleet)) {
                    let reader = output::print_json(&fleet)?;
                    *last = Some(fleet);
                    return Ok(reader);
                }
            }
        }
        Ok(Reader::There)
    }

    fn lost(&mut self, reason: &str) {
        let reason = format!("{reason}; trying again");
        match self {
            Self::Live { screen, last } => {
                let note = [String::new(), one_line(&reason)];
                screen.paint(&last.iter().cloned().chain(note).collect::<Vec<_>>());
            }
            Self::Lines { lost, .. } | Self::Json { lost, .. } => {
                if !std::mem::replace(lost, true) {
                    output::say(&reason);
                }
            }
        }
    }
}

/// Time passing is no change.
fn timeless(fleet: &Fleet) -> Fleet {
    let mut fleet = fleet.clone();
    for drain in &mut fleet.drains {
        drain.elapsed_ms = 0;
    }
    for process in &mut fleet.processes {
        process.uptime_ms = None;
        process.waits_for.clear();
    }
    fleet
}

/// What can be said in a line each, by the thing that it is about.
fn facts(fleet: &Fleet) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    for node in &fleet.nodes {
        let unknown = match node.unknown_reporters {
            0 => String::new(),
            unknown => format!(", {unknown} unknown"),
        };
        let reporters = format!("{}{unknown}", count(node.reporters as u64, "reporter"));
        facts.insert(format!("node {}", one_line(&node.id)), reporters);
        for listener in &node.listeners {
            let name = format!("listener {}/{}", one_line(&node.id), one_line(&listener.name));
            facts.insert(
                name,
                format!("{}, {} in flight", listener.phase, listener.in_flight),
            );
        }
    }
    for drain in &fleet.drains {
        let holding = if drain.has_ended() && !drain.holding {
            ", released"
        } else {
            ""
        };
        let scope = one_line(&scope(&drain.nodes, &drain.listeners));
        let text = format!(
            "{}{holding}, {} in flight ({scope})",
            drain.phase, drain.in_flight
        );
        facts.insert(format!("drain {}", one_line(&drain.id)), text);
    }
    for process in &fleet.processes {
        let pid = process.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
        let text = format!("{}{pid}", process.state_text());
        facts.insert(format!("process {}", one_line(&process.name)), text);
    }
    facts
}

/// A line for each thing that is new, different or gone.
fn changes(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<String> {
    let changed = now
        .iter()
        .filter(|(thing, fact)| before.get(*thing) != Some(*fact));
    let gone = before.keys().filter(|thing| !now.contains_key(*thing));
    changed
        .map(|(thing, fact)| format!("{thing}: {fact}"))
        .chain(gone.map(|thing| format!("{thing}: gone")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_about_what_changed() {
        let facts = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .map(|(thing, fact)| ((*thing).to_owned(), (*fact).to_owned()))
                .collect()
        };
        let before = facts(&[("node a", "1"), ("node b", "1"), ("node c", "1")]);
        let now = facts(&[("node a", "1"), ("node b", "2"), ("node d", "1")]);
        assert_eq!(changes(&before, &now), ["node b: 2", "node d: 1", "node c: gone"]);
        assert!(changes(&now, &now).is_empty());
    }
}
