//! The benchmark of the footprint still works: every part starts, serves, and has a size.

use anyhow::Result;
use ebb_bench::{
    Mode,
    footprint::{self, Way},
    progress::Progress,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_part_has_a_size_and_starts() -> Result<()> {
    let figures = footprint::run(Mode::Short, &Progress::default()).await?;
    assert!(
        figures.binary > figures.module && figures.module > 0,
        "{figures:?}"
    );
    assert_eq!(figures.idle.len(), 1);
    for round in &figures.idle {
        assert!(round.resident >= round.private && round.private > 0, "{round:?}");
        assert!(round.start > 0.0 && round.nothing > 0.0, "{round:?}");
    }
    let envoys: Vec<_> = figures
        .envoys
        .iter()
        .map(|round| (round.way, round.workers))
        .collect();
    let ways = |workers| Way::ALL.map(|way| (way, workers));
    assert_eq!(envoys, [ways(1), ways(4)].concat());
    for round in &figures.envoys {
        // On each of two listeners, on each of 24 connections.
        assert_eq!(round.requests, 2 * 24 * 10, "{round:?}");
        assert!(
            round.ready > 0.0 && round.memory > 0 && round.memory_used > 0,
            "{round:?}"
        );
    }
    let text = figures.markdown();
    assert!(
        text.starts_with("## Footprint") && text.contains("no filter"),
        "{text}"
    );
    Ok(())
}
