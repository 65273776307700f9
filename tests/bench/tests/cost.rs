//! The benchmark of costs works: every way gets its requests, none fails, and each has a figure.

use anyhow::{Context as _, Result};
use ebb_bench::{
    Mode,
    cost::{self, Protocol, Way},
    progress::Progress,
};

const SERVING: [Way; 7] = [
    Way::NoFilter,
    Way::Stock,
    Way::Floor,
    Way::Lua,
    Way::Closer,
    Way::Filter,
    Way::Ebb,
];

#[tokio::test(flavor = "multi_thread")]
async fn every_way_has_a_figure() -> Result<()> {
    let cost = cost::run(Mode::Short, &Progress::default()).await?;
    let kinds: Vec<_> = cost.tables.iter().map(|table| table.kind).collect();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        assert!(kinds.iter().any(|kind| kind.protocol == protocol && kind.closing));
        assert!(
            kinds
                .iter()
                .any(|kind| kind.protocol == protocol && !kind.closing)
        );
    }
    assert!(kinds.iter().any(|kind| kind.proxied));
    for table in &cost.tables {
        let ways: &[Way] = if table.kind.closing {
            &[Way::ByItself, Way::Admin, Way::Draining]
        } else {
            &SERVING
        };
        for way in ways {
            let row = table.rows.iter().find(|row| row.way == *way);
            let row = row.with_context(|| format!("{way:?} is missing: {:?}", table.kind))?;
            // That none fails, and that Envoy counts what its client counts, is checked with every sample.
            assert!(!row.samples.is_empty() && row.samples.iter().all(|sample| sample.requests >= 100));
            assert!(table.cost(*way).is_some_and(|cost| cost.median > 0.0), "{row:?}");
        }
    }
    // What is written can be read, and says the same.
    let read: cost::Cost = serde_json::from_str(&serde_json::to_string(&cost)?)?;
    assert_eq!(read.markdown(), cost.markdown());
    let text = cost.markdown();
    assert!(SERVING.iter().all(|way| text.contains(way.words())), "{text}");
    Ok(())
}
