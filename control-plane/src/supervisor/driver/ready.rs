//! What is looked at once a process is ready.

use std::sync::Arc;

use super::{Supervisor, act::Supervised};
use crate::supervisor::{
    checkup,
    drains::Drains,
    machine::{Record, What},
};

impl Supervisor {
    /// Looks whether what has become ready can be drained, or waited for, as it is configured, until it is stopped.
    pub(super) fn check_up(&mut self, record: &Record, drains: &Drains) {
        let over = |process: &mut Supervised| {
            if let Some(looking) = process.checkup.take() {
                looking.abort();
            }
        };
        let process = record.process.and_then(|id| self.processes.get_mut(id.index()));
        match (&record.what, process) {
            (What::Ready(_), Some(process)) => {
                over(process);
                let config = Arc::clone(&process.config);
                let (drains, proxies) = (drains.clone(), self.proxies.subscribe());
                process.checkup = Some(tokio::spawn(async move {
                    let name = || config.name.clone();
                    let drain = async {
                        if let Some(target) = config.drain.clone() {
                            checkup::check_up(name(), target, drains).await;
                        }
                    };
                    let gate = async {
                        if !config.gate.is_empty() {
                            checkup::check_gate(name(), config.gate.clone(), proxies).await;
                        }
                    };
                    tokio::join!(drain, gate);
                }));
            }
            (What::ShutdownBegan(_), _) => self.processes.iter_mut().for_each(over),
            (What::Died(_) | What::Leftovers(_) | What::Stopped(_), Some(process)) => over(process),
            _ => {}
        }
    }
}
