//! The drains: starting, cancelling, feeding them what reporters say, and what they have the filters do.

use ebb_proto::v1;

use super::{
    Core, Effect, Now,
    drain::Drain,
    fleet::Epoch,
    machine::{self, Hold, Machine},
    policy::{Evidence, PolicyOverrides},
    reading::is_named,
    record::Kept,
    refusal::named,
    report::Recorder,
    scope::Scope,
    settling::Settling,
    tally::Tally,
};

pub use super::refusal::StartError;

/// The longest `request_id`, in bytes.
pub const MAX_REQUEST_ID: usize = 128;

/// How many drains that have ended and hold nothing are remembered.
const REMEMBERED: usize = 256;

/// What a caller wants drained.
#[derive(Clone, Debug, Default)]
pub struct StartRequest {
    /// The id that the drain gets, if it is a new one. Never used twice.
    pub id: String,
    /// The caller's own, to make a repeated call safe; empty = none.
    pub request_id: String,
    /// What to drain.
    pub scope: Scope,
    /// The keys of the policy that the caller set.
    pub overrides: PolicyOverrides,
    /// Whether the listeners are closed and their process is stopped when it ends.
    pub of_a_stop: bool,
}

impl Core {
    /// Starts a drain, or finds the one that the same request id started before. Returns its id.
    ///
    /// # Errors
    /// [`StartError`], which says what to do.
    pub fn start(&mut self, request: StartRequest, now: Now) -> Result<(String, Vec<Effect>), StartError> {
        if request.request_id.len() > MAX_REQUEST_ID {
            return Err(StartError::LongRequestId(request.request_id.len()));
        }
        let mut policy = self.policies.of(&request.scope).with(&request.overrides)?;
        if request.scope.is_upstream() && request.overrides.quiet_period.is_none() {
            policy.outlast_retries();
        }
        let same = |drain: &&Drain| !drain.request_id.is_empty() && drain.request_id == request.request_id;
        if let Some(drain) = self.drains.values().find(same) {
            return if drain.scope == request.scope && *drain.machine.policy() == policy {
                Ok((drain.id.clone(), Vec::new()))
            } else {
                Err(StartError::TakenRequestId {
                    drain: drain.id.clone(),
                    request_id: request.request_id,
                })
            };
        }
        self.check_scope(&request.scope, policy.evidence)?;

        let sequence = self.drains.last_key_value().map_or(1, |(last, _)| last + 1);
        let (mut machine, effects) = Machine::start(policy, request.scope.hold(), now.instant);
        if request.of_a_stop {
            machine = machine.of_a_stop();
        }
        let mut tally = Tally::new(machine.policy().evidence);
        for (epoch, reporter) in self
            .fleet
            .reporters()
            .filter(|(_, reporter)| request.scope.has(reporter))
        {
            tally.update(epoch, reporter, &request.scope);
        }
        let id = request.id.clone();
        let mut drain = Drain {
            id: request.id,
            request_id: request.request_id,
            sequence,
            scope: request.scope,
            started_at: now.wall,
            started: now.instant,
            machine,
            tally,
            settling: Settling::default(),
            recorder: Recorder::default(),
            last: None,
            renew_at: None,
            evidence: v1::Evidence::Unspecified,
            warnings: Vec::new(),
            not_kept: None,
            changes: 0,
            keep_at: None,
        };
        self.warn_of_twins(&mut drain);
        self.add_admins(&mut drain);
        self.drains.insert(sequence, drain);
        let mut out = Vec::new();
        self.carry_out(sequence, effects, now, &mut out);
        self.forget_old(&mut out);
        self.step_admins(now, &mut out);
        self.step_looks(now, &mut out);
        Ok((id, out))
    }

