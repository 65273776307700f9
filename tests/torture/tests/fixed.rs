//! Fixed seeds: whatever is drawn from them, every promise is kept.

use std::{collections::HashSet, path::PathBuf};

use ebb_torture::{
    play::Run,
    schedule::{Fault, Schedule},
};

/// Chosen because their first two rounds have everything between them: both Envoys, one and two processes with one node id
/// and with two, both orders of filters, every kind of state, fault, lie, scope, evidence and client.
const SEEDS: [u64; 9] = [883, 328, 99, 481, 14, 20, 81, 558, 13];
const ROUNDS: usize = 2;

fn schedules() -> impl Iterator<Item = Schedule> {
    SEEDS.into_iter().map(|seed| Schedule::draw(seed, ROUNDS))
}

#[test]
fn the_fixed_seeds_have_every_kind_of_fault() {
    let rounds = schedules().flat_map(|schedule| schedule.rounds);
    let kinds: HashSet<usize> = rounds
        .flat_map(|round| round.faults)
        .map(|plan| plan.fault.kind())
        .collect();
    let missing = (0..Fault::KINDS.len()).filter(|kind| !kinds.contains(kind));
    let missing: Vec<&str> = missing.map(|kind| Fault::KINDS[kind]).collect();
    assert_eq!(missing, [""; 0], "what is drawn has changed: choose other seeds");
}

#[tokio::test(flavor = "multi_thread")]
async fn fixed_seeds_keep_every_promise() {
    let run = Run::begin(PathBuf::from(env!("CARGO_BIN_EXE_torture")), false);
    run.play_all(schedules(), 2).await;
    let figures = run.figures();
    println!("seeds {SEEDS:?}, {:.0?}: {figures}", run.elapsed());
    assert_eq!(figures.failures(), 0, "{figures}");
}
