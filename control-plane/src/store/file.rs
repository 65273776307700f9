//! The file of the store: opened, looked through, and made if need be; and a copy of one that cannot be written.

use std::{
    fs::{self, File},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;
use redb::{Database, ReadableTable, StorageBackend, backends::InMemoryBackend};

use super::{
    DRAINS, FORMAT, LEVERS, META, REPORTERS, RUNS, Refused,
    sound::{let_go, sound},
};
use crate::late_sync::LateSync;

/// How long the end of another process is waited for that has the file open. One that was killed has it until the kernel is
/// done with it, and until a process that it was just starting is on its own.
const RELEASED_WITHIN: Duration = Duration::from_millis(500);

/// As [`open`], once another process has released the file.
pub(super) fn open_released(file: &Path) -> anyhow::Result<Database> {
    let until = Instant::now() + RELEASED_WITHIN;
    loop {
        match open(file) {
            Err(error)
                if matches!(error.downcast_ref(), Some(Refused::InUse(_))) && Instant::now() < until =>
            {
                thread::sleep(Duration::from_millis(10));
            }
            opened => return opened,
        }
    }
}

/// Opens a file and looks at every page of it.
pub(super) fn open(file: &Path) -> anyhow::Result<Database> {
    sound(|| open_or_panic(file))
}

fn open_or_panic(file: &Path) -> anyhow::Result<Database> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let options = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(file)?;
    let mut database = match Database::builder().create_with_backend(LateSync::new(options)?) {
        Err(redb::DatabaseError::DatabaseAlreadyOpen) => bail!(Refused::InUse(file.to_owned())),
        opened => opened?,
    };
    let checked = sound(|| {
        prepare(&database, file)?;
        Ok(database.check_integrity()?)
    });
    match checked {
        Ok(true) => Ok(database),
        Ok(false) => {
            tracing::warn!(state = %file.display(), "the state was repaired: what was written last may be lost");
            Ok(database)
        }
        Err(error) => {
            let_go(database, &error);
            Err(error)
        }
    }
}

/// A copy, in memory, of a file that cannot be written; `None` = it is empty. `redb` repairs what a killed process left by
/// writing, so it cannot read the file itself.
pub(super) fn copy_of(file: &Path) -> anyhow::Result<Option<Database>> {
    let bytes = fs::read(file)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let memory = InMemoryBackend::new();
    memory.set_len(bytes.len().try_into()?)?;
    memory.write(0, &bytes)?;
    let database = Database::builder().create_with_backend(memory)?;
    if let Err(error) = sound(|| prepare(&database, file)) {
        let_go(database, &error);
        return Err(error);
    }
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
