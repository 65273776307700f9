//! Fleet: thousands of simulated filters on one `ebb serve`.
//!
//! | file | what |
//! |---|---|
//! | `mod` | what is measured, and in which order |
//! | `filter` | one simulated filter: the real filter's state machine |
//! | `link` | the HTTP/2 connection that it speaks through |
//! | `swarm` | many of them, on two threads |
//! | `board` | what all of them have seen |
//! | `stage` | one control plane with its filters, and what is asked of it |
//! | `bare` | the same filters on a gRPC server that does nothing: what a connection costs anyway |
//! | `figures` | the raw figures |
//! | `table` | the figures as Markdown |

pub mod bare;
mod board;
mod figures;
mod filter;
mod link;
mod stage;
mod swarm;
mod table;

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{Mode, progress::Progress};
pub use figures::{Attach, Bare, DrainRound, Fleet, Idle, Load, Size, Storm};
use stage::Stage;
use swarm::Layout;

/// Longer than anything takes here.
const FOREVER: Duration = Duration::from_secs(86_400);

/// How much of everything.
#[derive(Clone, Debug)]
struct Plan {
    layouts: Vec<Layout>,
    drains: usize,
    /// How long is waited for memory to settle.
    settle: Duration,
    /// How long is looked at an idle control plane, and at one that drains.
    idle: Duration,
    load: Duration,
    /// How long nothing may reconnect after a storm.
    calm: Duration,
}

const fn layout(streams: usize, per_connection: usize) -> Layout {
    Layout {
        streams,
        per_connection,
    }
}

impl Plan {
    fn of(mode: Mode) -> Self {
        let seconds = |full, short| Duration::from_secs_f64(mode.pick(full, short));
        Self {
            layouts: mode.pick(
                vec![
                    layout(1000, 1),
                    layout(10_000, 1),
                    layout(1000, 100),
                    layout(10_000, 100),
                ],
                vec![layout(48, 1), layout(200, 50)],
            ),
            drains: mode.pick(7, 1),
            settle: seconds(3.0, 0.2),
            idle: seconds(12.0, 0.5),
            load: seconds(5.0, 0.7),
            calm: seconds(4.0, 0.5),
        }
    }
}

/// Measures.
///
/// # Errors
/// When a part does not start or does not do what it should: a filter that does not attach, is not told, or does not come
/// back, or a drain that does not end as drained.
pub async fn run(mode: Mode, progress: &Progress) -> Result<Fleet> {
    let plan = Plan::of(mode);
    let most = plan
        .layouts
        .iter()
        .map(|layout| layout.streams / layout.per_connection.max(1))
        .max();
    swarm::allow_connections(most.unwrap_or_default())?;
    let mut sizes = Vec::new();
    for layout in &plan.layouts {
        let (streams, per_connection) = (layout.streams, layout.per_connection);
        progress.say(format!(
            "fleet: {streams} filters, {per_connection} per connection"
        ));
        let size = measure(&plan, *layout)
            .await
            .with_context(|| format!("with {streams} filters, {per_connection} per connection"))?;
        // A later one may fail, and these would be lost.
        progress.say(size.in_words());
        sizes.push(size);
    }
    Ok(Fleet { sizes })
}

async fn measure(plan: &Plan, layout: Layout) -> Result<Size> {
    let bare = bare::measure(layout, plan.settle, plan.idle).await?;
    let mut stage = Stage::start().await?;
    let memory_empty = stage.memory()?;
    let attach = stage.attach(layout).await?;
    tokio::time::sleep(plan.settle).await;
    let memory_attached = stage.memory()?;
    let idle = stage.idle(plan.idle).await?;
    let mut drains = Vec::new();
    for _ in 0..plan.drains {
        drains.push(stage.drain(None).await?.0);
    }
    let load = stage.drain(Some(plan.load)).await?.1;
    tokio::time::sleep(plan.settle).await;
    let memory_after = stage.memory()?;
    let storm = stage.storm(plan.calm).await?;
    Ok(Size {
        streams: layout.streams as u64,
        per_connection: layout.per_connection as u64,
        attach,
        memory_empty,
        memory_attached,
        memory_after,
        idle,
        drains,
        load: load.context("a drain under load has no figures")?,
        storm,
        bare,
    })
}
