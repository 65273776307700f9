//! The durable store: what the core wants kept, in one embedded `redb` file.

use std::{fs, path::Path};

use anyhow::{Context, bail};
use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::core::record::Record;

/// Drain id -> [`Record`].
const DRAINS: TableDefinition<&str, &[u8]> = TableDefinition::new("drains");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Version of what is in the file. A greater one is refused, not guessed.
const FORMAT: u64 = 1;

/// Where drains are kept.
#[derive(Debug)]
pub struct Store {
    /// `None` = memory only: nothing is kept.
    database: Option<Database>,
}

impl Store {
    /// A store that keeps nothing.
    pub fn memory() -> Self {
        Self { database: None }
    }

    /// Opens the store in a folder, which is made if need be.
    ///
    /// # Errors
    /// The folder cannot be written, another process has the store open, or a newer version of Ebb wrote it.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let file = folder.join("ebb.redb");
        let what = || format!("state {}", file.display());
        fs::create_dir_all(folder).with_context(what)?;
        let database = match Database::create(&file) {
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => bail!(
                "state {}: another `ebb` is using it; stop that one, or choose another --state folder",
                file.display()
            ),
            opened => opened.with_context(what)?,
        };
        let write = database.begin_write().with_context(what)?;
        {
            let mut meta = write.open_table(META).with_context(what)?;
            let format = meta.get("format").with_context(what)?.map(|value| value.value());
            match format {
                Some(format) if format > FORMAT => bail!(
                    "state {}: written in format {format} by a newer version of ebb; this one knows {FORMAT}. \
                     Use that version, or another --state folder",
                    file.display()
                ),
                _ => meta.insert("format", FORMAT).with_context(what)?,
            };
            write.open_table(DRAINS).with_context(what)?;
        }
        write.commit().with_context(what)?;
        Ok(Self {
            database: Some(database),
        })
    }

    /// Everything that is kept. A record that cannot be read is dropped from the file, with a warning: it must not
    /// keep the others from being resumed.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(&self) -> anyhow::Result<Vec<Record>> {
        let Some(database) = &self.database else {
            return Ok(Vec::new());
        };
        let read = database.begin_read()?;
        let mut records = Vec::new();
        for entry in read.open_table(DRAINS)?.iter()? {
            let (id, bytes) = entry?;
            match Record::decode(bytes.value()) {
                Ok(record) => records.push(record),
                Err(error) => {
                    tracing::warn!(drain = id.value(), %error, "a stored drain cannot be read; left out")
                }
            }
        }
        Ok(records)
    }

    /// Keeps a record in place of what was kept of the same drain. It is on disk when this returns.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put(&self, record: &Record) -> anyhow::Result<()> {
        let Some(drain) = &record.drain else { return Ok(()) };
        self.write(|table| {
            table.insert(drain.id.as_str(), record.encode_to_vec().as_slice())?;
            Ok(())
        })
    }

    /// Drops what was kept of a drain.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn forget(&self, id: &str) -> anyhow::Result<()> {
        self.write(|table| {
            table.remove(id)?;
            Ok(())
        })
    }

    fn write(
        &self,
        change: impl FnOnce(&mut redb::Table<'_, &'static str, &'static [u8]>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Some(database) = &self.database else {
            return Ok(());
        };
        let write = database.begin_write()?;
        change(&mut write.open_table(DRAINS)?)?;
        write.commit()?;
        Ok(())
    }
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
        let store = Store::open(folder.path()).unwrap();
        store.put(&record("a")).unwrap();
        store.put(&record("b")).unwrap();
        store.forget("a").unwrap();
        drop(store);
        assert_eq!(
            Store::open(folder.path()).unwrap().load().unwrap(),
            vec![record("b")]
        );
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
    fn memory_keeps_nothing() {
        let store = Store::memory();
        store.put(&record("a")).unwrap();
        assert!(store.load().unwrap().is_empty());
    }
}
