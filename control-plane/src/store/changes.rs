//! What is to be written: of every record the latest, or that it is to be dropped.

use std::collections::BTreeMap;

use prost::Message;

use super::{DRAINS, LEVERS, REPORTERS, RUNS, succession::RUN};
use crate::{
    core::{
        fleet::{Epoch, ReporterRecord},
        record::Record,
    },
    local,
    supervisor::succession::RunRecord,
};

/// As many changes wait to be written: more than there are reporters and drains.
const MOST: usize = 100_000;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Drain(String),
    Lever(String),
    Reporter(u64),
    Run,
}

/// Changes to what is kept, which are written together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(BTreeMap<Key, Option<Vec<u8>>>);

impl Changes {
    /// A drain, in place of what was kept of it.
    #[must_use]
    pub fn drain(record: &Record) -> Self {
        let id = record.drain.as_ref().map(|drain| drain.id.clone());
        Self::from_iter(id.map(|id| (Key::Drain(id), Some(record.encode_to_vec()))))
    }

    /// A drain is dropped.
    #[must_use]
    pub fn forget(id: &str) -> Self {
        Self::from_iter([(Key::Drain(id.to_owned()), None)])
    }

    /// A node's Envoy was told to close, or that is undone.
    #[must_use]
    pub fn lever(node: &str, pulled: bool) -> Self {
        Self::from_iter([(Key::Lever(node.to_owned()), pulled.then(Vec::new))])
    }

    /// Reporters in place of what was kept of the same, and those that are gone.
    #[must_use]
    pub fn fleet(put: Vec<ReporterRecord>, gone: &[Epoch]) -> Self {
        let place = local::place();
        let put = put.into_iter().map(|mut record| {
            if let Some(local) = &mut record.local {
                local.place.clone_from(&place);
            }
            (Key::Reporter(record.epoch), Some(record.encode_to_vec()))
        });
        let gone = gone.iter().map(|epoch| (Key::Reporter(epoch.0), None));
        put.chain(gone).collect()
    }

    /// What a run has started and stopped, or nothing once it has ended.
    #[must_use]
    pub fn run(run: Option<&RunRecord>) -> Self {
        Self::from_iter([(Key::Run, run.map(RunRecord::encode_to_vec))])
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes later ones in. While a disk hangs they wait, so there is a bound: beyond it reporters that are gone stay on the disk,
    /// and a successor takes them for unknown.
    pub fn merge(&mut self, later: Self) {
        self.0.extend(later.0);
        if self.0.len() > MOST {
            self.0
                .retain(|key, change| change.is_some() || !matches!(key, Key::Reporter(_)));
        }
    }

    /// Makes them in a transaction.
    pub(super) fn write(&self, write: &redb::WriteTransaction) -> anyhow::Result<()> {
        let (mut drains, mut levers) = (write.open_table(DRAINS)?, write.open_table(LEVERS)?);
        let (mut reporters, mut runs) = (write.open_table(REPORTERS)?, write.open_table(RUNS)?);
        for (key, value) in &self.0 {
            match (key, value.as_deref()) {
                (Key::Drain(id), Some(record)) => drop(drains.insert(id.as_str(), record)?),
                (Key::Drain(id), None) => drop(drains.remove(id.as_str())?),
                (Key::Lever(node), Some(_)) => drop(levers.insert(node.as_str(), ())?),
                (Key::Lever(node), None) => drop(levers.remove(node.as_str())?),
                (Key::Reporter(epoch), Some(record)) => drop(reporters.insert(epoch, record)?),
                (Key::Reporter(epoch), None) => drop(reporters.remove(epoch)?),
                (Key::Run, Some(run)) => drop(runs.insert(RUN, run)?),
                (Key::Run, None) => drop(runs.remove(RUN)?),
            }
        }
        Ok(())
    }
}

impl FromIterator<(Key, Option<Vec<u8>>)> for Changes {
    fn from_iter<T: IntoIterator<Item = (Key, Option<Vec<u8>>)>>(changes: T) -> Self {
        Self(changes.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_what_is_there_is_not_given_up() {
        let record = |epoch| ReporterRecord {
            epoch,
            ..ReporterRecord::default()
        };
        let mut waits = Changes::fleet(vec![record(1)], &[]);
        waits.merge(Changes::lever("a", false));
        for epoch in (2..1_000_000).step_by(1000) {
            let gone: Vec<Epoch> = (epoch..epoch + 1000).map(Epoch).collect();
            waits.merge(Changes::fleet(Vec::new(), &gone));
        }
        assert!(waits.0.len() <= MOST + 1000, "{}", waits.0.len());
        assert!(waits.0.get(&Key::Reporter(1)).is_some_and(Option::is_some));
        assert_eq!(waits.0.get(&Key::Lever("a".to_owned())), Some(&None));
    }
}
