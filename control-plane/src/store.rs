//! The durable store: what the core wants kept, in one embedded `redb` file. What a run of processes keeps in it, and what
//! its successor makes of that, is in `succession`.

mod changes;
mod compact;
mod keeper;
mod succession;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::bail;
use prost::Message;
use redb::{
    Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, backends::InMemoryBackend,
};

use crate::{
    core::{
        fleet::{Epoch, ReporterRecord},
        record::{Kept, LeftOut, Record},
    },
    late_sync::LateSync,
};

/// Drain id -> [`Record`].
const DRAINS: TableDefinition<&str, &[u8]> = TableDefinition::new("drains");
/// Nodes whose Envoy was told to close, and not yet told to serve.
const LEVERS: TableDefinition<&str, ()> = TableDefinition::new("levers");
/// What `ebb run` keeps of its processes, under [`succession::RUN`].
const RUNS: TableDefinition<&str, &[u8]> = TableDefinition::new("runs");
/// Reporter -> [`ReporterRecord`].
const REPORTERS: TableDefinition<u64, &[u8]> = TableDefinition::new("reporters");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Version of what is in the file. A greater one is refused, not guessed.
const FORMAT: u64 = 1;

pub use changes::Changes;
pub use keeper::{Keeper, NotKept};

/// Where drains are kept.
#[derive(Debug)]
pub struct Store {
    /// `None` = memory only: nothing is kept.
    file: Option<PathBuf>,
    /// `None` after an error, until it can be opened again.
    database: Option<Database>,
    /// What is in a file that could be read and not written when the store was opened.
    left: Option<Database>,
    /// The size of the file when it was last compacted; 0 = it was not.
    compacted: u64,
}

/// Why a store cannot be used at all, however long one waits.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is of a newer format.
    #[error(
        "state {0}: written in format {1} by a newer version of ebb; this one knows {FORMAT}. Use that version, or \
         another --state folder"
    )]
    Newer(PathBuf, u64),
    /// Another process has it open.
    #[error("state {0}: another `ebb` is using it; stop that one, or choose another --state folder")]
    InUse(PathBuf),
}

impl Store {
    /// A store that keeps nothing.
    pub fn memory() -> Self {
        Self {
            file: None,
            database: None,
            left: None,
            compacted: 0,
        }
    }

    /// Whether what is put outlives this process, if it can be written.
    pub fn is_durable(&self) -> bool {
        self.file.is_some()
    }

