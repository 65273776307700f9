//! `ebb serve`: the control plane alone.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::{
    common,
    exit::{Exit, Failure},
    logging::{Log, LogArgs},
    paths::Surroundings,
};
use crate::{
    address::Address,
    config::{self, Config, State},
    core::policies::Policies,
    serve::ServeOptions,
};

/// Run the control plane
///
/// Filters inside Envoy attach to it, and the other commands talk to it. SIGINT, SIGTERM or SIGQUIT ends it, and so does the
/// end of its terminal; drains that are on go on when it is started again with the same state.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A configuration file (TOML): its [control_plane] and [drain]; flags override it. Its processes are for `ebb run`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen: `unix:/path` (made with mode 0600) or `host:port`; may be repeated [default:
    /// unix:/run/ebb/ebb.sock for root, else unix:$XDG_RUNTIME_DIR/ebb/ebb.sock, else unix:/tmp/ebb-UID/ebb.sock]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Listen, without TLS or authentication, on TCP addresses that other machines can reach
    #[arg(long)]
    insecure: bool,
    /// Directory of the durable state, through which drains survive a restart; "" = in memory only [default:
    /// /var/lib/ebb for root, else $XDG_STATE_HOME/ebb, else ~/.local/state/ebb]
    #[arg(long, value_name = "DIR")]
    state: Option<OsString>,
    /// Admin endpoint of an Envoy, `unix:/path`, `host:port` or `http://host:port`; may be repeated. Where there is one, Envoy's own count
    /// stands in for a filter that is silent, and a drain of the whole node is Envoy's own
    #[arg(long, value_name = "ADDR")]
    admin: Vec<String>,
    #[command(flatten)]
    log: LogArgs,
}

const EXAMPLES: &str = "\
Examples:
  ebb serve
  ebb serve --config ebb.toml
  ebb serve --listen unix:/run/ebb/ebb.sock --listen 127.0.0.1:9901
  ebb serve --listen unix:/tmp/ebb.sock --state \"\"      nothing is written to disk
  EBB_LOG=debug ebb serve --log-format json";

/// A control plane to run.
#[derive(Debug)]
pub(crate) struct Serve {
    options: ServeOptions,
    log: Log,
}

impl TryFrom<Args> for Serve {
    type Error = Failure;

    fn try_from(args: Args) -> Result<Self, Failure> {
        let config = args.config.as_deref().map(configuration).transpose()?;
        let given = Given {
            listen: args.listen,
            insecure: args.insecure,
            state: args.state,
            admin: args.admin,
        };
        let options = given.options(config.as_ref())?;
        Ok(Self {
            options,
            log: args.log.try_into()?,
        })
    }
}

/// Runs the control plane until a signal ends it.
///
/// # Errors
/// If it cannot listen, or its state cannot be used.
pub(crate) fn run(serve: Serve) -> Result<Exit, Failure> {
    let _flushed_at_the_end = serve.log.start()?;
    common::warn_of_endpoint(&serve.options.listen);
    let runtime = tokio::runtime::Runtime::new();
    let runtime = runtime.map_err(|error| Failure::Error(format!("cannot start the runtime: {error}")))?;
    let served = runtime.block_on(crate::serve::run(serve.options));
    // A disk that hangs must not hold up the end.
    runtime.shutdown_background();
    served.map_err(|error| Failure::Error(format!("{error:#}")))?;
    Ok(Exit::Success)
}

/// Reads a configuration file.
///
/// # Errors
/// All of its problems, a line each.
pub(super) fn configuration(path: &Path) -> Result<Config, Failure> {
    config::load(path, super::run::grace_period().as_deref())
        .map_err(|error| Failure::Usage(error.to_string()))
}

/// What the command line says of the control plane.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) listen: Vec<String>,
    pub(super) insecure: bool,
    pub(super) state: Option<OsString>,
    pub(super) admin: Vec<String>,
}

