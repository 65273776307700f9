//! What a drain has to wait for.
//!
//! A drain promises what its scope names and its evidence can see; what nobody can see cannot be promised, and is excluded
//! here, by these rules and no others:
//!
//! - **Names.** Everything; or an Envoy's node id, which covers every process of that id; or a listener's name, on every
//!   process that the nodes cover; or an upstream endpoint, on every HTTP listener of every Envoy.
//! - **Envoy's own count** sees every HTTP request from its headers on, wherever it is held, and sessions of `tcp_proxy`. It
//!   counts where the control plane knows the admin endpoint *of that process* and the evidence is not `filter`.
//! - **The filter** sees requests of listeners that have it, from where it stands: put first, also while ext_authz holds
//!   them; put last, only from then on. It counts unless the evidence is `admin`.
//! - **Upstream endpoints.** The filter counts attempts, so what is held before there is one is not in scope. A listener
//!   without the filter is in scope only with the evidence `admin`. Sessions of `tcp_proxy` go to an endpoint of their own.
//! - **Sessions** of `tcp_proxy` are in scope of whole nodes and of a drain that names their listener, where Envoy's own
//!   count sees them.
//! - **Memory.** A control plane that comes after another and could read nothing, because its state is in memory or its disk
//!   cannot be written, knows of a process what one of its filters says. Of several processes it does not know which are to
//!   come: with two Envoys, such a drain is not judged.
//! - **Delivery.** Where Envoy is stopped because it was drained, every answer in scope has to arrive, down to the last byte:
//!   where the control plane can find the sockets of that Envoy, by its admin endpoint or because Envoy itself is at the other
//!   end of the filter's stream. Behind a relay and without an admin endpoint it cannot.

use crate::{
    journal::Request,
    schedule::{DrainPlan, EnvoyPlan, Evidence, Listener, Order, Scope, WorldPlan},
};

/// How much of a request's time a drain has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cover {
    /// None.
    Nothing,
    /// While the upstream holds it.
    Upstream,
    /// While anybody holds it.
    All,
}

/// How much of a request a drain has to wait for.
#[must_use]
pub fn cover(world: &WorldPlan, drain: &DrainPlan, request: &Request) -> Cover {
    let Some(envoy) = world.envoys.get(request.envoy) else {
        return Cover::Nothing;
    };
    if !names(&drain.scope, envoy, request) {
        return Cover::Nothing;
    }
    let evidence = drain.policy.evidence;
    let own_count = envoy.admin && evidence != Evidence::Filter;
    let filter = request.listener.has_filter() && evidence != Evidence::Admin;
    match (&drain.scope, request.listener) {
        (Scope::Upstream(_), _) => {
            let seen = filter || own_count && evidence == Evidence::Admin;
            if seen { Cover::Upstream } else { Cover::Nothing }
        }
        (_, Listener::Raw) if own_count => Cover::Upstream,
        (_, Listener::Raw) => Cover::Nothing,
        _ if own_count => Cover::All,
        _ if filter && envoy.order == Order::First => Cover::All,
        _ if filter => Cover::Upstream,
        _ => Cover::Nothing,
    }
}

/// Whether the answers of an Envoy have to arrive although it is stopped once a drain that covers them has ended as drained.
#[must_use]
pub fn delivers(world: &WorldPlan, envoy: usize) -> bool {
    world.envoys.get(envoy).is_some_and(|envoy| envoy.admin) || !world.relay
}

/// Whether a drain covers an Envoy.
#[must_use]
pub fn covers_envoy(scope: &Scope, envoy: &EnvoyPlan) -> bool {
    match scope {
        Scope::All | Scope::Listener(_) | Scope::Upstream(_) => true,
        Scope::Node(node) | Scope::ListenerOf(node, _) => envoy.node == *node,
    }
}

fn names(scope: &Scope, envoy: &EnvoyPlan, request: &Request) -> bool {
    covers_envoy(scope, envoy)
        && match scope {
            Scope::All | Scope::Node(_) => true,
            Scope::Listener(listener) | Scope::ListenerOf(_, listener) => request.listener == *listener,
            Scope::Upstream(endpoint) => request.listener != Listener::Raw && request.endpoint == *endpoint,
        }
}
