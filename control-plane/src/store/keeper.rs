//! The store on a thread of its own. Whoever has something kept waits for it, but not for a disk that hangs: then it is kept
//! as soon as possible, and of every record just the latest.
//!
//! ```text
//!   InTime --not written within PATIENCE--> Late --all is written--> InTime
//! ```
//! While it is late nobody waits.

use std::{
    collections::BTreeSet,
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use super::{Changes, Store};

/// How long somebody waits for a write. It takes some hundred microseconds; a deadline may be missed by a quarter of a second.
const PATIENCE: Duration = Duration::from_millis(50);

/// Between two tries to write what could not be written.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The same while somebody waits for it at the end.
const AGAIN_AT_THE_END: Duration = Duration::from_millis(20);

/// Why something is not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotKept {
    /// It is not written yet.
    #[error("the disk does not answer; it is written as soon as the disk does")]
    Late,
    /// It cannot be written now; it is tried again.
    #[error("{0}")]
    Failed(String),
}

/// What the keeper tells by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// What could not be written is written now.
    Written,
    /// Another file has taken the place of a broken one, with what could be read of that: all that is known is to be kept anew.
    Renewed,
}

/// Keeps changes. Dropped, it gives up what could not be written.
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    is_durable: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pending: Changes,
    /// What is being written just now.
    writing: Arc<Changes>,
    /// Counts what was asked for, and up to where it was tried.
    asked: u64,
    tried: u64,
    /// Why the last try failed.
    failed: Option<String>,
    pace: Pace,
    /// Whether somebody was told that something is not written, and not yet that all is.
    behind: bool,
    /// The drains that are in the file.
    known: BTreeSet<String>,
    /// Whether somebody waits for all of it, at the end.
    settling: bool,
    /// Whether the keeper is gone.
    closed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Pace {
    #[default]
    InTime,
    Late,
}

impl Keeper {
    /// Takes a store over, of which everything was read. What there is to say without being asked is said to `tell`, on the
    /// thread of the store.
    #[must_use]
    pub fn start(mut store: Store, tell: impl Fn(Told) + Send + 'static) -> Self {
        let shared = Arc::<Shared>::default();
        let is_durable = store.is_durable();
        if is_durable {
            store.take_renewed();
            shared.lock().known.clone_from(&store.known);
            let shared = Arc::clone(&shared);
            let writing = thread::Builder::new().name("ebb-store".to_owned());
            if let Err(error) = writing.spawn(move || write(&shared, store, tell)) {
                tracing::error!(%error, "no thread for the state: nothing is kept");
            }
        }
        Self { shared, is_durable }
    }

    /// Whether what is kept outlives this process, if it can be written.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.is_durable
    }

    /// Has changes kept: they are when this returns.
    ///
    /// # Errors
    /// [`NotKept`]; then it is tried again, as long as nothing else is to be kept in their place.
    pub fn keep(&self, changes: Changes) -> Result<(), NotKept> {
        if !self.is_durable || changes.is_empty() {
            return Ok(());
        }
        let mut state = self.shared.lock();
        state.pending.merge(changes);
        state.asked += 1;
        let mine = state.asked;
        self.shared.changed.notify_all();
        if state.pace == Pace::Late {
            return Err(NotKept::Late);
        }
        let waits = |state: &mut State| state.tried < mine;
        let waited = self.shared.changed.wait_timeout_while(state, PATIENCE, waits);
        let (mut state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() && state.tried < mine {
            state.pace = Pace::Late;
            state.behind = true;
            return Err(NotKept::Late);
        }
        state
            .failed
            .clone()
            .map_or(Ok(()), |error| Err(NotKept::Failed(error)))
    }

    /// Waits until everything is written, at most this long. What could not be written before is tried again.
    ///
    /// # Errors
    /// [`NotKept`].
    pub fn settle(&self, bound: Duration) -> Result<(), NotKept> {
        if !self.is_durable {
            return Ok(());
        }
        let mut state = self.shared.lock();
        state.settling = true;
        self.shared.changed.notify_all();
        let waits = |state: &mut State| !state.is_settled();
        let waited = self.shared.changed.wait_timeout_while(state, bound, waits);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.settling = false;
        match &state.failed {
            _ if state.is_settled() => Ok(()),
            Some(error) => Err(NotKept::Failed(error.clone())),
            None => Err(NotKept::Late),
        }
    }

    /// Whether everything is written.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.is_durable || self.shared.lock().is_settled()
    }

    /// Whether anything of a drain is in the file, so that a successor goes on with it, if only as it was.
    #[must_use]
    pub fn knows(&self, drain: &str) -> bool {
        self.is_durable && self.shared.lock().known.contains(drain)
    }

    /// What is not written, in words; empty = all is.
    #[must_use]
    pub fn unwritten(&self) -> String {
        let state = self.shared.lock();
        let mut all = (*state.writing).clone();
        all.merge(state.pending.clone());
        if all.is_empty() {
            String::new()
        } else {
            all.summary()
        }
    }
}

