//! The fuzz targets, on bytes that are drawn from a seed: so that what cargo-fuzz found stays found, and the targets go on
//! working. `EBB_FUZZ_SECONDS` has it go on for long, from a seed of its own.
// clippy.toml excuses test functions only, and these modules have helpers too.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub
)]

use std::{
    panic::{self, AssertUnwindSafe},
    time::{Duration, Instant},
};

#[path = "../fuzz/src/lib.rs"]
mod targets;

/// So many are drawn by default, which takes some seconds.
const INPUTS: u64 = 1_000;

/// The longest input, in bytes.
const LONGEST: usize = 1_500;

/// Runs a target on drawn bytes. What it fails on is shown, to be put among the known ones.
fn fuzz(name: &str, target: fn(&[u8])) {
    let seconds = std::env::var("EBB_FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let (start, first) = (Instant::now(), seconds.map_or(1, |_: u64| fastrand::u64(..)));
    let mut seed = first;
    loop {
        let done = seed.wrapping_sub(first);
        match seconds {
            Some(seconds) if start.elapsed() >= Duration::from_secs(seconds) => break,
            None if done >= INPUTS => break,
            _ => {}
        }
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = vec![0; random.usize(..LONGEST)];
        random.fill(&mut bytes);
        let result = panic::catch_unwind(AssertUnwindSafe(|| target(&bytes)));
        assert!(result.is_ok(), "{name} fails on seed {seed}: {bytes:?}");
        seed = seed.wrapping_add(1);
    }
    println!(
        "{name}: {} inputs from seed {first} in {:.1?}",
        seed.wrapping_sub(first),
        start.elapsed()
    );
}

#[test]
fn whatever_filters_and_envoys_say_is_stood() {
    fuzz("attach", targets::attach::run);
}

#[test]
fn whatever_is_in_the_store_is_stood() {
    fuzz("stored", targets::stored::run);
}
