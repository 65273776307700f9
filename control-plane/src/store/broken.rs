//! A file that `redb` cannot read. It is moved aside, and what can be read of it goes into a new one: a control plane that
//! serves without some of its drains is better than one that does not start.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use super::{Changes, file::copy_of, sound::sound};

/// Moves a file aside, and says where it is then.
///
/// # Errors
/// As the system's `rename`.
pub(super) fn move_aside(file: &Path) -> io::Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let aside = (now.as_secs()..)
        .map(|second| file.with_extension(format!("redb.broken-{second}")))
        .find(|aside| !aside.exists());
    let aside = aside.ok_or(ErrorKind::AlreadyExists)?;
    std::fs::rename(file, &aside)?;
    Ok(aside)
}

/// What can be read of a broken file, and whether that is all of it.
pub(super) fn salvage(file: &Path) -> (Changes, bool) {
    let mut read = Changes::default();
    let complete = sound(|| {
        let Some(database) = copy_of(file)? else {
            return Ok(true);
        };
        let complete = read.salvage(&database);
        // What is broken may panic again when it is closed.
        std::mem::forget(database);
        Ok(complete)
    });
    (read, complete.unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::FileExt as _};

    use ebb_proto::v1;

    use super::super::{Keeper, Store, Told};
    use super::*;
    use crate::{
        core::{fleet::ReporterRecord, record::Record},
        supervisor::succession::RunRecord,
    };

    const PAGE: usize = 4096;

    fn drain(id: &str) -> Record {
        Record {
            drain: Some(v1::Drain {
                id: id.to_owned(),
                warnings: vec!["a text that takes some space".repeat(10)],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// What a store has that has been in use for a while.
    fn filled() -> Changes {
        let reporter = |epoch| ReporterRecord {
            epoch,
            node: format!("edge-{epoch}"),
            ..ReporterRecord::default()
        };
        let mut all = Changes::fleet((1..100).map(reporter).collect(), &[]);
        for number in 0..60 {
            all.merge(Changes::drain(&drain(&format!("drain-{number}"))));
        }
        all.merge(Changes::lever("edge-1", true));
        all.merge(Changes::run(Some(&RunRecord::default())));
        all
    }

    fn kept(folder: &Path) -> (usize, bool) {
        let mut store = Store::open(folder).unwrap();
        let kept = store.load().unwrap();
        let has_new = kept
            .drains
            .iter()
            .any(|record| record.drain.as_ref().is_some_and(|drain| drain.id == "new"));
        (kept.drains.len(), has_new)
    }

    fn is_aside(folder: &Path) -> bool {
        let mut files = fs::read_dir(folder).unwrap().flatten();
        files.any(|file| file.file_name().to_string_lossy().starts_with("ebb.redb.broken-"))
    }

    /// That a control plane serves with this file, and what of its 60 drains is left.
    fn serves_with(bytes: &[u8], what: &str) -> usize {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ebb.redb"), bytes).unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let left = store.load().unwrap_or_else(|error| panic!("{what}: {error:#}"));
        store.run().unwrap();
        store
            .apply(&Changes::drain(&drain("new")))
            .unwrap_or_else(|error| panic!("{what}: {error:#}"));
        drop(store);
        assert_eq!(kept(folder.path()), (left.drains.len() + 1, true), "{what}");
        let lost = left.drains.len() < 60 || left.reporters.len() < 99 || left.levers.is_empty();
        assert!(!lost || is_aside(folder.path()), "{what}: lost without a word");
        left.drains.len()
    }

    #[test]
    fn whatever_page_is_broken_it_serves_and_keeps() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        store.apply(&filled()).unwrap();
        drop(store);
        let whole = fs::read(folder.path().join("ebb.redb")).unwrap();
        assert_eq!(serves_with(&whole, "as it is"), 60);
        let used = |page: &usize| whole[*page..].iter().take(PAGE).any(|byte| *byte != 0);
        let mut salvaged = 0;
        let mut pages = 0;
        for page in (0..whole.len()).step_by(PAGE).filter(used) {
            pages += 1;
            for (what, from, to, fill) in [
                ("zeroed", 0, PAGE, 0),
                ("overwritten", 0, PAGE, 0xff),
                ("with another kind", 0, 1, 0x5a),
                ("half written", PAGE / 2, PAGE, 0x11),
                ("with a byte flipped", 100, 101, 0xa5),
            ] {
                let mut broken = whole.clone();
                broken[page + from..page + to].fill(fill);
                salvaged += serves_with(&broken, &format!("page {} {what}", page / PAGE));
            }
        }
        assert!(pages > 5 && salvaged > 60, "{pages} pages, {salvaged} drains");
    }

    #[test]
    fn what_is_no_state_or_just_a_part_of_one_is_moved_aside() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        store.apply(&filled()).unwrap();
        drop(store);
        let whole = fs::read(folder.path().join("ebb.redb")).unwrap();
        for (what, bytes) in [
            ("nonsense", &b"this is no database"[..]),
            ("cut off in its header", &whole[..100]),
            ("cut off", &whole[..whole.len() / 2]),
            ("all zero", &[0; 3 * PAGE]),
        ] {
            serves_with(bytes, what);
        }
    }

    #[test]
    fn one_that_breaks_while_it_is_open_is_told_so_that_all_is_kept_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let file = folder.path().join("ebb.redb");
        let mut store = Store::open(folder.path()).unwrap();
        store.apply(&filled()).unwrap();
        // An error has it opened anew.
        store.database = None;
        let scribbled = fs::File::options().write(true).open(&file).unwrap();
        scribbled.write_all_at(&[0xff; 64], 0).unwrap();
        let keeper = Keeper::start(store, move |word| tell.send(word).unwrap());
        keeper.keep(Changes::drain(&drain("new"))).unwrap_or_default();
        // On a slow machine it is late before.
        while told.recv().unwrap() != Told::Renewed {}
        keeper.settle(std::time::Duration::from_secs(30)).unwrap();
        drop(keeper);
        while Store::open(folder.path()).is_err() {}
        assert!(is_aside(folder.path()) && kept(folder.path()).1);
    }
}
