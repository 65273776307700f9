//! `make torture`: schedules drawn from one seed after another, until the time is over.

use std::{io::Write as _, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Parser;
use ebb_torture::{
    play::Run,
    schedule::Schedule,
    stranger::{Lie, STRANGER},
};

/// Drains real Envoys under drawn faults, and has the upstream judge what Ebb says
#[derive(Debug, Parser)]
#[command(
    name = "torture",
    after_help = "Examples:\n  torture --seconds 3600 --seed 1\n  \
                  torture --seed 17 --schedules 1 --verbose    one schedule again, with its timeline\n  \
                  torture --seed 17 --schedules 1 --print      only show it"
)]
struct Options {
    /// No schedule is begun after this time
    #[arg(long, default_value_t = 3_600)]
    seconds: u64,
    /// Of the first schedule; the next has the next [default: drawn, and printed]
    #[arg(long)]
    seed: Option<u64>,
    /// At most this many schedules
    #[arg(long)]
    schedules: Option<usize>,
    /// Rounds of each schedule
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// Schedules played side by side
    #[arg(long, default_value_t = 2)]
    worlds: usize,
    /// Prints the timeline of every round, not only of those with failures
    #[arg(long)]
    verbose: bool,
    /// Prints the schedules, and plays none
    #[arg(long)]
    print: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args();
    if arguments.nth(1).as_deref() == Some(STRANGER) {
        let lie = Lie::parse_from(std::env::args().skip(1));
        return exit(lie.tell().await);
    }
    exit(run(Options::parse()).await)
}

fn exit(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("torture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<()> {
    let seed = options.seed.unwrap_or_else(|| u64::from(fastrand::u32(..)));
    let most = options.schedules.unwrap_or(usize::MAX);
    let schedules = (seed..)
        .take(most)
        .map(|seed| Schedule::draw(seed, options.rounds));
    if options.print {
        let mut output = std::io::stdout().lock();
        for schedule in schedules.take(most.min(100)) {
            writeln!(output, "{schedule}")?;
        }
        return Ok(());
    }
    let run = Run::begin(std::env::current_exe()?, options.verbose);
    let time = Duration::from_secs(options.seconds);
    let in_time = schedules.take_while(|_| run.elapsed() < time);
    run.play_all(in_time, options.worlds).await;
    let figures = run.figures();
    println!("seed {seed}, {:.0?}: {figures}", run.elapsed());
    anyhow::ensure!(figures.failures() == 0, "promises were not kept");
    Ok(())
}
