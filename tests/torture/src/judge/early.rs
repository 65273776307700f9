//! A drain ended as drained too early, or although requests were cut; or as cut although none were.

use std::time::Duration;

use super::{
    Failure, Rule,
    scope::{Cover, cover},
    settled_at,
};
use crate::journal::{Drain, Journal, Moment, Outcome, Request, Span, Start};

/// Filters report every half second in a drain: what is older than that when its Envoy ends is known to have been in flight.
const KNOWN_AFTER: Duration = Duration::from_secs(1);
/// A drain asks everybody when it begins, so what came this long before has been told, or its filter is unknown.
const ASKED_AFTER: Duration = Duration::from_millis(50);

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
    // Of several processes, those that have not come back yet are not known to one that could remember nobody.
    if journal.world.envoys.len() > 1 && journal.forgot(ended) {
        return Vec::new();
    }
    // Who holds it then; it may have come to somebody else first.
    let place = |request: &Request| {
        let spans = match cover(&journal.world, &drain.plan, request) {
            Cover::Nothing => [None, None],
            Cover::Upstream => [request.upstream, None],
            Cover::All => [request.upstream, request.authz],
        };
        let came = spans.iter().flatten().map(|span| span.began).min()?;
        let holds = |span: Option<Span>| span.is_some_and(|span| span.holds_at(ended));
        match spans.map(holds) {
            _ if came >= settled => None,
            [true, _] => Some("the upstream"),
            [false, true] => Some("ext_authz"),
            [false, false] => None,
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
            let during = end.at > began && end.at < ended;
            during && end.envoy == request.envoy && span.holds_at(end.at)
        })?;
        let known = span.began + ASKED_AFTER < drain.asked || span.began + KNOWN_AFTER < end.at;
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
