//! Whether a file is sound: what `redb` does with one that is not, an error or a panic, as an error that says so.

use std::{
    any::Any,
    io::ErrorKind,
    panic::{AssertUnwindSafe, catch_unwind},
};

use redb::{CommitError, Database, DatabaseError, StorageError, TableError, TransactionError};

/// On some broken pages `redb` panics.
#[derive(Debug, thiserror::Error)]
#[error("it cannot be read: {0}")]
struct Panicked(String);

/// Does something with a database; a panic is an error.
pub(super) fn sound<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|payload| Err(Panicked(text(payload.as_ref())).into()))
}

fn text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("redb panicked").to_owned()
}

/// Whether the file is at fault, so that no other try helps. Not so if the disk is: it may come back.
pub(super) fn is_broken(error: &anyhow::Error) -> bool {
    let storage = |error: &StorageError| match error {
        StorageError::Corrupted(_) => true,
        StorageError::Io(error) => matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData),
        _ => false,
    };
    if error.is::<Panicked>() {
        return true;
    }
    if let Some(error) = error.downcast_ref() {
        return storage(error);
    }
    if let Some(error) = error.downcast_ref() {
        return match error {
            DatabaseError::Storage(error) => storage(error),
            DatabaseError::UpgradeRequired(_) | DatabaseError::RepairAborted => true,
            _ => false,
        };
    }
    if let Some(error) = error.downcast_ref() {
        return match error {
            TableError::Storage(error) => storage(error),
            TableError::TableAlreadyOpen(..) => false,
            _ => true,
        };
    }
    match (error.downcast_ref(), error.downcast_ref()) {
        (Some(TransactionError::Storage(error)), _) | (_, Some(CommitError::Storage(error))) => {
            storage(error)
        }
        _ => false,
    }
}

/// Ends the use of a database after an error.
pub(super) fn let_go(database: Database, error: &anyhow::Error) {
    if error.is::<Panicked>() {
        // Its end may well panic again; it is moved aside anyway.
        std::mem::forget(database);
        return;
    }
    let closed = sound(|| {
        drop(database);
        Ok(())
    });
    if let Err(error) = closed {
        tracing::debug!(error = format!("{error:#}"), "the state cannot be closed");
    }
}
