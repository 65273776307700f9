//! A drain's plan in the words of the API and of the command line.

use std::time::Duration;

use ebb_e2e::api::proto;
use ebb_proto::v1;

use crate::{
    schedule::{DrainPlan, Endpoint, Evidence, Policy, Scope},
    witness::Witness,
};

/// What a plan does not say: where the upstreams are, and what the drain is called.
pub(super) struct Asking<'w> {
    pub(super) witness: &'w Witness,
    pub(super) request_id: &'w str,
}

impl Asking<'_> {
    fn address(&self, endpoint: Endpoint) -> String {
        match endpoint {
            Endpoint::A => self.witness.a,
            Endpoint::B => self.witness.b,
        }
        .to_string()
    }

    /// By the API.
    pub(super) fn request(&self, plan: &DrainPlan) -> v1::StartDrainRequest {
        let mut scope = v1::Scope::default();
        match plan.scope {
            Scope::All => {}
            Scope::Node(node) => scope.nodes.push(node.to_owned()),
            Scope::Listener(listener) => scope.listeners.push(listener.name().to_owned()),
            Scope::ListenerOf(node, listener) => {
                scope.nodes.push(node.to_owned());
                scope.listeners.push(listener.name().to_owned());
            }
            Scope::Upstream(endpoint) => scope.upstreams.push(self.address(endpoint)),
        }
        v1::StartDrainRequest {
            request_id: self.request_id.to_owned(),
            scope: Some(scope),
            policy: Some(wire(&plan.policy)),
        }
    }

    /// By the command line.
    pub(super) fn arguments(&self, plan: &DrainPlan) -> Vec<String> {
        let mut arguments: Vec<String> = ["drain", "--wait", "-o", "json"].map(str::to_owned).into();
        let mut add = |name: &str, value: &str| arguments.extend([name.to_owned(), value.to_owned()]);
        add("--request-id", self.request_id);
        match plan.scope {
            Scope::All => {}
            Scope::Node(node) => add("--node", node),
            Scope::Listener(listener) => add("--listener", listener.name()),
            Scope::ListenerOf(node, listener) => {
                add("--node", node);
                add("--listener", listener.name());
            }
            Scope::Upstream(endpoint) => add("--upstream", &self.address(endpoint)),
        }
        let policy = &plan.policy;
        for (name, time) in [
            ("--timeout", policy.timeout),
            ("--quiet-period", policy.quiet),
            ("--announce", policy.announce),
            ("--ramp", policy.ramp),
        ] {
            add(name, &format!("{time}ms"));
        }
        add("--on-timeout", if policy.abort { "abort" } else { "proceed" });
        let evidence = match policy.evidence {
            Evidence::Auto => "auto",
            Evidence::Filter => "filter",
            Evidence::Admin => "admin",
        };
        add("--evidence", evidence);
        arguments
    }
}

fn wire(policy: &Policy) -> v1::Policy {
    let time = |milliseconds| Some(proto(Duration::from_millis(milliseconds)));
    let on_timeout = if policy.abort {
        v1::OnTimeout::Abort
    } else {
        v1::OnTimeout::Proceed
    };
    let evidence = match policy.evidence {
        Evidence::Auto => v1::Evidence::Auto,
        Evidence::Filter => v1::Evidence::Filter,
        Evidence::Admin => v1::Evidence::Admin,
    };
    v1::Policy {
        announce: time(policy.announce),
        quiet_period: time(policy.quiet),
        timeout: time(policy.timeout),
        ramp: time(policy.ramp),
        on_timeout: on_timeout.into(),
        evidence: evidence.into(),
        ..v1::Policy::default()
    }
}
