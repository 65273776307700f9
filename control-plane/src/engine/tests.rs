use super::*;
use crate::{core::record::Record, store::Changes};

#[tokio::test]
async fn a_record_that_makes_no_sense_is_dropped_and_the_others_are_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let record = |id: &str, policy| Record {
        drain: Some(v1::Drain {
            id: id.to_owned(),
            policy,
            started_at: Some(SystemTime::now().into()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut store = Store::open(folder.path()).unwrap();
    store
        .apply(&Changes::drain(&record("a", Some(v1::Policy::default()))))
        .unwrap();
    let senseless = Record {
        sequence: 1,
        ..record("b", None)
    };
    store.apply(&Changes::drain(&senseless)).unwrap();
    let kept = store.load().unwrap();
    let engine = Engine::start(Policies::default(), kept, store, Vec::new());
    let drains = engine.drains().await.unwrap();
    assert_eq!(
        drains.iter().map(|drain| drain.id.as_str()).collect::<Vec<_>>(),
        ["a"]
    );
    engine.go_away().await;
    drop(engine);
    let mut store = loop {
        // The task lets go of it a moment after its last word.
        match Store::open(folder.path()) {
            Ok(store) => break store,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(store.load().unwrap().drains.len(), 1);
}
