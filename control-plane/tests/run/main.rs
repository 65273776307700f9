//! `ebb run` with real processes: starts, stops, signals and what is left behind.
// clippy.toml excuses test functions only, and these modules have helpers too.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing
)]

mod attach;
mod end;
mod example;
mod gate;
mod group;
mod grpc;
mod health;
mod keep;
mod limits;
mod log;
mod output;
mod ready;
mod signals;
mod sockets;
mod stop;
mod succession;
mod terminal;
mod watch;
mod world;
