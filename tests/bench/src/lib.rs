//! Benchmarks: what Ebb is good for in numbers, beside its rivals' numbers from the same run.
//!
//! Absolute times mean nothing on a machine that is shared, so every figure stands beside those of its rivals, taken
//! in turns ([`Mode`] says how many), and is given as its median with the spread. `make bench` runs everything and
//! writes one JSON file with all raw figures ([`record`]), a Markdown table and plots made of it; `make test` runs
//! everything once in [`Mode::Short`], which asserts counts and never times.

pub mod announcement;
pub mod cost;
pub mod detection;
pub mod fleet;
pub mod footprint;
pub mod machine;
pub mod markdown;
pub mod plot;
pub mod proc;
pub mod progress;
pub mod record;
pub mod rolling;
pub mod stats;
pub mod timed;
pub mod tools;

/// How much of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As many rounds as figures need.
    Full,
    /// As few as show that it works.
    Short,
}

impl Mode {
    /// One of two values.
    #[must_use]
    pub fn pick<T>(self, full: T, short: T) -> T {
        match self {
            Self::Full => full,
            Self::Short => short,
        }
    }
}