    /// Opens the store in a folder, which is made if need be. One that cannot be written now (a full disk, a read-only
    /// folder) does not keep anybody from draining: it is logged, what is in it is read all the same, every write fails, and
    /// the next one tries again.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn open(folder: &Path) -> Result<Self, Refused> {
        let file = folder.join("ebb.redb");
        let (database, left) = match open(&file) {
            Ok(database) => (Some(database), None),
            Err(error) => {
                let error = error.downcast::<Refused>().map_or_else(Ok, Err)?;
                tracing::error!(
                    state = %file.display(), error = format!("{error:#}"),
                    "the state cannot be used: drains will not survive a restart"
                );
                let left = if file.exists() { copy_of(&file) } else { Ok(None) };
                let unread = |error: anyhow::Error| {
                    tracing::error!(
                        state = %file.display(), error = format!("{error:#}"),
                        "the state cannot be read either: drains of an earlier control plane are not resumed"
                    );
                    Ok(None)
                };
                let left = left.or_else(|error| error.downcast::<Refused>().map_or_else(unread, Err))?;
                (None, left)
            }
        };
        Ok(Self {
            file: Some(file),
            database,
            left,
            compacted: 0,
        })
    }

    /// Everything that is kept. Records that cannot be read are dropped from the file, in one transaction and with a line
    /// in the log each: they must not keep the others from being resumed.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(&mut self) -> anyhow::Result<Kept> {
        let (kept, unreadable) = self.read()?;
        if !unreadable.is_empty() {
            let dropped = self.write(|write| drop_all(write, &unreadable));
            if let Err(error) = dropped {
                tracing::error!(
                    error = format!("{error:#}"),
                    "cannot drop what cannot be read; it stays"
                );
            }
        }
        Ok(kept)
    }

    /// Drops records that were read and make no sense, in one transaction and with a line in the log each.
    pub fn drop_senseless(&mut self, records: &[LeftOut]) {
        for LeftOut { id, why } in records {
            tracing::warn!(drain = id, why, "a stored drain makes no sense; dropped");
        }
        let ids = records.iter().map(|record| record.id.clone());
        let ids: Vec<String> = ids.filter(|id| !id.is_empty()).collect();
        if !ids.is_empty()
            && let Err(error) = self.write(|write| drop_all(write, &ids))
        {
            tracing::error!(
                error = format!("{error:#}"),
                "cannot drop what makes no sense; it stays"
            );
        }
    }

    fn readable(&self) -> Option<&Database> {
        self.database.as_ref().or(self.left.as_ref())
    }

    /// What is kept, and the ids of drains that cannot be read.
    fn read(&self) -> anyhow::Result<(Kept, Vec<String>)> {
        let (mut kept, mut unreadable) = (Kept::default(), Vec::new());
        let Some(database) = self.readable() else {
            return Ok((kept, unreadable));
        };
        let read = database.begin_read()?;
        for entry in read.open_table(DRAINS)?.iter()? {
            let (id, bytes) = entry?;
            match Record::decode(bytes.value()) {
                Ok(record) => kept.drains.push(record),
                Err(error) => {
                    tracing::warn!(drain = id.value(), %error, "a stored drain cannot be read; dropped");
                    unreadable.push(id.value().to_owned());
                }
            }
        }
        for entry in read.open_table(LEVERS)?.iter()? {
            kept.levers.push(entry?.0.value().to_owned());
        }
        for entry in read.open_table(REPORTERS)?.iter()? {
            let (epoch, bytes) = entry?;
            match ReporterRecord::decode(bytes.value()) {
                Ok(record) => kept.reporters.push(record),
                // It is written anew when the reporter attaches.
                Err(error) => {
                    tracing::warn!(reporter = %Epoch(epoch.value()), %error, "a stored reporter cannot be read");
                }
            }
        }
        Ok((kept, unreadable))
    }

    /// Writes changes, together. Nothing but a failure of the whole machine can lose them when this returns, and a moment
    /// later not even that: see `late_sync`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn apply(&mut self, changes: &Changes) -> anyhow::Result<()> {
        self.write(|write| changes.write(write))
    }

    fn write(
        &mut self,
        change: impl FnOnce(&redb::WriteTransaction) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let database = match self.database.take() {
            Some(database) => database,
            None => open(file)?,
        };
        let write = database.begin_write()?;
        change(&write)?;
        write.commit()?;
        // After an error redb wants the file to be opened anew, so only then is it not put back.
        self.database = Some(database);
        Ok(())
    }
}

fn drop_all(write: &redb::WriteTransaction, unreadable: &[String]) -> anyhow::Result<()> {
    let mut table = write.open_table(DRAINS)?;
    for id in unreadable {
        table.remove(id.as_str())?;
    }
    Ok(())
}

fn open(file: &Path) -> anyhow::Result<Database> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let options = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(file)?;
    let database = match Database::builder().create_with_backend(LateSync::new(options)?) {
        Err(redb::DatabaseError::DatabaseAlreadyOpen) => bail!(Refused::InUse(file.to_owned())),
        opened => opened?,
    };
    prepare(&database, file)?;
    Ok(database)
}

/// A copy, in memory, of a file that cannot be written; `None` = it is empty. `redb` repairs what a killed process left by
/// writing, so it cannot read the file itself.
fn copy_of(file: &Path) -> anyhow::Result<Option<Database>> {
    let bytes = fs::read(file)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let memory = InMemoryBackend::new();
    memory.set_len(bytes.len().try_into()?)?;
    memory.write(0, &bytes)?;
    let database = Database::builder().create_with_backend(memory)?;
    prepare(&database, file)?;
    Ok(Some(database))
}

