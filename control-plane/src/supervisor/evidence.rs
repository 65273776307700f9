//! Waiting for traffic to end: what the filters tell, and where they do not, what Envoy's admin endpoint tells. Before an Envoy
//! is stopped, it is also looked at for what it still owes its clients.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::lookup_host,
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    admin::{Admin, CALL},
    cut::{Left, Remains},
    drains::{DrainRequest, Drains},
    machine::DrainOutcome,
    owing::{Count, Envoy},
};
use crate::{
    address::Address,
    core::{machine::ARRIVALS_WITHIN, policy::Policy, reading::sum, settling::UPSTREAM_WITHIN},
};

/// Between two questions to an admin endpoint, which costs its main thread some milliseconds.
const ASK_EVERY: Duration = Duration::from_millis(25);

/// How long a drain waits to hear whose an admin endpoint is.
const WHOSE: Duration = Duration::from_millis(250);

/// Drains a process.
pub async fn drain(drains: &Drains, mut request: DrainRequest, envoy: &Envoy, left: &Left) -> DrainOutcome {
    let admin = envoy.admin.as_ref();
    let (process, announce) = (request.process.clone(), request.announce);
    if let (None, Some(admin)) = (&request.node, admin) {
        // It has not said so before: it has only just been started, or it hangs.
        let answer = timeout(WHOSE, admin.identity()).await;
        request.node = answer
            .ok()
            .and_then(Result::ok)
            .map(|(node, _)| node)
            .filter(|node| !node.is_empty());
    }
    let why = match drains.run(request, left).await {
        // Where there is an admin endpoint this follows once the listeners are closed.
        Ok(DrainOutcome::Drained) if admin.is_none() => {
            until_quiet(Duration::ZERO, left, || async { Ok(envoy.undelivered().await) }).await;
            return DrainOutcome::Drained;
        }
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
            until_quiet(drains.quiet_period(), left, || envoy.owes(admin)).await;
            DrainOutcome::Drained
        }
        None => {
            tracing::warn!(
                process,
                why,
                "nothing tells what is in flight: waiting for the drain's timeout"
            );
            left.say(format!("unknown: {why}"), Remains::unknown(why));
            std::future::pending().await
        }
    }
}

/// Waits until an Envoy whose listeners are closed owes nothing any more, by its own count: that sees every request, also
/// those of listeners without the filter; and until its clients have received everything.
///
/// No new connection can come any more, so half of the quiet period is enough here.
pub async fn listeners_quiet(drains: &Drains, admin: &Admin, envoy: &Envoy, left: &Left) {
    until_quiet(drains.quiet_period() / 2, left, || envoy.owes(admin)).await;
}

/// The same, where no filter tells.
pub async fn admin_quiet(admin: &Admin, envoy: &Envoy) {
    let quiet_period = Policy::default().quiet_period;
    until_quiet(quiet_period, &Left::default(), || envoy.owes(admin)).await;
}

/// Waits until the count has been 0, and nothing has arrived, for the quiet period. A count that is not known is not 0. Where
/// arrivals are counted they matter for [`ARRIVALS_WITHIN`]: what comes after this wait turns away whoever still comes.
async fn until_quiet<F>(quiet_period: Duration, left: &Left, mut count: impl FnMut() -> F)
where
    F: Future<Output = Result<Count, String>>,
{
    /// Since when, and the requests that had begun by then.
    struct Quiet(Instant, Option<u64>);
    let end_of_arrivals = Instant::now() + ARRIVALS_WITHIN.max(quiet_period * 2);
    let mut counts_arrivals = false;
    let mut busy_since = None;
    let mut quiet: Option<Quiet> = None;
    let mut upstream_since = None;
    loop {
        let told = count().await;
        let now = Instant::now();
        match told {
            Ok(Count { remains, begun }) => {
                upstream_since = remains.is_its_own().then(|| upstream_since.unwrap_or(now));
                let given_up = upstream_since.is_some_and(|since| now - since >= UPSTREAM_WITHIN);
                counts_arrivals |= begun.is_some();
                let turned_away = counts_arrivals && now >= end_of_arrivals;
                if remains.is_nothing() || given_up {
                    busy_since = None;
                    let before = quiet
                        .take()
                        .filter(|Quiet(_, before)| turned_away || *before == begun);
                    let Quiet(since, _) = quiet.insert(before.unwrap_or(Quiet(now, begun)));
                    if now - *since >= quiet_period {
                        return;
                    }
                    left.say("nothing, but it was not yet quiet for long enough", remains);
                } else {
                    let busy = now - *busy_since.get_or_insert(now);
                    quiet = quiet.filter(|_| turned_away && busy < quiet_period);
                    left.set(remains);
                }
            }
            Err(why) => {
                quiet = None;
                left.say(format!("unknown: {why}"), left.remains().lost(why));
            }
        }
        sleep(ASK_EVERY).await;
    }
}

/// A proxy that may still send traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Its name, for people.
    pub name: String,
    /// Its admin endpoint; without one only the filters tell.
    pub admin: Option<Admin>,
    /// Its `node.id`, as far as it is known.
    pub node: Option<String>,
}

