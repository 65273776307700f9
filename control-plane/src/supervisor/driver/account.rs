//! The account of a shutdown: which records mean that something was cut.

use super::Supervisor;
use crate::supervisor::{
    cut::{Account, Remains, Times, Verdict, Why},
    machine::{Cause, DrainOutcome, Force, Record, What},
    plan::ProcessId,
};

impl Supervisor {
    /// Takes in what was recorded. What a process had left then is cut: nobody waits for it any longer.
    pub(super) fn account(&mut self, record: &Record) {
        match (&record.what, record.process) {
            // It has traffic from here on, and nobody counts it before its drain.
            (What::Ready(_), Some(id)) if self.is_proxy(id) => {
                self.left(id).set(Remains::unknown("it was serving".to_owned()));
            }
            (What::WaitTimedOut(_) | What::DrainEnded(DrainOutcome::TimedOut(_)), Some(id)) => {
                self.cut(id, Why::TimeOver);
            }
            (What::DrainEnded(DrainOutcome::Cut(_)), Some(id)) => self.cut(id, Why::InDrain),
            (
                What::DrainEnded(DrainOutcome::Cancelled | DrainOutcome::Failed(_)) | What::NotClosed(_),
                Some(id),
            ) => {
                self.cut(id, Why::Unwanted);
            }
            (What::Died(_) | What::Leftovers(_), Some(id)) => self.cut(id, Why::Ended),
            (What::Started(_), Some(id)) => self.account.forget(self.machine.plan().name(id)),
            // What ended before somebody asked for a stop is no part of it.
            (What::ShutdownBegan(Cause::Signal(_) | Cause::TerminalLost | Cause::Request), None) => {
                self.account = Account::default()
            }
            (What::Forced(force), None) => {
                let why = match force {
                    Force::Deadline => Why::TimeOver,
                    Force::Signal(_) => Why::Unwanted,
                };
                for id in self.machine.plan().ids() {
                    self.cut(id, why);
                }
            }
            _ => {}
        }
    }

    /// What the shutdown comes to; `None` where no process has traffic that is waited for.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        let plan = self.machine.plan();
        let accounted = self.processes.iter().any(super::Supervised::is_accounted);
        accounted.then(|| {
            self.account.verdict(Times {
                grace_period: plan.grace_period(),
                drain: plan.drain_timeout(),
            })
        })
    }

    fn cut(&mut self, id: ProcessId, why: Why) {
        // Taken: whatever ends it next cuts nothing more.
        let left = self
            .processes
            .get_mut(id.index())
            .map(super::Supervised::take_left);
        if let Some(left) = left {
            self.account.note(self.machine.plan().name(id), why, left);
        }
    }

    fn is_proxy(&self, id: ProcessId) -> bool {
        self.processes
            .get(id.index())
            .is_some_and(super::Supervised::is_proxy)
    }
}
