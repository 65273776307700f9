//! A drain ended after its deadline; or what its command line says is not what it does.
//!
//! A control plane that is not there at the deadline ends the drain when it is back: that is when it is due then. A wall
//! clock that is set while a control plane is away moves the deadline, and nothing can tell by how much: such a drain is not
//! judged.

use std::time::Duration;

use super::{Failure, Rule};
use crate::{
    journal::{Drain, Journal, Moment, Outcome, Start},
    schedule::{Fault, Via},
};

/// Beyond the deadline, on an idle machine.
const ALLOWANCE: Duration = Duration::from_millis(250);
/// From the end of a drain to the end of its command line, which may be waiting to reach a control plane that is back.
const RETURNS_WITHIN: Duration = Duration::from_secs(4);

pub(super) fn judge(journal: &Journal, number: usize, drain: &Drain) -> Vec<Failure> {
    let Start::Accepted(began) = drain.start else {
        return Vec::new();
    };
    if drain.lost.is_some() {
        return Vec::new();
    }
    let mut failures = Vec::new();
    let failure = |rule, at, text| Failure { rule, at, text };
    let due = due(journal, began + Duration::from_millis(drain.plan.policy.timeout));
    let Some((ended, outcome)) = drain.end else {
        let text = format!(
            "drain {number} has not ended, and was due at {:.3}",
            due.as_secs_f64()
        );
        return vec![failure(Rule::Late, due, text)];
    };
    let allowed = due + ALLOWANCE + journal.stalled(began, ended);
    if ended > allowed && !is_moved(journal, drain, ended) {
        let text = format!(
            "drain {number} ended as {} {:?} after {:.3}, when it was due; of that, the machine stood still for {:?}",
            outcome.name(),
            ended.saturating_sub(due),
            due.as_secs_f64(),
            journal.stalled(began, ended)
        );
        failures.push(failure(Rule::Late, ended, text));
    }
    if outcome == Outcome::Cancelled && drain.plan.cancel_at.is_none() {
        let text = format!("drain {number} ended as cancelled, and nobody has");
        failures.push(failure(Rule::Said, ended, text));
    }
    failures.extend(said(journal, number, drain, ended, outcome));
    failures
}

fn said(journal: &Journal, number: usize, drain: &Drain, ended: Moment, outcome: Outcome) -> Option<Failure> {
    if drain.plan.via == Via::Grpc {
        return None;
    }
    let failure = |at, text| {
        Some(Failure {
            rule: Rule::Said,
            at,
            text,
        })
    };
    let latest = due(journal, ended) + RETURNS_WITHIN + journal.stalled(ended, ended + RETURNS_WITHIN);
    match &drain.exit {
        Some((at, Some(1), _)) if lost_while_asking(journal, drain, *at) => None,
        Some((at, code, said)) if *code != Some(outcome.exit_code()) || said != outcome.name() => {
            let outcome = outcome.name();
            let text = format!(
                "drain {number} is {outcome}; its command line exits with {code:?} and says {said:?}"
            );
            failure(*at, text)
        }
        Some((at, ..)) if *at > latest => {
            let text = format!(
                "drain {number} ended at {:.3}, its command line only now",
                ended.as_secs_f64()
            );
            failure(*at, text)
        }
        Some(_) => None,
        None => failure(
            latest,
            format!("drain {number} has ended; its command line has not"),
        ),
    }
}

/// Whether the control plane went away before it could answer a command line that ended then.
fn lost_while_asking(journal: &Journal, drain: &Drain, exit: Moment) -> bool {
    let asking = drain.asked..drain.asked + RETURNS_WITHIN;
    let mut outages = journal.outages.iter();
    outages.any(|outage| asking.contains(&outage.from) && outage.from < exit)
}

/// When something is due that was due at `deadline`, given when the control plane was away.
fn due(journal: &Journal, deadline: Moment) -> Moment {
    let mut outages = journal.outages.clone();
    outages.sort_by_key(|outage| outage.from);
    outages.iter().fold(deadline, |due, outage| {
        let away = outage.from <= due + ALLOWANCE && outage.until > due;
        if away { outage.until } else { due }
    })
}

/// Whether the wall clock was set and the control plane away in the time of a drain.
fn is_moved(journal: &Journal, drain: &Drain, ended: Moment) -> bool {
    let within = |from: Moment, until: Moment| from < ended && until > drain.asked;
    let set = journal.faults.iter().any(|seen| {
        matches!(seen.fault, Fault::ClockStep(_)) && seen.skipped.is_none() && within(seen.from, seen.until)
    });
    set && journal
        .outages
        .iter()
        .any(|outage| within(outage.from, outage.until))
}
