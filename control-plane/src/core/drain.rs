//! One drain with all that belongs to it: its scope, its machine, what it counts, and its record.

use std::time::{Duration, Instant, SystemTime};

use ebb_proto::v1;

use super::{
    Now,
    fleet::{Epoch, Reporter},
    machine::{Hold, Machine, Outcome},
    policy::{Policy, PolicyOverrides, from_wire},
    record::Record,
    report::Recorder,
    scope::Scope,
    tally::Tally,
};

/// The most warnings that a drain keeps.
const MAX_WARNINGS: usize = 32;

/// One drain, running or ended.
#[derive(Debug)]
pub struct Drain {
    pub(super) id: String,
    pub(super) request_id: String,
    pub(super) sequence: u64,
    pub(super) scope: Scope,
    pub(super) started_at: SystemTime,
    pub(super) started: Instant,
    pub(super) machine: Machine,
    pub(super) tally: Tally,
    pub(super) recorder: Recorder,
    /// How it looked when it ended: what it holds goes on changing after that.
    pub(super) last: Option<v1::Drain>,
    /// When its lease is renewed next.
    pub(super) renew_at: Option<Instant>,
    /// What its counts rest on, as last seen.
    pub(super) evidence: v1::Evidence,
    /// What its caller should know.
    pub(super) warnings: Vec<String>,
}

impl Drain {
    /// Whether a drain can be resumed from its record: one that can be decoded may still make no sense.
    pub fn can_resume(record: &Record, now: Now) -> bool {
        Self::resume(record.clone(), now).is_some()
    }

    /// A drain that an earlier control plane left; `None` if its record makes no sense.
    pub(super) fn resume(record: Record, now: Now) -> Option<(u64, Self)> {
        let drain = record.drain?;
        let scope = drain.scope.clone().map(Scope::from).unwrap_or_default();
        let overrides = PolicyOverrides::from_proto(drain.policy.as_ref()?).ok()?;
        let policy = Policy::default().with(&overrides).ok()?;
        let started_at = SystemTime::try_from(drain.started_at?).ok()?;
        // A clock set back meanwhile must not put the start into the future, nor the deadline far away.
        let age = now.wall.duration_since(started_at).unwrap_or_default();
        let started = now.instant.checked_sub(age).unwrap_or(now.instant);
        let span = |wire: Option<prost_types::Duration>| wire.as_ref().and_then(from_wire);
        let closing_since = span(record.closing_after).map(|after| started + after);
        let hold = if drain.holding {
            Hold::Holding
        } else {
            Hold::Released
        };
        let outcome = match drain.phase() {
            v1::Phase::Drained => Some(Outcome::Drained),
            v1::Phase::TimedOut => Some(Outcome::TimedOut),
            v1::Phase::Cancelled => Some(Outcome::Cancelled),
            _ => None,
        };
        let mut tally = Tally::new(policy.evidence);
        for member in &record.members {
            tally.expect(Epoch(member.epoch), &member.node, member.process);
        }
        let (machine, last) = match outcome {
            None => (Machine::resume(policy, started, closing_since), None),
            Some(outcome) => {
                let at = started + span(drain.elapsed).unwrap_or_default();
                (
                    Machine::ended(policy, started, closing_since, outcome, at, hold),
                    Some(drain.clone()),
                )
            }
        };
        let renew_at = machine.closing_since().map(|_| now.instant);
        let (evidence, warnings) = (drain.evidence(), drain.warnings);
        let (id, request_id, sequence) = (drain.id, drain.request_id, record.sequence);
        Some((
            sequence,
            Self {
                id,
                request_id,
                sequence,
                scope,
                started_at,
                started,
                machine,
                tally,
                recorder: Recorder::resume(record.report.unwrap_or_default()),
                last,
                renew_at,
                evidence,
                warnings,
            },
        ))
    }

    pub(super) fn record(&self, view: v1::Drain) -> Record {
        Record {
            drain: Some(view),
            closing_after: self
                .machine
                .closing_since()
                .and_then(|since| since.saturating_duration_since(self.started).try_into().ok()),
            sequence: self.sequence,
            members: self.tally.records(),
            report: Some(self.recorder.record()),
        }
    }

    /// Whether it concerns a reporter now. One that has ended holds just the processes that it drained, so that an
    /// Envoy started in the place of a drained one serves.
    pub(super) fn covers(&self, epoch: Epoch, reporter: &Reporter) -> bool {
        match self.machine.outcome() {
            None => self.scope.has(reporter),
            Some((_, Hold::Released)) => false,
            Some((_, Hold::Holding)) => {
                self.scope.has(reporter)
                    && (self.tally.has(epoch) || self.tally.has_process(reporter.process))
            }
        }
    }

    /// What a filter in its scope has to do; nothing while it does not close. With `counts_only` Envoy closes by itself.
    pub(super) fn directives(&self, counts_only: bool, now: Instant) -> Vec<v1::Directive> {
        let Some(since) = self.machine.closing_since() else {
            return Vec::new();
        };
        let policy = self.machine.policy();
        let wire = |span: Duration| span.try_into().ok();
        let directive = |listener: String, upstream: String| v1::Directive {
            listener,
            upstream,
            ramp: wire(policy.ramp),
            elapsed: wire(now.saturating_duration_since(since)),
            lease: wire(policy.lease),
            awaited: !self.machine.is_ended(),
            counts_only,
        };
        if self.scope.is_upstream() {
            let upstreams = self.scope.upstreams.iter().cloned();
            upstreams
                .map(|upstream| directive(String::new(), upstream))
                .collect()
        } else if self.scope.listeners.is_empty() {
            vec![directive(String::new(), String::new())]
        } else {
            let listeners = self.scope.listeners.iter().cloned();
            listeners
                .map(|listener| directive(listener, String::new()))
                .collect()
        }
    }

    /// Keeps something that the caller should know, once.
    pub(super) fn warn(&mut self, text: String) {
        if !self.warnings.contains(&text) && self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(text);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        [self.machine.next_deadline(), self.renew_at]
            .into_iter()
            .flatten()
            .min()
    }
}
