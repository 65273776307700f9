//! The command line against a control plane that says what the test wants: exit codes, results, messages.
// clippy.toml excuses test functions only, and these modules have helpers too.
#![allow(clippy::expect_used, clippy::panic)]

mod blockers;
mod drain;
mod fake;
mod fleet;
mod processes;
mod program;
mod report;
mod serve;
mod terminal;
mod usage;
