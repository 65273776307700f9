//! `make demo`: what Ebb does, shown on a real Envoy under real load.

use std::process::ExitCode;

use clap::Parser as _;
use ebb_e2e::demo::{self, Options};

#[tokio::main]
async fn main() -> ExitCode {
    match demo::run(Options::parse()).await {
        Ok(ending) => ending.exit_code(),
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
