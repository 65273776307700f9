//! Waits for the end of a drain, through restarts of the control plane.

use std::time::Duration;

use ebb_proto::v1::{Drain, Phase, WatchDrainRequest};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::{Outcome, progress::Progress};
use crate::{
    address::Address,
    cli::{
        blockers::{Collector, LONG},
        client::Client,
        common::{from_wire, interrupted},
        exit::Failure,
        follow::{Update, follow},
    },
};

/// How long the end may be overdue: time for a restart of the control plane and for the reconnect.
const OVERDUE: Duration = Duration::from_secs(10);
/// How often the clock on the screen moves.
const TICK: Duration = Duration::from_millis(200);

/// How the waiting ended.
pub(super) enum End {
    /// With the drain.
    Ended(Box<Drain>, Outcome),
    /// By Ctrl-C: the drain goes on.
    Interrupted,
}

/// Follows `drain` to its end, at the latest 10 s after its deadline.
///
/// # Errors
/// If the control plane no longer knows the drain, or cannot be reached until then.
pub(super) async fn until_end(address: &Address, drain: Drain) -> Result<End, Failure> {
    if let Some(outcome) = Outcome::of(&drain) {
        return Ok(End::Ended(Box::new(drain), outcome));
    }
    let mut progress = Progress::new();
    let end = follow_to_end(address, drain, &mut progress).await;
    progress.clear();
    end
}

async fn follow_to_end(address: &Address, drain: Drain, progress: &mut Progress) -> Result<End, Failure> {
    let mut interrupted = std::pin::pin!(interrupted());
    let id = drain.id.clone();
    let mut updates = follow(address.clone(), {
        let id = id.clone();
        move |client: Client| {
            let request = WatchDrainRequest { id: id.clone() };
            async move { client.call(client.drains().watch_drain(request)).await }
        }
    });
    let mut collector = Collector::new(address.clone());
    let mut asks_from = waits_long(&drain, Instant::now());
    let mut deadline = overdue(&drain);
    let mut trouble = String::from("it said nothing");
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    progress.observe(drain, Instant::now());
    loop {
        tokio::select! {
            update = updates.recv() => match update {
                Some(Update::Message(message)) => {
                    let Some(drain) = message.drain else { continue };
                    if let Some(outcome) = Outcome::of(&drain) {
                        return Ok(End::Ended(Box::new(drain), outcome));
                    }
                    deadline = overdue(&drain);
                    asks_from = waits_long(&drain, Instant::now());
                    progress.observe(drain, Instant::now());
                }
                Some(Update::Lost(reason)) => {
                    asks_from = None;
                    progress.lost(&reason, Instant::now());
                    trouble = reason;
                }
                Some(Update::Refused(reason)) => {
                    let text = format!("cannot follow drain {id} to its end: {reason}");
                    return Err(Failure::Error(text));
                }
                None => return Err(unfinished(&id, &trouble)),
            },
            _ = tick.tick() => {
                let now = Instant::now();
                if asks_from.is_some_and(|from| from <= now) {
                    collector.ask(&id, now);
                }
                progress.tick(now);
            }
            blockers = collector.answer() => progress.blockers(blockers, Instant::now()),
            () = sleep_until(deadline) => return Err(unfinished(&id, &trouble)),
            () = &mut interrupted => return Ok(End::Interrupted),
        }
    }
}

/// When a drain will have waited for requests so long that one wants to know which; `None` = it waits for none.
fn waits_long(drain: &Drain, now: Instant) -> Option<Instant> {
    let waits = drain.phase() == Phase::Draining && drain.in_flight > 0;
    waits.then(|| now + LONG.saturating_sub(from_wire(drain.elapsed)))
}

fn unfinished(id: &str, trouble: &str) -> Failure {
    Failure::Error(format!(
        "drain {id} is past its deadline and the control plane has not told its end ({trouble}); see `ebb status`"
    ))
}

fn overdue(drain: &Drain) -> Instant {
    let timeout = from_wire(drain.policy.as_ref().and_then(|policy| policy.timeout));
    let left = timeout
        .saturating_sub(from_wire(drain.elapsed))
        .saturating_add(OVERDUE);
    // Too far off for the clock is as good as a year.
    let now = Instant::now();
    now.checked_add(left)
        .unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 3600))
}

#[cfg(test)]
mod tests {
    use ebb_proto::v1::Policy;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_control_plane_that_never_returns_is_given_up_after_the_deadline() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let address = Address::Unix(directory.path().join("ebb.sock"));
        let policy = Policy {
            timeout: Duration::from_secs(30).try_into().ok(),
            ..Policy::default()
        };
        let drain = Drain {
            id: "d-1".into(),
            phase: Phase::Draining.into(),
            policy: Some(policy),
            elapsed: Duration::from_secs(5).try_into().ok(),
            ..Drain::default()
        };
        let start = Instant::now();
        let Err(error) = until_end(&address, drain).await else {
            panic!("there is no end")
        };
        assert_eq!(start.elapsed().as_secs(), 25 + OVERDUE.as_secs());
        let error = error.to_string();
        assert!(
            error.contains("drain d-1 is past its deadline") && error.contains("no such file"),
            "{error}"
        );
    }
}
