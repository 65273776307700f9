//! Clients that keep coming in such numbers that a drain always has some requests in flight, though none of them for long.

use std::time::Duration;

use ebb_proto::v1::{self, Phase};
use tokio::{sync::watch, time::sleep};

use super::drains::is_over;
use crate::{
    core::{machine::ARRIVALS_WITHIN, policy::from_wire},
    engine::Engine,
};

/// Between two looks at the oldest requests.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Waits until everybody has been told to leave for as long as arrivals count, and no request is older than that. Pending for
/// ever once the drain is over, or nobody tells of it.
pub(super) async fn none_stays(
    engine: &Engine,
    mut views: watch::Receiver<v1::Drain>,
    quiet_period: Duration,
) {
    let told = |drain: &v1::Drain| {
        matches!(drain.phase(), Phase::Draining | Phase::Quiet) && drain.unknown_reporters.is_empty()
    };
    let within = ARRIVALS_WITHIN.max(quiet_period.saturating_mul(2));
    if views.wait_for(told).await.is_ok() {
        sleep(within).await;
        loop {
            let view = views.borrow().clone();
            if is_over(&view) {
                break;
            }
            if told(&view) && is_seen(&view) && is_young(engine, &view.id, within).await {
                return;
            }
            sleep(LOOK_EVERY).await;
        }
    }
    std::future::pending().await
}

/// Whether the filters can tell how old everything is that is in flight: not what Envoy alone counts.
fn is_seen(drain: &v1::Drain) -> bool {
    let seen: u64 = drain.listeners.iter().map(|listener| listener.in_flight).sum();
    let sessions = drain.outstanding.and_then(|owed| owed.tcp_sessions);
    drain.in_flight > 0 && seen >= drain.in_flight && sessions.unwrap_or_default() == 0
}

/// Whether the oldest request in flight is younger than that.
async fn is_young(engine: &Engine, drain: &str, within: Duration) -> bool {
    let Ok(Some(oldest)) = engine.blockers(Some(drain.to_owned()), 1).await else {
        return false;
    };
    let young = |one: &v1::NodeBlocker| {
        let age = one.blocker.as_ref().and_then(|blocker| blocker.age.as_ref());
        age.and_then(from_wire).is_some_and(|age| age < within)
    };
    oldest.iter().all(young)
}
