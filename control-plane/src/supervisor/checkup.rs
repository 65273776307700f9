//! Whether a proxy that is ready can be drained as it is configured. All that is wrong with that would show only when it is
//! stopped otherwise: filters that never found the control plane, names that nobody has, an admin endpoint that is none.

use std::{collections::BTreeSet, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    admin::Admin,
    drains::Drains,
    evidence::{self, Proxy},
};
use crate::{address::Address, config::DrainTarget};

/// How long after its process is ready everything has to be there: filters try again within 5 s.
const WITHIN: Duration = Duration::from_secs(10);

/// Between two looks until then.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The longest pause between two looks after that; they double.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(60);

/// Looks at a process that is ready until nothing is wrong, and says what is once it had its time.
pub(super) async fn check_up(process: String, target: DrainTarget, drains: Drains) {
    let until = Instant::now() + WITHIN;
    let mut told: BTreeSet<String> = BTreeSet::new();
    let mut pause = LOOK_EVERY;
    loop {
        let wrong = look(&target, &drains).await;
        if wrong.is_empty() {
            tracing::info!(
                process,
                "can be drained: its filters are attached, and what `drain` names is there"
            );
            return;
        }
        if Instant::now() >= until {
            for text in wrong {
                if !told.contains(&text) {
                    tracing::warn!(process, "cannot be drained as configured: {text}");
                    told.insert(text);
                }
            }
            pause = (pause * 2).max(WITHIN).min(LOOK_AT_LEAST_EVERY);
        }
        sleep(pause).await;
    }
}

/// Looks at the gate of a process that is ready, until some Envoy knows each of its endpoints, and says which none does once
/// they had their time. Where one has no admin endpoint, nobody can tell.
pub(super) async fn check_gate(
    process: String,
    gate: Vec<Address>,
    mut proxies: watch::Receiver<Vec<Proxy>>,
) {
    let mut until = None;
    loop {
        let others = |alive: &Vec<Proxy>| alive.iter().any(|proxy| proxy.name != process);
        let mut alive = match proxies.wait_for(others).await {
            Ok(alive) => alive.clone(),
            Err(_) => return,
        };
        alive.retain(|proxy| proxy.name != process);
        if alive.iter().any(|proxy| proxy.admin.is_none()) {
            return;
        }
        // None while one of them has only just been started.
        if let Some(unknown) = evidence::unknown_to_all(&gate, &alive).await {
            let until = *until.get_or_insert(Instant::now() + WITHIN);
            if !unknown.is_empty() && Instant::now() >= until {
                let endpoints = unknown.join(", ");
                tracing::warn!(
                    process,
                    endpoints,
                    "no Envoy knows these endpoints of its gate, so at its stop nothing is waited for: write them as the cluster does"
                );
            }
            if unknown.is_empty() || Instant::now() >= until {
                return;
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

/// What is wrong, in words that stay the same as long as it is.
async fn look(target: &DrainTarget, drains: &Drains) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut node = target.node.clone();
    let mut answers = false;
    if let Some(address) = &target.admin {
        match Admin(address.clone()).identity().await {
            Ok((id, _)) => {
                answers = true;
                if let Some(other) = node.as_ref().filter(|node| **node != id) {
                    wrong.push(format!(
                        "drain.node is {other:?}, and the Envoy at drain.admin says that it is {id:?}"
                    ));
                }
                node = node.or(Some(id).filter(|id| !id.is_empty()));
            }
            Err(error) => wrong.push(format!(
                "drain.admin = \"{address}\" does not answer as Envoy's admin endpoint does: {error}"
            )),
        }
    }
    let attached = match drains.attached().await {
        Ok(attached) => attached,
        // Nobody asks any more.
        Err(_) => return Vec::new(),
    };
    let is_attached = match &node {
        Some(node) => attached.contains(node),
        None => !attached.is_empty(),
    };
    if !is_attached {
        wrong.push(not_attached(node.as_deref(), &attached, answers));
    }
    // What nobody can tell is no mistake in a name.
    if is_attached || answers {
        let nodes = node.into_iter().collect();
        if let Err(why) = drains.check(nodes, target.listeners.clone()).await {
            wrong.push(format!("drain: {why}"));
        }
    }
    wrong
}

fn not_attached(node: Option<&str>, attached: &BTreeSet<String>, by_admin: bool) -> String {
    let whose = node.map_or_else(String::new, |node| format!(" of node {node:?}"));
    let others: Vec<&str> = attached.iter().map(String::as_str).take(5).collect();
    let others = match others.as_slice() {
        [] => String::new(),
        others => format!(" (attached: {})", others.join(", ")),
    };
    let instead = if by_admin {
        "only Envoy's own count tells what is in flight"
    } else {
        "nothing tells what is in flight"
    };
    format!(
        "no filter{whose} is attached{others}, so {instead}. If Envoy's log has \"gRPC status 14\", look at its cluster of the \
         control plane: the path of the socket, http2_protocol_options, and whether Envoy's user may open the socket (mode 0600)"
    )
}
