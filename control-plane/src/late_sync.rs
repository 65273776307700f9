//! A file for `redb` whose commits are in the kernel's hands at once, and on disk a moment later.
//!
//! What a killed process has written is not lost: only what an `fsync` has not reached when the whole machine fails is. An
//! `fsync` takes milliseconds, on a busy disk seconds, and whoever waits for a drain to begin or to end would wait for it
//! too. So [`LateSync`] has a thread of its own do it.
//!
//! The file stays consistent all the same. `redb` writes a commit, syncs once, and falls back to the commit before if the
//! last one is torn; for that, nothing of the next commit may reach the disk before all of the last one has. So a write that
//! meets a sync under way waits for its end. A machine that fails loses at most the last commit.

use std::{
    fs::File,
    io,
    ops::Bound,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use redb::{BackendError, DatabaseError, StorageBackend, backends::FileBackend};

/// A disk that takes longer than this is an error to whoever wants to write next.
const SYNC_WITHIN: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct LateSync<B = FileBackend> {
    file: Arc<B>,
    shared: Arc<Shared>,
    /// Asks the thread to sync; its end ends the thread.
    sync: Mutex<Option<mpsc::Sender<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum State {
    /// Everything that was synced is on disk.
    #[default]
    Idle,
    /// A sync is under way.
    Syncing,
    /// The last sync failed, and nobody has been told yet.
    Failed(io::Error),
}

impl LateSync {
    /// A backend for this file.
    ///
    /// # Errors
    /// As [`FileBackend::new`]; or no thread can be started.
    pub(crate) fn new(file: File) -> Result<Self, DatabaseError> {
        Ok(Self::over(FileBackend::new(file)?)?)
    }
}

impl<B: StorageBackend> LateSync<B> {
    fn over(file: B) -> io::Result<Self> {
        let (sync, asked) = mpsc::channel();
        let (file, shared) = (Arc::new(file), Arc::new(Shared::default()));
        let (synced, told) = (Arc::clone(&file), Arc::clone(&shared));
        thread::Builder::new()
            .name("ebb-sync".to_owned())
            .spawn(move || {
                while asked.recv().is_ok() {
                    let result = synced.sync_data();
                    told.set(result.map_or_else(State::Failed, |()| State::Idle));
                }
            })?;
        Ok(Self {
            file,
            shared,
            sync: Mutex::new(Some(sync)),
        })
    }

    /// Waits until what was synced last is on disk.
    fn settled(&self) -> io::Result<()> {
        let waited = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), SYNC_WITHIN, |state| {
                matches!(state, State::Syncing)
            });
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Idle => Ok(()),
            State::Syncing => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the disk has not answered for {SYNC_WITHIN:?}"),
            )),
            State::Failed(_) => match std::mem::take(&mut *state) {
                State::Failed(error) => Err(error),
                State::Idle | State::Syncing => Ok(()),
            },
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.lock() = state;
        self.changed.notify_all();
    }
}

impl<B: StorageBackend> StorageBackend for LateSync<B> {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.settled()?;
        self.file.set_len(len)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.settled()?;
        self.file.write(offset, data)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.settled()?;
        self.shared.set(State::Syncing);
        let sync = self.sync.lock().unwrap_or_else(PoisonError::into_inner);
        if sync.as_ref().is_some_and(|sync| sync.send(()).is_ok()) {
            return Ok(());
        }
        self.shared.set(State::Idle);
        self.file.sync_data()
    }

    fn close(&self) -> io::Result<()> {
        let settled = self.settled();
        drop(self.sync.lock().unwrap_or_else(PoisonError::into_inner).take());
        // The locks go in any case.
        self.file.close().and(settled)
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use redb::{Database, TableDefinition, backends::InMemoryBackend};

    use super::*;

    const TABLE: TableDefinition<u64, u64> = TableDefinition::new("t");

    /// A disk of which the syncs take as long as somebody wants, or fail.
    #[derive(Debug, Default, Clone)]
    struct Disk(Arc<Inner>);

    #[derive(Debug, Default)]
    struct Inner {
        memory: InMemoryBackend,
        holds: Mutex<bool>,
        changed: Condvar,
        fails: AtomicBool,
        /// Whether anything was written while a sync was under way.
        disturbed: AtomicBool,
        syncing: AtomicBool,
    }

    impl Disk {
        fn hold(&self, holds: bool) {
            *self.0.holds.lock().unwrap() = holds;
            self.0.changed.notify_all();
        }

        fn wrote(&self) {
            if self.0.syncing.load(Ordering::SeqCst) {
                self.0.disturbed.store(true, Ordering::SeqCst);
            }
        }
    }

    impl StorageBackend for Disk {
        fn len(&self) -> io::Result<u64> {
            self.0.memory.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.memory.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.wrote();
            self.0.memory.set_len(len)
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.wrote();
            self.0.memory.write(offset, data)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.0.syncing.store(true, Ordering::SeqCst);
            let holds = self.0.holds.lock().unwrap();
            drop(self.0.changed.wait_while(holds, |holds| *holds).unwrap());
            self.0.syncing.store(false, Ordering::SeqCst);
            if self.0.fails.load(Ordering::SeqCst) {
                return Err(io::Error::other("the disk is broken"));
            }
            Ok(())
        }
    }

    /// A database on this disk that has committed once, all of which is on the disk.
    fn database(disk: &Disk) -> Database {
        let backend = LateSync::over(disk.clone()).unwrap();
        let shared = Arc::clone(&backend.shared);
        let database = Database::builder().create_with_backend(backend).unwrap();
        put(&database, 1).unwrap();
        let syncing = |state: &mut State| matches!(state, State::Syncing);
        drop(shared.changed.wait_while(shared.lock(), syncing).unwrap());
        database
    }

    fn put(database: &Database, key: u64) -> Result<(), redb::Error> {
        let write = database.begin_write()?;
        write.open_table(TABLE)?.insert(key, key)?;
        Ok(write.commit()?)
    }

    #[test]
    fn a_commit_does_not_wait_for_the_disk_and_the_next_one_does() {
        let disk = Disk::default();
        let database = database(&disk);
        disk.hold(true);
        // Were it to wait, this test would not end.
        put(&database, 2).unwrap();
        let released = thread::spawn({
            let disk = disk.clone();
            move || {
                thread::sleep(Duration::from_millis(50));
                disk.hold(false);
            }
        });
        put(&database, 3).unwrap();
        released.join().unwrap();
        assert!(!disk.0.disturbed.load(Ordering::SeqCst), "written during a sync");
    }

    #[test]
    fn a_disk_that_does_not_answer_is_an_error_and_not_a_wait_for_ever() {
        let disk = Disk::default();
        let database = database(&disk);
        disk.hold(true);
        put(&database, 2).unwrap();
        let error = put(&database, 3).unwrap_err().to_string();
        assert!(error.contains("has not answered"), "{error}");
        disk.hold(false);
    }

    #[test]
    fn a_sync_that_fails_is_told_to_the_next_writer() {
        let disk = Disk::default();
        let database = database(&disk);
        disk.0.fails.store(true, Ordering::SeqCst);
        put(&database, 2).unwrap();
        let error = put(&database, 3).unwrap_err().to_string();
        assert!(error.contains("the disk is broken"), "{error}");
    }
}
