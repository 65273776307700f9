//! `ebb run`: the control plane, and the processes that it keeps.

use std::{env, path::PathBuf};

use super::{
    common,
    exit::{Exit, Failure},
    logging::{Log, LogArgs},
    serve::{Given, configuration},
};
use crate::{
    config::Config,
    serve::ServeOptions,
    supervisor::{self, output::OutputFormat},
};

/// Run the control plane and the processes of a configuration file
///
/// Processes start in dependency order, each once those it depends on are ready. SIGTERM, SIGINT, SIGQUIT or `ebb
/// shutdown` drains the proxy and stops every process in the order that keeps everything a request still needs alive.
/// Fit to be PID 1 of a container. Other signals are relayed to the processes that list them (`relay`), and do nothing else;
/// when the terminal from which it was started is gone, that is a stop as well.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Listen, without TLS or authentication, on TCP addresses that other machines can reach
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    log: LogArgs,
}

const EXAMPLES: &str = "\
The environment variable EBB_GRACE_PERIOD overrides [shutdown] grace_period: the time until the orchestrator kills.
The last line of the log says which requests a shutdown cut, as a warning if there were any.
What processes print is passed on with their name before each line; with --log-format json as an object per line.

Exit codes:
  0 after a stop that was asked for; else the code of the process that failed first, or 128 + its signal;
  1 error, 2 usage or a configuration that was refused

Examples:
  ebb run --config ebb.toml
  EBB_GRACE_PERIOD=60s ebb run --config /etc/ebb/ebb.toml --log-format json";

/// Processes to keep.
#[derive(Debug)]
pub(crate) struct Run {
    config: Config,
    options: ServeOptions,
    log: Log,
}

impl TryFrom<Args> for Run {
    type Error = Failure;

    fn try_from(args: Args) -> Result<Self, Failure> {
        let config = configuration(&args.config)?;
        if config.processes.is_empty() {
            return Err(Failure::Usage(format!(
                "{}: there is no [[process]] to run: add one, or use `ebb serve` for the control plane alone",
                args.config.display()
            )));
        }
        let given = Given {
            insecure: args.insecure,
            ..Given::default()
        };
        Ok(Self {
            options: given.options(Some(&config))?,
            config,
            log: args.log.try_into()?,
        })
    }
}

/// Runs until every process has stopped.
///
/// # Errors
/// If the control plane or the health endpoint cannot be started.
pub(crate) fn run(run: Run) -> Result<Exit, Failure> {
    let format = if run.log.is_json() {
        OutputFormat::Json
    } else {
        OutputFormat::Text
    };
    let mut log = run.log.start()?;
    common::warn_of_endpoint(&run.options.listen);
    let runtime = tokio::runtime::Runtime::new();
    let runtime = runtime.map_err(|error| Failure::Error(format!("cannot start the runtime: {error}")))?;
    let ended = runtime.block_on(supervisor::run(&run.config, run.options, format));
    // What still runs is of no use to anybody, and must not hold up the end.
    runtime.shutdown_background();
    let ended = ended.map_err(|error| Failure::Error(format!("{error:#}")))?;
    log.by(ended.until);
    Ok(Exit::Passed(u8::try_from(ended.code).unwrap_or(1)))
}

/// `EBB_GRACE_PERIOD`; empty is how scripts unset it.
pub(super) fn grace_period() -> Option<String> {
    env::var("EBB_GRACE_PERIOD")
        .ok()
        .filter(|text| !text.trim().is_empty())
}
