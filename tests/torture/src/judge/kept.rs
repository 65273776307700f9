//! What has to last: a drain over a restart, and a release.

use std::time::Duration;

use super::{Failure, Rule, scope::covers_envoy};
use crate::{
    journal::{Answer, Drain, Journal, Moment, Start},
    schedule::{Evidence, Fault, Scope},
};

/// From the confirmation of a release until every filter has heard of it.
const HEARD_WITHIN: Duration = Duration::from_millis(500);

pub(super) fn judge_drain(journal: &Journal, number: usize, drain: &Drain) -> Vec<Failure> {
    let failure = |rule, at, text| Failure { rule, at, text };
    let mut failures = Vec::new();
    if let Some(at) = drain.lost
        && journal.could_be_kept()
    {
        let text = format!("drain {number} is neither present nor reported");
        failures.push(failure(Rule::Forgotten, at, text));
    }
    if let Start::Refused(at, reason) = &drain.start
        && must_be_accepted(journal, drain, *at)
    {
        let text = format!("drain {number} of what is there was refused: {reason}");
        failures.push(failure(Rule::Refused, *at, text));
    }
    failures
}

/// Whether a drain names what is there and what its evidence can see. Names that only an Envoy knows, a control plane that
/// could remember nobody, an Envoy that was gone by then, and a stranger without an admin endpoint where that is to tell,
/// excuse a refusal.
fn must_be_accepted(journal: &Journal, drain: &Drain, refused: Moment) -> bool {
    let (world, plan) = (&journal.world, &drain.plan);
    let named = match plan.scope {
        Scope::All | Scope::Node(_) => true,
        Scope::Listener(listener) | Scope::ListenerOf(_, listener) => listener.has_filter(),
        Scope::Upstream(_) => false,
    };
    let by_admin = plan.policy.evidence == Evidence::Admin;
    let all_there = world.envoys.iter().enumerate().all(|(number, envoy)| {
        let mut ends = journal.ends.iter();
        let gone = ends.any(|end| end.envoy == number && end.at < refused);
        !covers_envoy(&plan.scope, envoy) || !gone && (!by_admin || envoy.admin)
    });
    let stranger = by_admin && journal.had(|fault| matches!(fault, Fault::Stranger(..)));
    let remembers = !journal.forgot(refused);
    named && all_there && remembers && !stranger
}

pub(super) fn judge_releases(journal: &Journal) -> Vec<Failure> {
    let mut failures: Vec<Failure> = Vec::new();
    for probe in &journal.probes {
        let (rule, text) = match &probe.answer {
            Answer::Whole { closing: false } => continue,
            Answer::Whole { closing: true } if released_with_its_drain(journal, probe.envoy) => continue,
            Answer::Whole { closing: true } => {
                let text = format!(
                    "Envoy {} closes connections, and every drain was released",
                    probe.envoy
                );
                (Rule::Closing, text)
            }
            Answer::Failed(how) => {
                let text = format!(
                    "a probe of {} of Envoy {} failed: {how}",
                    probe.listener.name(),
                    probe.envoy
                );
                (Rule::Lost, text)
            }
        };
        // It closes on every listener, most times: that is one failure.
        if !failures.iter().any(|failure| failure.text == text) {
            let at = probe.at;
            failures.push(Failure { rule, at, text });
        }
    }
    failures.extend(closed_after_cancel(journal));
    failures
}

/// Whether an Envoy was told to close by itself (`/healthcheck/fail`) by a drain that could not be written down and went with
/// its control plane: nobody can release it then.
fn released_with_its_drain(journal: &Journal, envoy: usize) -> bool {
    let Some(plan) = journal.world.envoys.get(envoy).filter(|plan| plan.admin) else {
        return false;
    };
    let told = |drain: &Drain| {
        let whole = matches!(drain.plan.scope, Scope::All | Scope::Node(_));
        whole && covers_envoy(&drain.plan.scope, plan) && drain.lost.is_some()
    };
    !journal.could_be_kept() && journal.drains.iter().any(told)
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
