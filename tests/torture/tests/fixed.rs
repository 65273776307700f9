//! Fixed seeds: whatever is drawn from them, every promise is kept.

use std::path::PathBuf;

use ebb_torture::{play::Run, schedule::Schedule};

/// Between them they have both Envoys, one and two processes, every scope, and most faults.
const SEEDS: std::ops::Range<u64> = 1..9;
const ROUNDS: usize = 2;

#[tokio::test(flavor = "multi_thread")]
async fn fixed_seeds_keep_every_promise() {
    let run = Run::begin(PathBuf::from(env!("CARGO_BIN_EXE_torture")), false);
    run.play_all(SEEDS.map(|seed| Schedule::draw(seed, ROUNDS)), 2)
        .await;
    let figures = run.figures();
    println!("seeds {SEEDS:?}, {:.0?}: {figures}", run.elapsed());
    assert_eq!(figures.failures(), 0, "{figures}");
}