/// Makes what is missing in a file of this format.
fn prepare(database: &Database, file: &Path) -> anyhow::Result<()> {
    let write = database.begin_write()?;
    {
        let mut meta = write.open_table(META)?;
        let format = meta.get("format")?.map(|value| value.value());
        match format {
            Some(format) if format > FORMAT => bail!(Refused::Newer(file.to_owned(), format)),
            _ => meta.insert("format", FORMAT)?,
        };
        write.open_table(DRAINS)?;
        write.open_table(LEVERS)?;
        write.open_table(RUNS)?;
        write.open_table(REPORTERS)?;
    }
    Ok(write.commit()?)
}

#[cfg(test)]
mod tests {
    use ebb_proto::v1;

    use super::*;

    fn record(id: &str) -> Record {
        Record {
            drain: Some(v1::Drain {
                id: id.to_owned(),
                ..Default::default()
            }),
            sequence: 7,
            ..Default::default()
        }
    }

    #[test]
    fn what_is_put_is_there_after_reopening_and_gone_after_forgetting() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        store.apply(&Changes::drain(&record("a"))).unwrap();
        store.apply(&Changes::drain(&record("b"))).unwrap();
        store.apply(&Changes::forget("a")).unwrap();
        drop(store);
        assert_eq!(
            Store::open(folder.path()).unwrap().load().unwrap().drains,
            vec![record("b")]
        );
    }

    #[test]
    fn a_lever_is_kept_until_it_is_undone() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        store.apply(&Changes::lever("a", true)).unwrap();
        store.apply(&Changes::lever("b", true)).unwrap();
        store.apply(&Changes::lever("a", false)).unwrap();
        drop(store);
        assert_eq!(Store::open(folder.path()).unwrap().load().unwrap().levers, ["b"]);
    }

    #[test]
    fn a_record_that_cannot_be_read_is_dropped_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        store.apply(&Changes::drain(&record("a"))).unwrap();
        store
            .write(|write| {
                write.open_table(DRAINS)?.insert("b", [0xff_u8].as_slice())?;
                Ok(())
            })
            .unwrap();
        assert_eq!(store.load().unwrap().drains, vec![record("a")]);
        let (kept, unreadable) = store.read().unwrap();
        assert_eq!((kept.drains, unreadable), (vec![record("a")], Vec::new()));
    }

    #[test]
    fn a_newer_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(Store::open(folder.path()).unwrap());
        let database = Database::create(folder.path().join("ebb.redb")).unwrap();
        let write = database.begin_write().unwrap();
        write
            .open_table(META)
            .unwrap()
            .insert("format", FORMAT + 1)
            .unwrap();
        write.commit().unwrap();
        drop(database);
        let error = Store::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("format 2 by a newer version"), "{error}");
    }

    #[test]
    fn a_store_in_use_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _held = Store::open(folder.path()).unwrap();
        let error = Store::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("another `ebb` is using it"), "{error}");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error_of_each_write_until_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("state");
        fs::write(&blocked, "a file in the place of the folder").unwrap();
        let mut store = Store::open(&blocked).unwrap();
        assert_eq!(store.load().unwrap(), Kept::default());
        assert!(store.apply(&Changes::drain(&record("a"))).is_err());
        fs::remove_file(&blocked).unwrap();
        store.apply(&Changes::drain(&record("a"))).unwrap();
        assert_eq!(store.load().unwrap().drains, vec![record("a")]);
    }

    #[test]
    fn memory_keeps_nothing() {
        let mut store = Store::memory();
        store.apply(&Changes::drain(&record("a"))).unwrap();
        assert_eq!(store.load().unwrap(), Kept::default());
    }
}
