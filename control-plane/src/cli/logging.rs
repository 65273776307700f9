//! Logs of the long-running commands: to standard error, as text or JSON.

use std::{
    env,
    io::{self, IsTerminal as _},
};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use super::{
    exit::Failure,
    log_writer::{FlushOnDrop, LogWriter},
    output::one_line,
};

const FILTER: &str = "EBB_LOG";

/// How the log is written.
#[derive(Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// How the log is written to standard error; the environment variable EBB_LOG filters it, as `debug` or
    /// `info,ebb=trace` [default filter: info]
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// A line per event, for people
    Text,
    /// An object per event, for programs
    Json,
}

/// A log that can be started.
#[derive(Debug)]
pub(crate) struct Log {
    format: LogFormat,
    filter: EnvFilter,
}

impl TryFrom<LogArgs> for Log {
    type Error = Failure;

    fn try_from(args: LogArgs) -> Result<Self, Failure> {
        let filter = env::var(FILTER).unwrap_or_default();
        let filter = if filter.trim().is_empty() {
            "info"
        } else {
            filter.trim()
        };
        let filter = EnvFilter::try_new(filter).map_err(|error| {
            let (shown, error) = (one_line(filter), one_line(&error.to_string()));
            Failure::Usage(format!(
                "{FILTER}: `{shown}` is not a log filter ({error}): write `debug` or `info,ebb=trace`"
            ))
        })?;
        Ok(Self {
            format: args.log_format,
            filter,
        })
    }
}

impl Log {
    /// Whether it is for programs.
    pub(crate) fn is_json(&self) -> bool {
        self.format == LogFormat::Json
    }

    /// Starts the log of this process. It is written until what this returns is dropped.
    ///
    /// # Errors
    /// If one has been started already.
    pub(crate) fn start(self) -> Result<FlushOnDrop, Failure> {
        let writer = LogWriter::start(io::stderr());
        let (writer, flush) =
            writer.map_err(|error| Failure::Error(format!("cannot start the log: {error}")))?;
        let log = tracing_subscriber::fmt()
            .with_env_filter(self.filter)
            .with_writer(writer);
        let started = match self.format {
            LogFormat::Text => {
                let colors = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
                log.with_ansi(colors).try_init()
            }
            LogFormat::Json => log.json().flatten_event(true).try_init(),
        };
        started.map_err(|error| Failure::Error(format!("cannot start the log: {error}")))?;
        Ok(flush)
    }
}
