//! What has to last: a drain over a restart, and a release.

use std::time::Duration;

use super::{Failure, Rule, scope::covers_envoy};
use crate::{
    journal::{Answer, Drain, Journal, Moment, Start},
    schedule::{Evidence, Fault, Scope, State},
};

/// From the confirmation of a release until every filter has heard of it.
const HEARD_WITHIN: Duration = Duration::from_millis(500);

pub(super) fn judge_drain(journal: &Journal, number: usize, drain: &Drain) -> Vec<Failure> {
    let failure = |rule, at, text| Failure { rule, at, text };
    let mut failures = Vec::new();
    if let Some(at) = drain.lost
        && could_be_kept(journal)
    {
        let text = format!("drain {number} is neither present nor reported");
        failures.push(failure(Rule::Forgotten, at, text));
    }
    if let Start::Refused(at, reason) = &drain.start
        && must_be_accepted(journal, drain)
    {
        let text = format!("drain {number} of what is there was refused: {reason}");
        failures.push(failure(Rule::Refused, *at, text));
    }
    failures
}

/// Whether nothing kept the state from being written.
fn could_be_kept(journal: &Journal) -> bool {
    journal.world.state != State::Memory && !done(journal, Fault::is_of_the_disk)
}

fn done(journal: &Journal, which: fn(Fault) -> bool) -> bool {
    let mut faults = journal.faults.iter();
    faults.any(|seen| seen.skipped.is_none() && which(seen.fault))
}

/// Whether a drain names what is there and what its evidence can see. Names that only an Envoy knows, a control plane that
/// could remember nobody, and an Envoy that is gone, excuse a refusal.
fn must_be_accepted(journal: &Journal, drain: &Drain) -> bool {
    let world = &journal.world;
    let named = match drain.plan.scope {
        Scope::All | Scope::Node(_) => true,
        Scope::Listener(listener) | Scope::ListenerOf(_, listener) => listener.has_filter(),
        Scope::Upstream(_) => false,
    };
    let envoys = world.envoys.iter().enumerate();
    let mut covered = envoys.filter(|(_, envoy)| covers_envoy(&drain.plan.scope, envoy));
    let all_there = covered.all(|(number, envoy)| {
        let gone = journal
            .ends
            .iter()
            .any(|end| end.envoy == number && end.at < drain.asked);
        !gone && (drain.plan.policy.evidence != Evidence::Admin || envoy.admin)
    });
    let remembers = journal.outages.is_empty() || could_be_kept(journal);
    named && all_there && remembers
}

pub(super) fn judge_releases(journal: &Journal) -> Vec<Failure> {
    let mut failures = Vec::new();
    for probe in &journal.probes {
        let who = format!("{} of Envoy {}", probe.listener.name(), probe.envoy);
        let (rule, text) = match &probe.answer {
            Answer::Whole { closing: false } => continue,
            Answer::Whole { closing: true } => {
                let text = format!("{who} closes connections, and every drain was released");
                (Rule::Closing, text)
            }
            Answer::Failed(how) => (Rule::Lost, format!("a probe of {who} failed: {how}")),
        };
        let at = probe.at;
        failures.push(Failure { rule, at, text });
    }
    failures.extend(closed_after_cancel(journal));
    failures
}

/// With one drain and no fault in a round, nothing closes soon after it was cancelled.
fn closed_after_cancel(journal: &Journal) -> Vec<Failure> {
    let [drain] = &*journal.drains else {
        return Vec::new();
    };
    let Some(cancelled) = drain.cancelled.filter(|_| journal.faults.is_empty()) else {
        return Vec::new();
    };
    let heard: Moment = cancelled + HEARD_WITHIN + journal.stalled(cancelled, cancelled + HEARD_WITHIN);
    let closed = journal
        .requests
        .iter()
        .filter(|request| request.sent > heard && request.answer == Answer::Whole { closing: true });
    closed
        .map(|request| Failure {
            rule: Rule::Closing,
            at: request.done,
            text: format!(
                "request {} was sent after the cancel at {:.3}, and its connection closed",
                request.id,
                cancelled.as_secs_f64()
            ),
        })
        .collect()
}