impl Given {
    /// Flags, else the file, else the defaults.
    ///
    /// # Errors
    /// An address that is open to others, or no place for the state.
    pub(super) fn options(self, config: Option<&Config>) -> Result<ServeOptions, Failure> {
        let surroundings = Surroundings::of_this_process();
        let mut given = self.listen;
        let mut directory = self.state;
        let mut policies = Policies::default();
        let admins = self.admin.iter().map(|text| common::admin("--admin", text));
        let mut admins = admins.collect::<Result<Vec<_>, _>>()?;
        if let Some(config) = config {
            admins.extend(config.admins());
            if given.is_empty() {
                given = config
                    .control_plane
                    .listen
                    .iter()
                    .map(ToString::to_string)
                    .collect();
            }
            if directory.is_none() {
                directory = match &config.control_plane.state {
                    State::Default => None,
                    State::Memory => Some(OsString::new()),
                    State::Directory(directory) => Some(directory.clone().into_os_string()),
                };
            }
            policies.general = policies.general.overridden(&config.drain);
            policies.special.clone_from(&config.drain_for);
        }
        Ok(ServeOptions {
            listen: listen(given, self.insecure, &surroundings)?,
            insecure: self.insecure,
            state: state(directory, &surroundings)?,
            policies,
            admins,
        })
    }
}

fn listen(given: Vec<String>, insecure: bool, surroundings: &Surroundings) -> Result<Vec<Address>, Failure> {
    if given.is_empty() {
        return Ok(vec![surroundings.address()]);
    }
    let addresses = given.iter().map(|text| common::address("--listen", text));
    let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
    match addresses.iter().find(|address| !address.is_loopback()) {
        Some(open) if !insecure => Err(Failure::Usage(format!(
            "listen: {open} is open to other machines, without TLS: anybody there could start and cancel drains; \
             listen on unix:/path or 127.0.0.1:port, or add --insecure if the network is trusted"
        ))),
        _ => Ok(addresses),
    }
}

/// None: in memory only.
fn state(given: Option<OsString>, surroundings: &Surroundings) -> Result<Option<PathBuf>, Failure> {
    match given {
        Some(directory) if directory.is_empty() => Ok(None),
        Some(directory) => Ok(Some(directory.into())),
        None => surroundings.state().map(Some).ok_or_else(|| {
            let text = "--state: neither XDG_STATE_HOME nor HOME is set: say --state DIR, or --state \"\" for memory only";
            Failure::Usage(text.to_owned())
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(addresses: &[&str], insecure: bool) -> Result<Vec<Address>, Failure> {
        let given = addresses.iter().map(|text| (*text).to_owned()).collect();
        listen(
            given,
            insecure,
            &Surroundings {
                uid: 1000,
                ..Surroundings::default()
            },
        )
    }

    #[test]
    fn without_an_address_it_listens_where_clients_look() {
        let listening = ask(&[], false).expect("default");
        assert_eq!(
            listening,
            [Surroundings {
                uid: 1000,
                ..Surroundings::default()
            }
            .address()]
        );
    }

    #[test]
    fn an_address_open_to_others_needs_the_word_insecure() {
        assert_eq!(
            ask(&["unix:/a", "127.0.0.1:1", "[::1]:2"], false)
                .expect("loopback")
                .len(),
            3
        );
        assert_eq!(ask(&["0.0.0.0:1"], true).expect("insecure").len(), 1);
        let refused = ask(&["unix:/a", "0.0.0.0:1"], false).expect_err("open");
        assert!(
            matches!(&refused, Failure::Usage(text) if text.contains("0.0.0.0:1") && text.contains("--insecure"))
        );
    }

    #[test]
    fn an_empty_state_is_memory_and_none_is_the_default() {
        let user = Surroundings {
            uid: 1,
            home: Some("/home/ann".into()),
            ..Surroundings::default()
        };
        assert_eq!(state(Some("".into()), &user).expect("memory"), None);
        assert_eq!(state(Some("/x".into()), &user).expect("given"), Some("/x".into()));
        assert_eq!(
            state(None, &user).expect("default"),
            Some("/home/ann/.local/state/ebb".into())
        );
        let error = state(
            None,
            &Surroundings {
                uid: 1,
                ..Surroundings::default()
            },
        )
        .expect_err("homeless");
        assert!(error.to_string().contains("--state DIR"));
    }
}
