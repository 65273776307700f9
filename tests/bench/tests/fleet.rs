//! The benchmark of a fleet still works: everybody attaches, is told, comes back, and drains end as drained.

use anyhow::Result;
use ebb_bench::{Mode, fleet, progress::Progress};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_filter_attaches_is_told_and_comes_back() -> Result<()> {
    let figures = fleet::run(Mode::Short, &Progress::default()).await?;
    let sizes: Vec<_> = figures
        .sizes
        .iter()
        .map(|size| (size.streams, size.per_connection))
        .collect();
    assert_eq!(sizes, [(48, 1), (200, 50)]);
    for size in &figures.sizes {
        let all = size.streams;
        assert!(
            size.attach.listed > 0 && size.attach.listed <= all,
            "{:?}",
            size.attach
        );
        assert!(!size.drains.is_empty());
        for drain in &size.drains {
            assert_eq!(drain.told, all);
            // Everybody is told, and is asked once more before the drain ends; everybody answers.
            assert!(drain.commands >= 2 * all, "{drain:?}");
            assert!(drain.reports >= 2 * all, "{drain:?}");
        }
        assert!(size.load.reports > 0, "{:?}", size.load);
        assert_eq!(
            (size.storm.told, size.storm.unsettled),
            (all, 0),
            "{:?}",
            size.storm
        );
        for (with, without) in [
            (size.memory_attached, size.memory_empty),
            (size.bare.memory_attached, size.bare.memory_empty),
        ] {
            assert!(with > without && without > 0, "{with} {without}");
        }
    }
    let text = figures.markdown();
    assert!(
        text.starts_with("## Fleet") && text.contains("200 filters"),
        "{text}"
    );
    Ok(())
}
