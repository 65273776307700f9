//! Waiting for traffic to end: what the filters tell, and where they do not, what Envoy's admin endpoint tells.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    admin::Admin,
    drains::{DrainRequest, Drains},
    machine::DrainOutcome,
};
use crate::{address::Address, core::policy::Policy};

/// Between two questions to an admin endpoint, which costs its main thread some milliseconds.
const ASK_EVERY: Duration = Duration::from_millis(25);

/// Drains a process.
pub async fn drain(drains: &Drains, request: DrainRequest, admin: Option<&Admin>) -> DrainOutcome {
    let (process, announce) = (request.process.clone(), request.announce);
    let why = match drains.run(request).await {
        Ok(outcome) => return outcome,
        Err(why) => why,
    };
    match admin {
        Some(admin) => {
            tracing::warn!(
                process,
                why,
                "the filter tells nothing: going by Envoy's own count"
            );
            sleep(announce).await;
            until_quiet(drains.quiet_period(), || in_flight(admin)).await;
            DrainOutcome::Drained
        }
        None => {
            tracing::warn!(
                process,
                why,
                "nothing tells what is in flight: waiting for the drain's timeout"
            );
            std::future::pending().await
        }
    }
}

/// Waits until an Envoy whose listeners are closed is quiet, by its own count: that sees every request, also those of
/// listeners without the filter.
///
/// No new connection can come any more, so half of the quiet period is enough here.
pub async fn listeners_quiet(drains: &Drains, admin: &Admin) {
    until_quiet(drains.quiet_period() / 2, || in_flight(admin)).await;
}

/// Waits until an Envoy is quiet, by its own count, where no filter tells.
pub async fn admin_quiet(admin: &Admin) {
    until_quiet(Policy::default().quiet_period, || in_flight(admin)).await;
}

async fn in_flight(admin: &Admin) -> Option<u64> {
    admin.requests_in_flight().await.ok()
}

/// Waits until the count has been 0 for the quiet period. A count that is not known is not 0.
async fn until_quiet<F>(quiet_period: Duration, mut count: impl FnMut() -> F)
where
    F: Future<Output = Option<u64>>,
{
    let mut quiet_since = None;
    loop {
        if count().await == Some(0) {
            let since = *quiet_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= quiet_period {
                return;
            }
        } else {
            quiet_since = None;
        }
        sleep(ASK_EVERY).await;
    }
}

/// A proxy that may still send traffic.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Its admin endpoint; without one only the filters tell.
    pub admin: Option<Admin>,
}

/// Waits until nothing is in flight from these proxies towards these endpoints. Where no proxy is alive nothing can be.
pub async fn gate_quiet(drains: &Drains, endpoints: &[Address], proxies: &[Proxy]) {
    if proxies.is_empty() {
        return;
    }
    until_quiet(drains.quiet_period(), || towards(drains, endpoints, proxies)).await;
}

async fn towards(drains: &Drains, endpoints: &[Address], proxies: &[Proxy]) -> Option<u64> {
    let mut sum = 0;
    for proxy in proxies {
        sum += match &proxy.admin {
            Some(admin) => {
                let by_endpoint = admin.in_flight_by_endpoint().await.ok()?;
                let count = |endpoint: &Address| by_endpoint.get(&endpoint.to_string()).copied();
                endpoints.iter().filter_map(count).sum::<u64>()
            }
            // Without requests there is nothing upstream either.
            None => drains.in_flight().await?,
        };
    }
    Some(sum)
}
