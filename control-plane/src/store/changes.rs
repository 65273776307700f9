//! What is to be written: of every record the latest, or that it is to be dropped.

use std::collections::BTreeMap;

use prost::Message;
use redb::{ReadableDatabase, ReadableTable};

use super::{DRAINS, LEVERS, REPORTERS, RUNS, sound::sound, succession::RUN};
use crate::{
    core::{
        fleet::{Epoch, ReporterRecord},
        record::{Kept, Record},
    },
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
        let put = put
            .into_iter()
            .map(|record| (Key::Reporter(record.epoch), Some(record.encode_to_vec())));
        let gone = gone.iter().map(|epoch| (Key::Reporter(epoch.0), None));
        put.chain(gone).collect()
    }

    /// What a run has started and stopped, or nothing once it has ended.
    #[must_use]
    pub fn run(run: Option<&RunRecord>) -> Self {
        Self::from_iter([(Key::Run, run.map(RunRecord::encode_to_vec))])
    }

    /// All that a control plane knows, and the run that it is of.
    #[must_use]
    pub fn everything(all: Kept, run: Option<&RunRecord>) -> Self {
        let mut changes = Self::fleet(all.reporters, &[]);
        for record in &all.drains {
            changes.merge(Self::drain(record));
        }
        for node in &all.levers {
            changes.merge(Self::lever(node, true));
        }
        if run.is_some() {
            changes.merge(Self::run(run));
        }
        changes
    }

    /// The drains among them, and whether each is kept or dropped.
    pub(super) fn drains(&self) -> impl Iterator<Item = (&String, bool)> {
        self.0.iter().filter_map(|(key, value)| match key {
            Key::Drain(id) => Some((id, value.is_some())),
            _ => None,
        })
    }

    /// What they are of, in words: every drain by its id, and how many others there are.
    pub(super) fn summary(&self) -> String {
        let drains: Vec<&str> = self.drains().map(|(id, _)| id.as_str()).collect();
        let others = self.0.len() - drains.len();
        match (drains.is_empty(), others) {
            (true, _) => format!("{others} records of Envoys and processes"),
            (false, 0) => format!("drains {}", drains.join(", ")),
            (false, _) => format!(
                "drains {}, and {others} records of Envoys and processes",
                drains.join(", ")
            ),
        }
    }

    /// Takes in what can be read of a database that is broken; whether that is all of it.
    pub(super) fn salvage(&mut self, database: &redb::Database) -> bool {
        let kept = &mut self.0;
        let drains = sound(|| {
            for entry in database.begin_read()?.open_table(DRAINS)?.iter()? {
                let (id, record) = entry?;
                kept.insert(Key::Drain(id.value().to_owned()), Some(record.value().to_vec()));
            }
            Ok(())
        });
        let levers = sound(|| {
            for entry in database.begin_read()?.open_table(LEVERS)?.iter()? {
                kept.insert(Key::Lever(entry?.0.value().to_owned()), Some(Vec::new()));
            }
            Ok(())
        });
        let reporters = sound(|| {
            for entry in database.begin_read()?.open_table(REPORTERS)?.iter()? {
                let (epoch, record) = entry?;
                kept.insert(Key::Reporter(epoch.value()), Some(record.value().to_vec()));
            }
            Ok(())
        });
        let run = sound(|| {
            if let Some(run) = database.begin_read()?.open_table(RUNS)?.get(RUN)? {
                kept.insert(Key::Run, Some(run.value().to_vec()));
            }
            Ok(())
        });
        [drains, levers, reporters, run].iter().all(Result::is_ok)
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
