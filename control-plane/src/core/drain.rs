//! One drain with all that belongs to it: its scope, its machine, what it counts, and its record.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ebb_proto::v1;

use super::{
    Now,
    fleet::{Epoch, Reporter},
    machine::{Hold, Machine, Outcome},
    policy::{Evidence, Policy, PolicyOverrides, from_wire},
    record::Record,
    report::Recorder,
    scope::Scope,
    settling::Settling,
    tally::{Tally, rows},
    view::UNKNOWN_SHOWN,
};

/// The most warnings that a drain keeps.
const MAX_WARNINGS: usize = 32;

/// The most changes of evidence that a drain tells of: one that flaps must leave room for other words.
const MAX_CHANGES: usize = 16;

/// Between two records for the sake of members that joined: each is a write to the disk, and an Envoy has many VMs.
const KEEP_JOINED_EVERY: Duration = Duration::from_millis(100);

/// A drain that started later than this since 1970 started never: the year is about 30000.
const LAST_START: Duration = Duration::from_secs(1 << 40);

/// More drains than there can have been.
const MOST_DRAINS: u64 = 1 << 62;

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
    /// What its Envoys owe beyond the requests in flight.
    pub(super) settling: Settling,
    pub(super) recorder: Recorder,
    /// How it looked when it ended: what it holds goes on changing after that.
    pub(super) last: Option<v1::Drain>,
    /// When its lease is renewed next.
    pub(super) renew_at: Option<Instant>,
    /// What its counts rest on, as last seen.
    pub(super) evidence: v1::Evidence,
    /// What its caller should know.
    pub(super) warnings: Vec<String>,
    /// Why it is not kept as it is now, as long as that lasts: a word of this control plane, which is not part of its record.
    pub(super) not_kept: Option<String>,
    /// How often that has changed, and was told.
    pub(super) changes: usize,
    /// When to keep it for the sake of members that have joined.
    pub(super) keep_at: Option<Instant>,
}

impl Drain {
    /// A drain that an earlier control plane left.
    ///
    /// # Errors
    /// In words, why its record makes no sense.
    pub(super) fn resume(record: Record, now: Now) -> Result<Self, String> {
        let mut drain = record.drain.ok_or("an empty record")?;
        fit(&mut drain);
        let unreadable = |what: &dyn std::fmt::Display| format!("drain {:?}: {what}", drain.id);
        let scope = drain.scope.clone().map(Scope::from).unwrap_or_default();
        let policy = drain.policy.as_ref().ok_or_else(|| unreadable(&"no policy"))?;
        let policy = PolicyOverrides::from_proto(policy)
            .and_then(|overrides| Policy::default().with(&overrides))
            .map_err(|error| unreadable(&error))?;
        let started_at = drain.started_at.and_then(|at| SystemTime::try_from(at).ok());
        let started_at = started_at.filter(can_be).ok_or_else(|| unreadable(&"no start"))?;
        // A clock set back meanwhile must not put the start into the future, nor the deadline far away.
        let age = now.wall.duration_since(started_at).unwrap_or_default();
        let started = now.instant.checked_sub(age).unwrap_or(now.instant);
        let span = |wire: Option<prost_types::Duration>| wire.as_ref().and_then(from_wire);
        // What lies beyond all clocks makes no sense, and is as if it were now.
        let after = |span: Duration| started.checked_add(span).unwrap_or(now.instant);
        let closing_since = span(record.closing_after).map(after);
        let hold = if drain.holding {
            Hold::Holding
        } else {
            Hold::Released
        };
        let outcome = match drain.phase() {
            v1::Phase::Drained => Some(Outcome::Drained),
            v1::Phase::TimedOut => Some(Outcome::TimedOut),
            v1::Phase::Cancelled => Some(Outcome::Cancelled),
            v1::Phase::Cut => Some(Outcome::Cut),
            _ => None,
        };
        let mut tally = Tally::new(policy.evidence);
        for member in &record.members {
            tally.expect(Epoch(member.epoch), &member.node, member.process);
        }
        for node in &record.own_nodes {
            tally.expect_own(node);
        }
        tally.add_cut(drain.cut);
        let (machine, last) = match outcome {
            None => {
                let machine = Machine::resume(policy, scope.hold(), started, closing_since);
                (machine, None)
            }
            Some(outcome) => {
                let at = after(span(drain.elapsed).unwrap_or_default());
                (
                    Machine::ended(policy, started, closing_since, outcome, at, hold),
                    Some(drain.clone()),
                )
            }
        };
        let renew_at = machine.closing_since().map(|_| now.instant);
        // Of one that goes on, what is there now has to be seen anew.
        let evidence = if machine.is_ended() {
            drain.evidence()
        } else {
            tally.rests_on()
        };
        let warnings = drain.warnings;
        let (id, request_id, sequence) = (drain.id, drain.request_id, record.sequence);
        Ok(Self {
            id,
            request_id,
            sequence,
            scope,
            started_at,
            started,
            machine,
            tally,
            settling: Settling::default(),
            recorder: Recorder::resume(record.report.unwrap_or_default()),
            last,
            renew_at,
            evidence,
            warnings,
            not_kept: None,
            changes: 0,
            keep_at: None,
        })
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
            own_nodes: self.tally.own_nodes(),
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

    /// Whether it has ended and holds.
    pub(super) fn holds(&self) -> bool {
        matches!(self.machine.outcome(), Some((_, Hold::Holding)))
    }

    /// Keeps something that the caller should know, once.
    pub(super) fn warn(&mut self, text: String) {
        if !self.warnings.contains(&text) && self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(text);
        }
    }

