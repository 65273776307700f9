//! Envoy's admin endpoints: finding out whose each is, asking it, and pulling its lever. Every call is bounded.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use tokio::sync::mpsc;

use super::Request;
use crate::{
    core::{
        Event,
        admins::{Reading, Requests},
    },
    outside::{self, Look},
    supervisor::admin::{Admin, AdminError},
};

/// How often an endpoint is looked for, and looked at for whether it is still the same Envoy.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How often one is looked for that does not answer: drains wait for it.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Two starts nearer to each other than this are the same: Envoy tells its uptime in whole seconds.
const SAME_START: Duration = Duration::from_millis(2500);

/// Looks after one endpoint for as long as the engine is there.
pub(super) async fn look_after(admin: Admin, requests: mpsc::WeakSender<Request>) {
    // Forgotten with every failure: what answers after it may be another.
    let mut known: Option<(String, SystemTime)> = None;
    loop {
        let answer = admin.identity().await;
        let Some(sender) = requests.upgrade() else { return };
        let heard = Event::AdminHeard {
            address: admin.0.to_string(),
            result: answer.as_ref().map(drop).map_err(ToString::to_string),
        };
        if sender.send(Request::Happened(heard)).await.is_err() {
            return;
        }
        let again = if answer.is_ok() { LOOK_EVERY } else { LOOK_AGAIN };
        if answer.is_err() {
            known = None;
        }
        let seen = answer.ok().map(|(node, uptime)| {
            let now = SystemTime::now();
            (node, now.checked_sub(uptime).unwrap_or(now))
        });
        if let Some((node, started)) = seen {
            let same = known.as_ref().is_some_and(|(other, at)| {
                let apart = at
                    .duration_since(started)
                    .or_else(|_| started.duration_since(*at));
                *other == node && apart.is_ok_and(|apart| apart < SAME_START)
            });
            if !same {
                let fails = admin.fails_health().await.unwrap_or(false);
                let found = Request::AdminFound {
                    fails,
                    node: node.clone(),
                    started,
                    admin: admin.clone(),
                };
                if sender.send(found).await.is_err() {
                    return;
                }
                known = Some((node, started));
            }
        }
        drop(sender);
        tokio::time::sleep(again).await;
    }
}

/// Asks an Envoy what is in flight.
pub(super) async fn ask(
    admin: Option<Admin>,
    node: String,
    ask: u64,
    upstreams: bool,
    requests: mpsc::WeakSender<Request>,
) {
    let reading = match admin {
        Some(admin) => read(&admin, upstreams).await.map_err(|error| error.to_string()),
        None => Err("it is not configured".to_owned()),
    };
    tell(requests, Event::AdminAnswered { node, ask, reading }).await;
}

/// What an Envoy says of itself. `names`: also the names of everything that it has.
async fn read(admin: &Admin, names: bool) -> Result<Reading, AdminError> {
    let in_flight = admin.in_flight_by_listener().await?;
    // What has begun matters only where nothing is in flight, and counters are many more than gauges to look through.
    let begun = if in_flight.values().any(|count| *count == 0) {
        admin.answered_by_listener().await?
    } else {
        BTreeMap::new()
    };
    let listeners = in_flight.into_iter().map(|(name, in_flight)| {
        let begun = begun.get(&name).copied();
        (name, Requests { in_flight, begun })
    });
    let (mut upstreams, mut sessions) = (None, None);
    if names {
        upstreams = Some(admin.requests_by_endpoint().await?.into_iter().collect());
        // A configuration that is too large to be read in time is no reason to know nothing.
        sessions = match outside::names_of_sessions(admin).await {
            Ok(names) => Some(names),
            Err(error) => {
                tracing::debug!(admin = %admin.0, %error, "the names of TCP listeners are not told");
                None
            }
        };
    }
    Ok(Reading {
        listeners: listeners.collect(),
        upstreams,
        sessions,
    })
}

/// Has an Envoy close its connections, or serve again.
pub(super) async fn pull(
    admin: Option<Admin>,
    node: String,
    close: bool,
    requests: mpsc::WeakSender<Request>,
) {
    let result = match (admin, close) {
        (Some(admin), true) => admin.fail_health().await.map_err(Some),
        (Some(admin), false) => admin.restore_health().await.map_err(Some),
        (None, _) => Err(None),
    };
    let result = result.map_err(|error| {
        // A filter says goodbye before its Envoy is seen to end. What has ended needs not serve again; otherwise it is asked
        // again in a moment.
        let ends = !close
            && error
                .as_ref()
                .is_some_and(|error| error.is_nobody() || error.broke_off());
        let error = error.map_or_else(|| "it is not configured".to_owned(), |error| error.to_string());
        if ends {
            tracing::debug!(node, error, "an Envoy that is to serve again does not answer");
        } else {
            tracing::warn!(
                node,
                close,
                error,
                "Envoy cannot be told to close, or to serve again"
            );
        }
        error
    });
    tell(requests, Event::LeverDone { node, close, result }).await;
}

/// Looks at what an Envoy owes its clients.
pub(super) async fn look(look: Look, node: String, ask: u64, requests: mpsc::WeakSender<Request>) {
    let outstanding = outside::look(look).await;
    let told = Event::OutstandingTold {
        node,
        ask,
        outstanding,
    };
    tell(requests, told).await;
}

async fn tell(requests: mpsc::WeakSender<Request>, event: Event) {
    if let Some(sender) = requests.upgrade() {
        // An engine that is gone needs no word of it.
        let _ = sender.send(Request::Happened(event)).await;
    }
}
