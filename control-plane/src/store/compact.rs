//! Giving back to the disk what the file no longer needs: `redb` reuses it, and does not let go of it.

use std::fs;

use super::{Store, sound::sound};

/// A file up to this size, in bytes, is left as it is.
const SMALL: u64 = 4 << 20;

/// The file has at least to have doubled since the last time, so that it costs little on average.
const GROWN: u64 = 2;

impl Store {
    /// Compacts the file, if that may be worth its time. It takes about as long as to write what is kept.
    pub(super) fn compact(&mut self) {
        let (Some(file), Some(mut database)) = (&self.file, self.database.take()) else {
            return;
        };
        let size = || fs::metadata(file).map_or(0, |file| file.len());
        let before = size();
        if before <= SMALL.max(self.compacted.saturating_mul(GROWN)) {
            self.database = Some(database);
            return;
        }
        match sound(|| Ok(database.compact()?)) {
            Ok(_) => self.database = Some(database),
            // It is opened again for the next write, as after every error.
            Err(error) => tracing::warn!(state = %file.display(), %error, "the state cannot be compacted"),
        }
        self.compacted = size();
        tracing::debug!(before, now = self.compacted, "state compacted");
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Changes, Store};
    use super::*;
    use crate::core::fleet::{Epoch, ReporterRecord};

    #[test]
    fn what_is_not_kept_any_more_is_given_back_to_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let record = |epoch: u64| ReporterRecord {
            epoch,
            listeners: (0..1000).map(|name| format!("listener-{epoch}-{name}")).collect(),
            ..ReporterRecord::default()
        };
        let size = || fs::metadata(folder.path().join("ebb.redb")).unwrap().len();
        let all: Vec<u64> = (1..=500).collect();
        store
            .apply(&Changes::fleet(all.iter().copied().map(record).collect(), &[]))
            .unwrap();
        assert!(size() > 2 * SMALL, "{}", size());
        let gone: Vec<Epoch> = all.iter().skip(1).copied().map(Epoch).collect();
        store.apply(&Changes::fleet(Vec::new(), &gone)).unwrap();
        store.compact();
        assert!(size() <= SMALL, "{}", size());
        assert_eq!(store.load().unwrap().reporters, [record(1)]);
        store.apply(&Changes::fleet(vec![record(2)], &[])).unwrap();
        drop(store);
        let mut store = Store::open(folder.path()).unwrap();
        assert_eq!(store.load().unwrap().reporters, [record(1), record(2)]);
    }
}