    /// Says how many requests an Envoy in its scope cut when it ended, if any.
    pub(super) fn warn_of_cut(&mut self, cut: u64) {
        if cut > 0 {
            self.warn(format!(
                "an Envoy in its scope ended with requests in flight, which it cut: {cut} by its last report"
            ));
        }
    }

    /// Takes in what its counts rest on now, and says so if that has changed. Returns whether it has.
    pub(super) fn rest_on(&mut self, evidence: v1::Evidence, elapsed: Duration) -> bool {
        let before = std::mem::replace(&mut self.evidence, evidence);
        let unknown = self.tally.observation().unknown > 0;
        let text = match (before, evidence) {
            _ if before == evidence => return false,
            _ if self.machine.policy().evidence != Evidence::Auto => return true,
            (_, v1::Evidence::Admin) => "reporters of the filter are unknown: going by Envoy's own count",
            (v1::Evidence::Admin, _) if unknown => {
                "Envoy's own count is lost, and reporters of the filter are unknown: waiting for either"
            }
            (v1::Evidence::Admin, _) => "every reporter of the filter is known again: going by its count",
            _ => return true,
        };
        if self.changes < MAX_CHANGES {
            self.changes += 1;
            // With the time each is a warning of its own.
            let after = humantime::format_duration(Duration::from_millis(
                u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            ));
            self.warn(format!("{text} (after {after})"));
        }
        true
    }

    /// A member has joined. Returns whether that has to be kept now; else it is due at [`Drain::keep_at`].
    pub(super) fn joined(&mut self, now: Instant) -> bool {
        let at = self.recorder.kept().map_or(now, |kept| kept + KEEP_JOINED_EVERY);
        if at <= now {
            return true;
        }
        self.keep_at.get_or_insert(at);
        false
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let next_look = self.next_look();
        [
            self.machine.next_deadline(),
            self.renew_at,
            self.keep_at,
            next_look,
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

/// Leaves of what an earlier control plane kept as much as is shown.
fn fit(drain: &mut v1::Drain) {
    let more = |omitted: &mut u32, more: usize| {
        *omitted = omitted.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
    };
    let unknown = drain.unknown_reporters.len().saturating_sub(UNKNOWN_SHOWN);
    drain.unknown_reporters.truncate(UNKNOWN_SHOWN);
    more(&mut drain.unknown_reporters_omitted, unknown);
    let listeners = rows::fit(&mut drain.listeners);
    more(&mut drain.listeners_omitted, listeners);
}

/// Whether a drain can have started then: times that are further off overflow, and are of no clock.
fn can_be(at: &SystemTime) -> bool {
    at.duration_since(UNIX_EPOCH)
        .is_ok_and(|since| since < LAST_START)
}

/// Drains of an earlier control plane, by their places. One that could not read what was kept has counted its own from 1.
pub(super) fn in_order(mut drains: Vec<Drain>) -> BTreeMap<u64, Drain> {
    drains.sort_by(|a, b| a.sequence.cmp(&b.sequence).then(a.started_at.cmp(&b.started_at)));
    let mut all = BTreeMap::new();
    for mut drain in drains {
        let after = all.last_key_value().map_or(0, |(last, _)| last + 1);
        // Nobody has counted so far: it would leave no number for those that follow.
        let counted = Some(drain.sequence).filter(|sequence| *sequence < MOST_DRAINS);
        drain.sequence = counted.map_or(after, |sequence| sequence.max(after));
        all.insert(drain.sequence, drain);
    }
    all
}