    /// Whether a drain of a scope could be started, by what is known.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn check(&self, scope: &Scope) -> Result<(), StartError> {
        self.check_scope(scope, self.policies.of(scope).evidence)
    }

    fn check_scope(&self, scope: &Scope, evidence: Evidence) -> Result<(), StartError> {
        if scope.is_upstream() && !scope.listeners.is_empty() {
            return Err(StartError::MixedScope);
        }
        let nodes = || {
            let nodes = self.fleet.nodes().map(|(id, _)| &**id);
            nodes.chain(self.admins.values().map(|admin| &*admin.node))
        };
        if nodes().next().is_none() {
            return Err(StartError::NobodyAttached);
        }
        named(&scope.nodes, nodes).map_err(|(name, known)| StartError::UnknownNode { name, known })?;
        let covered = || {
            self.fleet
                .reporters()
                .filter(|(_, reporter)| scope.has_node(&reporter.node))
        };
        let admins = || {
            let admins = self.admins.values();
            admins.filter(|admin| scope.has_node(&admin.node))
        };
        let in_envoys = |name: &&String| {
            let mut all = admins().flat_map(|admin| admin.listeners());
            all.any(|listener| is_named(listener, name))
        };
        let listeners = || {
            let listeners = covered().flat_map(|(_, reporter)| reporter.listeners.iter());
            let of_admins = admins().flat_map(|admin| admin.listeners().map(String::as_str));
            let wanted = scope.listeners.iter().filter(in_envoys).map(String::as_str);
            listeners
                .map(|said| said.name.as_str())
                .chain(of_admins)
                .chain(wanted)
        };
        named(&scope.listeners, listeners)
            .map_err(|(name, known)| StartError::UnknownListener { name, known })?;
        let upstreams = || {
            let upstreams = covered().flat_map(|(_, reporter)| reporter.upstreams.iter());
            let of_admins = admins().flat_map(|admin| admin.upstreams().map(String::as_str));
            let all = upstreams.map(|said| said.address.as_str()).chain(of_admins);
            all.filter(|address| !address.is_empty())
        };
        named(&scope.upstreams, upstreams)
            .map_err(|(name, known)| StartError::UnknownUpstream { name, known })?;
        self.check_evidence(scope, evidence)
    }

    /// Ends a drain as cancelled, or releases one that has ended. `None` = no drain of that id.
    pub fn cancel(&mut self, id: &str, now: Now) -> Option<Vec<Effect>> {
        let sequence = self.find(id)?.sequence;
        let mut out = Vec::new();
        self.drive(sequence, machine::Event::Cancel, now, &mut out);
        self.step_admins(now, &mut out);
        self.step_looks(now, &mut out);
        Some(out)
    }

    /// A drain is kept as it is now, or why it is not, which is a warning until it is.
    pub fn kept(&mut self, id: &str, why_not: Option<String>) {
        if let Some(drain) = self.drains.values_mut().find(|drain| drain.id == id) {
            drain.not_kept = why_not;
        }
    }

    /// Everything is kept as it is now. The drains of which that was not so.
    pub fn all_kept(&mut self) -> Vec<String> {
        let drains = self.drains.values_mut();
        drains
            .filter_map(|drain| drain.not_kept.take().map(|_| drain.id.clone()))
            .collect()
    }

    /// All that is to be kept, as it is now.
    pub fn everything(&self, now: Now) -> Kept {
        let record = |drain: &Drain| drain.record(self.drain_view(drain, now.instant));
        Kept {
            drains: self.drains.values().map(record).collect(),
            levers: self.pulled_levers.iter().map(ToString::to_string).collect(),
            reporters: self.fleet.records(),
        }
    }

    pub(super) fn find(&self, id: &str) -> Option<&Drain> {
        self.drains.values().find(|drain| drain.id == id)
    }

    /// Shows a reporter, as it is now, to every drain that it concerns.
    pub(super) fn look_at(&mut self, epoch: Epoch, now: Now, out: &mut Vec<Effect>) {
        let Some(reporter) = self.fleet.get(epoch) else {
            return;
        };
        let mut concerned = Vec::new();
        let mut joined = false;
        let mut keep = Vec::new();
        for (sequence, drain) in &mut self.drains {
            let member = drain.tally.has(epoch);
            if drain.covers(epoch, reporter) {
                drain.tally.update(epoch, reporter, &drain.scope);
                if !member {
                    joined = true;
                    keep.extend(drain.joined(now.instant).then_some(*sequence));
                }
                concerned.push(*sequence);
            } else if member {
                drain.tally.remove(epoch);
                concerned.push(*sequence);
            }
        }
        for sequence in keep {
            self.keep(sequence, now, out);
        }
        if joined {
            self.send(epoch, now, out);
        }
        for sequence in concerned {
            self.observe(sequence, now, out);
        }
    }

    pub(super) fn observe(&mut self, sequence: u64, now: Now, out: &mut Vec<Effect>) {
        let Some(drain) = self
            .drains
            .get_mut(&sequence)
            .filter(|drain| !drain.machine.is_ended())
        else {
            return;
        };
        drain.sync_settling();
        let evidence = drain.tally.rests_on();
        let changed = drain.rest_on(evidence, drain.machine.elapsed(now.instant));
        out.push(Effect::DrainChanged {
            id: drain.id.clone(),
            phase: changed,
        });
        let seen = machine::Event::Observed(machine::Observation {
            owed: drain.settling.owed(),
            ..drain.tally.observation()
        });
        self.drive(sequence, seen, now, out);
    }

    pub(super) fn drive(&mut self, sequence: u64, event: machine::Event, now: Now, out: &mut Vec<Effect>) {
        let Some(drain) = self.drains.get_mut(&sequence) else {
            return;
        };
        let effects = drain.machine.handle(event, now.instant);
        drain.warn_of_upstream();
        if let Some(why) = drain.machine.why_never_quiet() {
            drain.warn(why);
        }
        self.carry_out(sequence, effects, now, out);
    }

    fn carry_out(&mut self, sequence: u64, effects: Vec<machine::Effect>, now: Now, out: &mut Vec<Effect>) {
        self.note(sequence, &effects, now, out);
        let keeps = effects.contains(&machine::Effect::Keep);
        for effect in effects {
            match effect {
                machine::Effect::Publish => self.publish(sequence, now, out),
                machine::Effect::Confirm => self.confirm(sequence, now, out),
                machine::Effect::Look => self.look(sequence, now, out),
                machine::Effect::Keep => self.keep(sequence, now, out),
                machine::Effect::Changed => self.changed(sequence, out),
            }
        }
        if keeps {
            self.take_over(sequence, now, out);
        }
    }

    /// Tells the members of a drain what to do. While it runs, their word counts again only when they have answered.
    fn publish(&mut self, sequence: u64, now: Now, out: &mut Vec<Effect>) {
        self.generation += 1;
        self.ask += 1;
        let Some(drain) = self.drains.get_mut(&sequence) else {
            return;
        };
        let lease = drain.machine.policy().lease;
        drain.renew_at = drain.machine.closing_since().map(|_| now.instant + lease / 3);
        let members: Vec<Epoch> = drain.tally.members().collect();
        if !drain.machine.is_ended() {
            drain.tally.told(self.ask);
            for (epoch, reporter) in members
                .iter()
                .filter_map(|epoch| Some((*epoch, self.fleet.get(*epoch)?)))
            {
                drain.tally.update(epoch, reporter, &drain.scope);
            }
        }
        for epoch in members {
            self.send(epoch, now, out);
        }
        self.observe(sequence, now, out);
    }

    fn confirm(&mut self, sequence: u64, now: Now, out: &mut Vec<Effect>) {
        self.ask += 1;
        let Some(drain) = self.drains.get_mut(&sequence) else {
            return;
        };
        drain.tally.confirm(self.ask);
        for epoch in drain.tally.members().collect::<Vec<_>>() {
            self.send(epoch, now, out);
        }
        self.observe(sequence, now, out);
    }

    /// Has a drain written down, and freezes how it looked when it ended.
    pub(super) fn keep(&mut self, sequence: u64, now: Now, out: &mut Vec<Effect>) {
        let Some(drain) = self.drains.get(&sequence) else {
            return;
        };
        let view = self.drain_view(drain, now.instant);
        let record = drain.record(view.clone());
        out.push(Effect::Store(Box::new(record)));
        if let Some(drain) = self.drains.get_mut(&sequence) {
            drain.keep_at = None;
            drain.recorder.keep(now.instant);
            if drain.machine.is_ended() {
                drain.last = Some(view);
                drain.settling = Settling::default();
            }
        }
    }

    fn changed(&self, sequence: u64, out: &mut Vec<Effect>) {
        let Some(drain) = self.drains.get(&sequence) else {
            return;
        };
        out.push(Effect::DrainChanged {
            id: drain.id.clone(),
            phase: true,
        });
        out.push(Effect::FleetChanged);
    }

    pub(super) fn tick_drains(&mut self, now: Now, out: &mut Vec<Effect>) {
        let due = |drain: &&Drain| drain.next_deadline().is_some_and(|at| at <= now.instant);
        for sequence in self
            .drains
            .values()
            .filter(due)
            .map(|drain| drain.sequence)
            .collect::<Vec<_>>()
        {
            self.drive(sequence, machine::Event::Tick, now, out);
            let joined = |drain: &Drain| drain.keep_at.is_some_and(|at| at <= now.instant);
            if self.drains.get(&sequence).is_some_and(joined) {
                self.keep(sequence, now, out);
            }
            let Some(drain) = self.drains.get_mut(&sequence) else {
                continue;
            };
            if drain.renew_at.is_some_and(|at| at <= now.instant) {
                drain.renew_at = Some(now.instant + drain.machine.policy().lease / 3);
                for epoch in drain.tally.members().collect::<Vec<_>>() {
                    self.send(epoch, now, out);
                }
            }
        }
    }

    fn forget_old(&mut self, out: &mut Vec<Effect>) {
        let released = |drain: &&Drain| matches!(drain.machine.outcome(), Some((_, Hold::Released)));
        let old: Vec<u64> = self
            .drains
            .values()
            .filter(released)
            .map(|drain| drain.sequence)
            .collect();
        for sequence in old.iter().take(old.len().saturating_sub(REMEMBERED)) {
            out.extend(self.drains.remove(sequence).map(|drain| Effect::Forget(drain.id)));
        }
    }
}
