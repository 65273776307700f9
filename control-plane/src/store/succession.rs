//! What a run of processes keeps, and what the next one makes of it: the predecessor is dead, so nobody goes on with the
//! drains of its shutdown.

use std::time::SystemTime;

use anyhow::Context;
use prost::Message;
use redb::ReadableDatabase;

use super::{DRAINS, RUNS, Store, drop_all, sound::sound};
use crate::{
    core::record::{Kept, Record},
    supervisor::succession::RunRecord,
};

/// The key of the only run there can be: two cannot have the store open.
pub(super) const RUN: &str = "run";

impl Store {
    /// What the last run kept, if it did not end as it should. One that cannot be read is as good as none.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn run(&self) -> anyhow::Result<Option<RunRecord>> {
        let Some(database) = self.readable() else {
            return Ok(None);
        };
        let bytes = sound(|| {
            let read = database.begin_read()?;
            let run = read.open_table(RUNS)?.get(RUN)?;
            Ok(run.map(|run| run.value().to_vec()))
        });
        let Some(bytes) = bytes? else { return Ok(None) };
        let run = RunRecord::decode(&bytes[..]);
        let unreadable = |error: &prost::DecodeError| {
            tracing::warn!(%error, "what the last run kept cannot be read; dropped");
        };
        Ok(run.inspect_err(unreadable).ok())
    }

    /// Takes the place of a run that is dead: in one transaction its drains are ended and released, what it kept of its
    /// processes is cleared, and so is what cannot be read. Everything else is returned as [`Store::load`] does.
    ///
    /// If it cannot be written, that is logged, and what is returned is the same.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn take_over(&mut self, now: SystemTime) -> anyhow::Result<Kept> {
        let (mut kept, unreadable) = self.read_sound()?;
        let mut released: Vec<&Record> = Vec::new();
        for record in &mut kept.drains {
            if record.release(now) {
                released.push(record);
            }
        }
        for id in released
            .iter()
            .filter_map(|record| record.drain.as_ref())
            .map(|drain| &drain.id)
        {
            tracing::info!(drain = id, "releasing what the shutdown of a dead run drained");
        }
        let written = self.write(|write| {
            drop_all(write, &unreadable)?;
            let mut drains = write.open_table(DRAINS)?;
            for record in &released {
                let id = record.drain.as_ref().map(|drain| drain.id.as_str());
                let id = id.context("a record of no drain")?;
                drains.insert(id, record.encode_to_vec().as_slice())?;
            }
            write.open_table(RUNS)?.remove(RUN)?;
            Ok(())
        });
        if let Err(error) = written {
            tracing::error!(error = format!("{error:#}"), "cannot clear what a dead run left");
        }
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use ebb_proto::v1::{Drain, Phase};

    use super::{super::Changes, *};

    fn record(id: &str, request_id: &str, phase: Phase, holding: bool) -> Record {
        Record {
            drain: Some(Drain {
                id: id.to_owned(),
                request_id: request_id.to_owned(),
                phase: phase.into(),
                holding,
                started_at: Some(SystemTime::now().into()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn told(kept: &Kept) -> Vec<(&str, Phase, bool)> {
        let drains = kept.drains.iter().filter_map(|record| record.drain.as_ref());
        drains
            .map(|drain| (drain.id.as_str(), drain.phase(), drain.holding))
            .collect()
    }

    #[test]
    fn a_successor_ends_and_releases_the_drains_of_a_shutdown_and_resumes_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        for record in [
            record("a", "ebb-shutdown/a", Phase::Draining, true),
            record("b", "ebb-shutdown/b", Phase::Drained, true),
            record("c", "ebb-shutdown/c", Phase::TimedOut, false),
            record("d", "mine", Phase::Draining, true),
        ] {
            store.apply(&Changes::drain(&record)).unwrap();
        }
        store.apply(&Changes::run(Some(&RunRecord::default()))).unwrap();
        let kept = store.take_over(SystemTime::now()).unwrap();
        let expected = [
            ("a", Phase::Cancelled, false),
            ("b", Phase::Drained, false),
            ("c", Phase::TimedOut, false),
            ("d", Phase::Draining, true),
        ];
        assert_eq!(told(&kept), expected);
        drop(store);
        let mut store = Store::open(folder.path()).unwrap();
        assert_eq!(told(&store.load().unwrap()), expected);
        assert_eq!(store.run().unwrap(), None);
    }

    #[test]
    fn what_a_run_keeps_is_there_until_it_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        assert_eq!(store.run().unwrap(), None);
        let run = RunRecord {
            boot: "b".to_owned(),
            ..RunRecord::default()
        };
        store.apply(&Changes::run(Some(&run))).unwrap();
        drop(store);
        let mut store = Store::open(folder.path()).unwrap();
        assert_eq!(store.run().unwrap(), Some(run));
        store.apply(&Changes::run(None)).unwrap();
        assert_eq!(store.run().unwrap(), None);
    }
}
