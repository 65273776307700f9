//! The durable store: what the core wants kept, in one embedded `redb` file. What a run of processes keeps in it, and what
//! its successor makes of that, is in `succession`.

mod broken;
mod changes;
mod compact;
mod file;
mod keeper;
mod sound;
mod succession;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::Context;
use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use file::{copy_of, open, open_released};
use sound::{is_broken, let_go, sound};

use crate::core::{
    fleet::{Epoch, ReporterRecord},
    record::{Kept, LeftOut, Record},
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
pub use keeper::{Keeper, NotKept, Told};

/// Where drains are kept.
#[derive(Debug)]
pub struct Store {
    /// `None` = memory only: nothing is kept.
    file: Option<PathBuf>,
    /// `None` after an error, until it can be opened again.
    database: Option<Database>,
    /// What is in a file that could be read and not written when the store was opened.
    left: Option<Database>,
    /// The drains that are in the file.
    known: BTreeSet<String>,
    /// Whether another file has taken the place of a broken one, and nobody has asked for that yet.
    renewed: bool,
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
            known: BTreeSet::new(),
            renewed: false,
            compacted: 0,
        }
    }

    /// Whether what is put outlives this process, if it can be written.
    pub fn is_durable(&self) -> bool {
        self.file.is_some()
    }

    /// Opens the store in a folder, which is made if need be. One that cannot be written now (a full disk, a read-only
    /// folder) does not keep anybody from draining: it is logged, what is in it is read all the same, every write fails, and
    /// the next one tries again. One that is broken is moved aside, and what can be read of it kept.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn open(folder: &Path) -> Result<Self, Refused> {
        let file = folder.join("ebb.redb");
        let mut store = Self {
            file: Some(file.clone()),
            ..Self::memory()
        };
        let opened = open_released(&file).or_else(|error| {
            if !is_broken(&error) {
                return Err(error);
            }
            store.renew(&error)?;
            store.database.take().context("a new file is not open")
        });
        let (database, left) = match opened {
            Ok(database) => (Some(database), None),
            Err(error) => {
                let error = error.downcast::<Refused>().map_or_else(Ok, Err)?;
                tracing::error!(
                    state = %file.display(), error = format!("{error:#}"),
                    "the state cannot be used: drains will not survive a restart"
                );
                let left = if file.exists() {
                    sound(|| copy_of(&file))
                } else {
                    Ok(None)
                };
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
            database,
            left,
            ..store
        })
    }

    /// Puts a new file in the place of a broken one, with what can be read of that.
    fn renew(&mut self, why: &anyhow::Error) -> anyhow::Result<()> {
        let Some(file) = self.file.clone() else {
            return Ok(());
        };
        let aside = broken::move_aside(&file).context("it is broken, and cannot be moved aside")?;
        let (salvaged, complete) = broken::salvage(&aside);
        tracing::error!(
            state = %file.display(), moved_to = %aside.display(), error = format!("{why:#}"),
            drains = salvaged.drains().count(), complete,
            "the state is broken: it is moved aside, and a new one has what could be read of it"
        );
        self.database = Some(open(&file)?);
        self.renewed = true;
        self.write(|write| salvaged.write(write))
    }

    /// Whether another file has taken the place of a broken one since the last call: then all that is known is to be written.
    fn take_renewed(&mut self) -> bool {
        std::mem::take(&mut self.renewed)
    }

    /// Everything that is kept. Records that cannot be read are dropped from the file, in one transaction and with a line
    /// in the log each: they must not keep the others from being resumed.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(&mut self) -> anyhow::Result<Kept> {
        let (kept, unreadable) = self.read_sound()?;
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

    /// As [`Store::read`], of a new file where the one that is open is broken.
    fn read_sound(&mut self) -> anyhow::Result<(Kept, Vec<String>)> {
        let read = match sound(|| self.read()) {
            Err(error) if self.database.is_some() && is_broken(&error) => {
                if let Some(database) = self.database.take() {
                    let_go(database, &error);
                }
                self.renew(&error)?;
                sound(|| self.read())
            }
            read => read,
        };
        let (kept, unreadable) = read?;
        let drains = kept.drains.iter().filter_map(|record| record.drain.as_ref());
        self.known = drains.map(|drain| drain.id.clone()).collect();
        Ok((kept, unreadable))
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
        match self.write(|write| changes.write(write)) {
            Err(error) if is_broken(&error) => {
                self.renew(&error)?;
                self.write(|write| changes.write(write))?;
            }
            written => written?,
        }
        for (id, kept) in changes.drains() {
            if kept {
                self.known.insert(id.clone());
            } else {
                self.known.remove(id);
            }
        }
        Ok(())
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
        let written = sound(|| {
            let write = database.begin_write()?;
            change(&write)?;
            Ok(write.commit()?)
        });
        match &written {
            Ok(()) => self.database = Some(database),
            // redb wants the file to be opened anew after it.
            Err(error) => let_go(database, error),
        }
        written
    }
}

fn drop_all(write: &redb::WriteTransaction, unreadable: &[String]) -> anyhow::Result<()> {
    let mut table = write.open_table(DRAINS)?;
    for id in unreadable {
        table.remove(id.as_str())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
