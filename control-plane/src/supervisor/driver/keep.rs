//! Keeping what a successor has to know, should this run die: see [`crate::supervisor::succession`].

use std::time::{Instant, SystemTime};

use super::Supervisor;
use crate::local::boot;
use crate::supervisor::{
    drains::Drains,
    machine::{Effect, What},
    succession::{RunRecord, ShutdownRecord, mark},
};

/// What was kept last.
#[derive(Debug)]
pub(super) struct Kept {
    /// Of this run, and of no other.
    id: String,
    record: Option<RunRecord>,
    shutdown: Option<ShutdownRecord>,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            id: format!("{:032x}", fastrand::u128(..)),
            record: None,
            shutdown: None,
        }
    }
}

impl Kept {
    /// What marks a process of this run.
    pub(super) fn mark(&self, process: &str) -> String {
        mark(&self.id, process)
    }
}

impl Supervisor {
    /// Keeps how things stand, if that has changed.
    pub(super) async fn keep(&mut self, effects: &[Effect], drains: &Drains) {
        let plan = self.machine.plan();
        for effect in effects {
            if let Effect::Record(record) = effect
                && let What::ShutdownBegan(cause) = &record.what
            {
                let now = SystemTime::now();
                self.kept.shutdown = Some(ShutdownRecord {
                    began: Some(now.into()),
                    deadline: now.checked_add(plan.grace_period).map(Into::into),
                    why: cause.text(plan),
                });
            }
        }
        let view = self.machine.view(Instant::now());
        let all = plan.ids().zip(&self.processes).zip(view);
        let processes = all.filter_map(|((id, process), view)| process.record(plan.get(id)?, plan, view.pid));
        let record = RunRecord {
            boot: boot(),
            processes: processes.collect(),
            shutdown: self.kept.shutdown.clone(),
            id: self.kept.id.clone(),
        };
        if self.kept.record.as_ref() != Some(&record) {
            drains.keep_run(Some(record.clone())).await;
            self.kept.record = Some(record);
        }
    }
}
