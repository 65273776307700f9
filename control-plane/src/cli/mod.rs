//! The command line of `ebb`.
//!
//! Every subcommand is one module with three parts: `Args`, what clap reads; a validated type, made from it by
//! `TryFrom`; and `run`, which is handed only the validated one. Results go to standard output, progress, logs and
//! errors to standard error, and the exit code is an `Exit`.

mod blockers;
mod cancel;
mod client;
mod common;
mod drain;
mod envoy_config;
mod exit;
mod fleet;
mod follow;
mod forget;
mod log_writer;
mod logging;
mod output;
mod outstanding;
pub mod paths;
mod processes;
mod report;
mod run;
mod screen;
mod serve;
mod shutdown;
mod status;
mod table;
mod usage;
mod watch;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory as _, Parser, Subcommand};

use self::exit::{Exit, Failure};

/// Ebb drains Envoy without a lost request.
///
/// A control plane (`ebb serve`) is told by a filter inside each Envoy how many requests are in flight; a drain makes
/// clients move on and ends when the last request is done.
#[derive(Debug, Parser)]
#[command(name = "ebb", version, max_term_width = 100, disable_help_subcommand = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ebb serve                             run the control plane on its default socket
  ebb run --config ebb.toml             the same, and keep processes: start and stop them in order
  ebb drain --listener ingress --wait   drain one listener everywhere, and wait for its last request
  ebb status                            what is attached, and what is in flight";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Run(run::Args),
    Drain(Box<drain::Args>),
    Cancel(cancel::Args),
    Forget(forget::Args),
    Report(report::Args),
    Status(status::Args),
    Watch(watch::Args),
    Shutdown(shutdown::Args),
    EnvoyConfig(envoy_config::Args),
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    run(std::env::args_os()).into()
}

fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let outcome = match Cli::try_parse_from(&arguments) {
        Ok(cli) => dispatch(cli.command),
        Err(error) => usage::answer(&error, &named(&arguments)),
    };
    outcome.unwrap_or_else(|failure| {
        // A configuration has a line per problem.
        failure.to_string().lines().for_each(output::say);
        failure.exit()
    })
}

/// The command that the arguments name: `ebb drain`, or `ebb`.
fn named(arguments: &[OsString]) -> String {
    let first = arguments
        .get(1)
        .and_then(|argument| argument.to_str())
        .unwrap_or_default();
    match Cli::command().find_subcommand(first) {
        Some(subcommand) => format!("ebb {}", subcommand.get_name()),
        None => "ebb".to_owned(),
    }
}

fn dispatch(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Serve(args) => serve::run(args.try_into()?),
        Command::Run(args) => run::run(args.try_into()?),
        Command::Drain(args) => drain::run(&(*args).try_into()?),
        Command::Cancel(args) => cancel::run(&args.try_into()?),
        Command::Forget(args) => forget::run(&args.try_into()?),
        Command::Report(args) => report::run(&args.try_into()?),
        Command::Status(args) => status::run(&args.try_into()?),
        Command::Watch(args) => watch::run(&args.try_into()?),
        Command::Shutdown(args) => shutdown::run(&args.try_into()?),
        Command::EnvoyConfig(args) => envoy_config::run(&args.try_into()?),
    }
}
