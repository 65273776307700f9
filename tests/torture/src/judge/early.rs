//! A drain ended as drained too early, or although requests were cut; or as cut although none were.

use std::time::Duration;

use super::{
    Failure, Rule,
    scope::{Cover, cover},
    settled_at,
};
use crate::journal::{Drain, Journal, Moment, Outcome, Request, Span, Start};

/// A drain asks everybody when it begins, and filters report every half second: what is older than that when its Envoy ends
/// is known to have been in flight.
const KNOWN_AFTER: Duration = Duration::from_secs(1);
const ASKED_AFTER: Duration = Duration::from_millis(300);

pub(super) fn judge(journal: &Journal, number: usize, drain: &Drain) -> Vec<Failure> {
    match drain.end {
        Some((ended, Outcome::Drained)) => {
            let mut failures = held(journal, number, drain, ended);
            failures.extend(cut(journal, number, drain, ended));
            failures
        }
        Some((ended, Outcome::Cut)) => by_nobody(journal, number, drain, ended).into_iter().collect(),
        _ => Vec::new(),
    }
}

fn held(journal: &Journal, number: usize, drain: &Drain, ended: Moment) -> Vec<Failure> {
    let settled = settled_at(journal, drain, ended);
    let is_held = |span: &Span| span.began < settled && span.holds_at(ended);
    let place = |request: &Request| {
        let cover = cover(&journal.world, &drain.plan, request);
        if cover != Cover::Nothing && request.upstream.as_ref().is_some_and(is_held) {
            Some("the upstream")
        } else if cover == Cover::All && request.authz.as_ref().is_some_and(is_held) {
            Some("ext_authz")
        } else {
            None
        }
    };
    let failure = |request: &Request| {
        let text = format!(
            "drain {number} is drained, and {} holds request {} on {} of Envoy {}",
            place(request)?,
            request.id,
            request.listener.name(),
            request.envoy
        );
        Some(Failure {
            rule: Rule::Early,
            at: ended,
            text,
        })
    };
    journal.requests.iter().filter_map(failure).collect()
}

fn cut(journal: &Journal, number: usize, drain: &Drain, ended: Moment) -> Option<Failure> {
    let Start::Accepted(began) = drain.start else {
        return None;
    };
    let cut_by = |request: &Request| {
        let span = request.upstream.filter(|span| span.cut)?;
        let end = journal.ends.iter().find(|end| {
            let during = end.at > began + ASKED_AFTER && end.at < ended;
            during && end.envoy == request.envoy && span.holds_at(end.at)
        })?;
        let known = span.began + KNOWN_AFTER < end.at;
        (known && cover(&journal.world, &drain.plan, request) != Cover::Nothing).then_some(end)
    };
    let (request, end) = journal
        .requests
        .iter()
        .find_map(|request| Some((request, cut_by(request)?)))?;
    Some(Failure {
        rule: Rule::Cut,
        at: ended,
        text: format!(
            "drain {number} is drained, and Envoy {} ended at {:.3} with request {} in flight",
            end.envoy,
            end.at.as_secs_f64(),
            request.id
        ),
    })
}

fn by_nobody(journal: &Journal, number: usize, drain: &Drain, ended: Moment) -> Option<Failure> {
    let mut ends = journal.ends.iter();
    let any = ends.any(|end| end.at < ended && end.at + KNOWN_AFTER > drain.asked);
    (!any).then(|| Failure {
        rule: Rule::Cut,
        at: ended,
        text: format!("drain {number} ended as cut, and no Envoy had ended"),
    })
}
