//! `make bench`: every benchmark in one run.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use ebb_bench::{
    Mode, announcement, cost, detection, fleet, footprint, machine::Machine, progress::Progress,
    record::Record, rolling,
};

/// Measures Ebb side by side with other ways to stop an Envoy
#[derive(Debug, Parser)]
#[command(
    name = "bench",
    after_help = "Examples:\n  bench                           everything, into dist/bench\n  \
                  bench --only cost --only fleet  two of them\n  \
                  bench --render dist/bench/run.json --out docs/bench   tables and plots of an earlier run"
)]
struct Options {
    /// Only these benchmarks [default: all]
    #[arg(long, value_enum)]
    only: Vec<Benchmark>,
    /// As few rounds as show that everything works
    #[arg(long)]
    short: bool,
    /// Where run.json, README.md and the plots go
    #[arg(long, default_value = "dist/bench")]
    out: PathBuf,
    /// Measures nothing: makes the tables and plots of this run.json
    #[arg(long, conflicts_with_all = ["only", "short"])]
    render: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Benchmark {
    /// Restarts under load, against everybody else's
    Rolling,
    /// From the last request's end to whoever waits for it
    Detection,
    /// From the call to the first closing response
    Announcement,
    /// Envoy's CPU time per request
    Cost,
    /// 10,000 filters on one control plane
    Fleet,
    /// Sizes
    Footprint,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<()> {
    if let Some(file) = &options.render {
        return Record::read(file)?.write(&options.out);
    }
    let mode = if options.short { Mode::Short } else { Mode::Full };
    let progress = &Progress::default();
    let asked = |benchmark| options.only.is_empty() || options.only.contains(&benchmark);
    let mut record = Record {
        began: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
        machine: Machine::read()?,
        rolling: None,
        detection: None,
        announcement: None,
        cost: None,
        fleet: None,
        footprint: None,
    };
    // Written after each: whoever interrupts a run keeps what it has.
    if asked(Benchmark::Footprint) {
        record.footprint = Some(footprint::run(mode, progress).await?);
        record.write(&options.out)?;
    }
    if asked(Benchmark::Cost) {
        record.cost = Some(cost::run(mode, progress).await?);
        record.write(&options.out)?;
    }
    if asked(Benchmark::Announcement) {
        record.announcement = Some(announcement::run(mode, progress).await?);
        record.write(&options.out)?;
    }
    if asked(Benchmark::Detection) {
        record.detection = Some(detection::run(mode, progress).await?);
        record.write(&options.out)?;
    }
    if asked(Benchmark::Fleet) {
        record.fleet = Some(fleet::run(mode, progress).await?);
        record.write(&options.out)?;
    }
    if asked(Benchmark::Rolling) {
        record.rolling = Some(rolling::run(mode, progress).await?);
        record.write(&options.out)?;
    }
    progress.say(format_args!("done: {}", options.out.join("README.md").display()));
    Ok(())
}