/// Waits until nothing is in flight from the proxies that are alive towards these endpoints. Where no proxy is alive
/// nothing can be.
pub async fn gate_quiet(
    drains: &Drains,
    process: &str,
    endpoints: &[Address],
    proxies: watch::Receiver<Vec<Proxy>>,
    left: &Left,
) {
    let gate = &Gate {
        drains,
        process,
        endpoints: Endpoint::all(endpoints).await,
        warned: Mutex::default(),
    };
    let mut alive = proxies.clone();
    let others = |alive: &Vec<Proxy>| alive.iter().any(|proxy| proxy.name != process);
    let quiet = until_quiet(drains.quiet_period(), left, || {
        let alive = proxies.borrow().clone();
        async move { gate.towards(&alive).await.map(Count::from) }
    });
    tokio::select! {
        () = quiet => {}
        // What is dead sends nothing, and its word is not waited for. Without the supervisor nobody waits either.
        _ = alive.wait_for(|alive| !others(alive)) => {}
    }
}

/// The endpoints that none of these proxies knows; `None` = one of them does not tell.
pub async fn unknown_to_all(endpoints: &[Address], proxies: &[Proxy]) -> Option<Vec<String>> {
    let endpoints = Endpoint::all(endpoints).await;
    let mut unknown: BTreeSet<&str> = endpoints.iter().map(|one| one.name.as_str()).collect();
    for proxy in proxies {
        let known = proxy.admin.as_ref()?.in_flight_by_endpoint().await.ok()?;
        for endpoint in endpoints.iter().filter(|one| one.count(&known).is_some()) {
            unknown.remove(endpoint.name.as_str());
        }
    }
    Some(unknown.into_iter().map(str::to_owned).collect())
}

/// An endpoint of a gate, under all of its names.
struct Endpoint {
    name: String,
    /// What its host name stands for here; Envoy may know it by that alone.
    addresses: Vec<String>,
}

impl Endpoint {
    async fn all(endpoints: &[Address]) -> Vec<Self> {
        let mut all = Vec::new();
        for endpoint in endpoints {
            let mut addresses = BTreeSet::new();
            if let Address::Tcp { host, port } = endpoint
                && let Ok(Ok(found)) = timeout(CALL, lookup_host((host.as_str(), *port))).await
            {
                addresses.extend(found.map(|address| address.to_string()));
            }
            let name = endpoint.to_string();
            addresses.remove(&name);
            all.push(Self {
                name,
                addresses: addresses.into_iter().collect(),
            });
        }
        all
    }

    /// What is in flight towards it; `None` = this Envoy does not know it.
    fn count(&self, known: &HashMap<String, u64>) -> Option<u64> {
        let by_address = || {
            let counts: Vec<u64> = self
                .addresses
                .iter()
                .filter_map(|name| known.get(name).copied())
                .collect();
            (!counts.is_empty()).then(|| sum(counts))
        };
        known.get(&self.name).copied().or_else(by_address)
    }
}

struct Gate<'g> {
    drains: &'g Drains,
    process: &'g str,
    endpoints: Vec<Endpoint>,
    /// What has been warned of.
    warned: Mutex<BTreeSet<String>>,
}

impl Gate<'_> {
    async fn towards(&self, proxies: &[Proxy]) -> Result<Remains, String> {
        let mut left: BTreeMap<String, u64> = BTreeMap::new();
        let mut answered = false;
        // Endpoints that no admin endpoint has named so far; one that does not answer may know them all.
        let mut unmatched: BTreeSet<&str> = self.endpoints.iter().map(|one| one.name.as_str()).collect();
        for proxy in proxies.iter().filter(|proxy| proxy.name != self.process) {
            let known = match &proxy.admin {
                Some(admin) => admin
                    .in_flight_by_endpoint()
                    .await
                    .map_err(|error| error.to_string()),
                None => Err("no admin endpoint is configured".to_owned()),
            };
            let known = match known {
                Ok(known) => known,
                Err(why) => {
                    unmatched.clear();
                    // Without requests there is nothing upstream either.
                    let filters = self.drains.in_flight(proxy.node.as_deref()).await;
                    let count = filters.map_err(|filters| format!("{}: {why}; {filters}", proxy.name))?;
                    // Which of them go where is not known.
                    let sum = left.entry(format!("in {}", proxy.name)).or_default();
                    *sum = sum.saturating_add(count);
                    continue;
                }
            };
            answered = true;
            for endpoint in &self.endpoints {
                let Some(count) = endpoint.count(&known) else {
                    continue;
                };
                unmatched.remove(endpoint.name.as_str());
                let place = format!("towards {}", endpoint.name);
                let sum = left.entry(place).or_default();
                *sum = sum.saturating_add(count);
            }
        }
        for endpoint in unmatched.into_iter().filter(|_| answered) {
            self.warn(endpoint);
        }
        left.retain(|_, count| *count > 0);
        Ok(Remains {
            towards: left,
            ..Remains::default()
        })
    }

    /// Once for each.
    fn warn(&self, endpoint: &str) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.insert(endpoint.to_owned()) {
            tracing::warn!(
                process = self.process,
                endpoint,
                "no Envoy that is alive knows this endpoint of the gate, so nothing is waited for: write it as the cluster does"
            );
        }
    }
}

#[cfg(test)]
#[path = "evidence_tests.rs"]
mod tests;
