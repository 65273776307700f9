use std::fs;

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
