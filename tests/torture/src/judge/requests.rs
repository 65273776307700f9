//! Requests that failed.
//!
//! A request may fail only by the end of its Envoy while it, or the connection it was sent on, was open; and not even
//! then if that Envoy was stopped because a drain that had to wait for this request had ended as drained.

use super::{
    Failure, Rule,
    scope::{Cover, cover, delivers},
    settled_at,
};
use crate::journal::{Answer, EnvoyEnd, Journal, Outcome, Request, Why};

pub(super) fn judge(journal: &Journal) -> Vec<Failure> {
    journal
        .requests
        .iter()
        .filter_map(|request| failure(journal, request))
        .collect()
}

fn failure(journal: &Journal, request: &Request) -> Option<Failure> {
    let Answer::Failed(how) = &request.answer else {
        return None;
    };
    let who = format!(
        "request {} on {} of Envoy {}",
        request.id,
        request.listener.name(),
        request.envoy
    );
    // Ends are in no order; the first is what cut it.
    let end = journal
        .ends
        .iter()
        .filter(|end| end.envoy == request.envoy && end.at < request.done)
        .min_by_key(|end| end.at);
    let Some(end) = end else {
        return Some(Failure {
            rule: Rule::Lost,
            at: request.done,
            text: format!("{who} failed, and its Envoy lives: {how}"),
        });
    };
    owed(journal, request, end).then(|| Failure {
        rule: Rule::Undelivered,
        at: request.done,
        text: format!("{who} failed, and its Envoy was stopped because it was drained: {how}"),
    })
}

/// Whether a drain, because of whose end an Envoy was stopped, had to wait for a request.
fn owed(journal: &Journal, request: &Request, end: &EnvoyEnd) -> bool {
    let Why::After(number) = end.why else {
        return false;
    };
    let Some(drain) = journal.drains.get(number) else {
        return false;
    };
    let Some((ended, Outcome::Drained)) = drain.end else {
        return false;
    };
    if journal.world.envoys.len() > 1 && journal.forgot(ended) {
        return false;
    }
    let came = match cover(&journal.world, &drain.plan, request) {
        Cover::Nothing => None,
        Cover::All => Some(request.sent),
        Cover::Upstream => request.upstream.map(|span| span.began),
    };
    let in_time = came.is_some_and(|at| at < settled_at(journal, drain, ended));
    in_time && delivers(&journal.world, request.envoy)
}