impl State {
    fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.writing.is_empty()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes until the keeper is gone.
fn write(shared: &Shared, mut store: Store, tell: impl Fn(Told)) {
    // An earlier one may have left much that is not needed.
    store.compact();
    loop {
        let idle = |state: &mut State| !state.closed && state.pending.is_empty();
        let waited = shared.changed.wait_while(shared.lock(), idle);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.closed && (state.pending.is_empty() || state.failed.is_some()) {
            return;
        }
        let (changes, upto) = (Arc::new(mem::take(&mut state.pending)), state.asked);
        state.writing = Arc::clone(&changes);
        drop(state);
        let result = store.apply(&changes);
        let mut state = shared.lock();
        state.tried = upto;
        state.writing = Arc::default();
        let mut told = None;
        match result {
            Ok(()) => {
                state.failed = None;
                state.known.clone_from(&store.known);
                // What came meanwhile is written next.
                if state.pending.is_empty() {
                    state.pace = Pace::InTime;
                    if mem::take(&mut state.behind) {
                        tracing::info!("the state is written again: all that was to be kept is");
                        told = Some(Told::Written);
                    }
                }
            }
            Err(error) => {
                state.failed = Some(format!("{error:#}"));
                state.behind = true;
                let newer = mem::replace(&mut state.pending, Arc::unwrap_or_clone(changes));
                state.pending.merge(newer);
            }
        }
        shared.changed.notify_all();
        let idle = state.failed.is_none() && state.pending.is_empty() && !state.closed;
        if state.failed.is_some() {
            // Tried again then, or when there is something new, or somebody waits for it.
            let (asked, settling) = (state.asked, state.settling);
            let again = if settling { AGAIN_AT_THE_END } else { AGAIN_AFTER };
            let waits =
                |state: &mut State| !state.closed && state.asked == asked && state.settling == settling;
            drop(shared.changed.wait_timeout_while(state, again, waits));
        } else {
            drop(state);
        }
        told.into_iter().for_each(&tell);
        if store.take_renewed() {
            tell(Told::Renewed);
        }
        if idle {
            store.compact();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ebb_proto::v1;

    use super::*;
    use crate::core::record::Record;

    fn drain(id: &str, in_flight: u64) -> Record {
        Record {
            drain: Some(v1::Drain {
                id: id.to_owned(),
                in_flight,
                ..v1::Drain::default()
            }),
            ..Record::default()
        }
    }

    fn reopened(folder: &std::path::Path) -> Vec<Record> {
        // The thread lets go of the file a moment after the keeper.
        let mut store = loop {
            match Store::open(folder) {
                Ok(store) => break store,
                Err(_) => thread::yield_now(),
            }
        };
        store.load().unwrap().drains
    }

    #[test]
    fn what_is_kept_is_there_when_that_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let keeper = Keeper::start(Store::open(folder.path()).unwrap(), |_| {});
        keeper.keep(Changes::drain(&drain("a", 1))).unwrap();
        keeper.keep(Changes::drain(&drain("a", 2))).unwrap();
        keeper.keep(Changes::drain(&drain("b", 1))).unwrap();
        keeper.keep(Changes::forget("b")).unwrap();
        drop(keeper);
        assert_eq!(reopened(folder.path()), [drain("a", 2)]);
    }

    #[test]
    fn at_the_end_what_could_not_be_written_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("state");
        fs::write(&blocked, "a file in the place of the folder").unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let tell = move |word| tell.send(word).unwrap();
        let keeper = Keeper::start(Store::open(&blocked).unwrap(), tell);
        keeper.keep(Changes::drain(&drain("a", 1))).unwrap_err();
        assert!(!keeper.is_settled() && !keeper.knows("a"));
        for _ in 0..200 {
            // Also while it is being tried just now.
            assert_eq!(keeper.unwritten(), "drains a");
            assert!(
                keeper
                    .settle(Duration::from_micros(fastrand::u64(0..300)))
                    .is_err()
            );
        }
        fs::remove_file(&blocked).unwrap();
        keeper.settle(Duration::from_secs(30)).unwrap();
        assert!(keeper.is_settled() && keeper.knows("a"));
        assert_eq!(told.recv(), Ok(Told::Written));
        drop(keeper);
        assert_eq!(reopened(&blocked), [drain("a", 1)]);
    }

    #[test]
    fn it_is_written_again_only_when_all_of_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("state");
        fs::write(&blocked, "a file in the place of the folder").unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let keeper = Keeper::start(Store::open(&blocked).unwrap(), move |word| {
            tell.send(word).unwrap()
        });
        for round in 0..20 {
            keeper.keep(Changes::drain(&drain("a", round))).unwrap_err();
        }
        fs::remove_file(&blocked).unwrap();
        // Some of these are asked for while others are being written.
        let mut shown = 0;
        while told.try_recv().is_err() {
            shown += 1;
            let _ = keeper.keep(Changes::drain(&drain("b", shown)));
        }
        keeper.settle(Duration::from_secs(30)).unwrap();
        drop(keeper);
        assert_eq!(reopened(&blocked), [drain("a", 19), drain("b", shown)]);
    }

    #[test]
    fn what_cannot_be_written_is_told_and_written_once_it_can_be_and_just_the_latest() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("state");
        fs::write(&blocked, "a file in the place of the folder").unwrap();
        let keeper = Keeper::start(Store::open(&blocked).unwrap(), |_| {});
        for in_flight in [1, 2] {
            let told = keeper.keep(Changes::drain(&drain("a", in_flight)));
            assert!(matches!(told, Err(NotKept::Failed(_))), "{told:?}");
        }
        fs::remove_file(&blocked).unwrap();
        while keeper.settle(AGAIN_AFTER).is_err() {
            thread::yield_now();
        }
        drop(keeper);
        assert_eq!(reopened(&blocked), [drain("a", 2)]);
    }

    #[test]
    fn nobody_waits_for_memory() {
        let keeper = Keeper::start(Store::memory(), |_| {});
        assert!(!keeper.is_durable());
        keeper.keep(Changes::drain(&drain("a", 1))).unwrap();
        keeper.settle(Duration::ZERO).unwrap();
    }
}
