//! `ebb envoy-config`: what to paste into an Envoy configuration.

use super::{
    common,
    exit::{Exit, Failure},
    output,
};
use crate::{
    address::Address,
    envoy_config::{EnvoyVersion, Fragment},
};

/// Print what an Envoy configuration needs for one listener
///
/// YAML with two keys: put the entries of `http_filters` first into those of the listener, before ext_authz and all
/// others, in this order, and those of `clusters` beside the clusters, once. A request that an earlier filter holds is
/// not counted, and what an earlier filter answers (a 403, a CORS preflight, a 429) does not tell its client to close;
/// with the two swapped, the header `x-ebb-close` reaches the client. Envoy needs the V8 Wasm runtime (`envoy --version`
/// of 1.37 or later, but not 1.38.3); one before 1.40 refuses what is printed unless `--envoy-version` says so.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Name of the listener, as `ebb drain --listener` shall know it; every listener needs its own
    #[arg(long, value_name = "LISTENER")]
    listener: String,
    /// Where Envoy reaches the control plane: `unix:/path` or `host:port`
    #[arg(long, value_name = "ADDR")]
    control_plane: String,
    /// Path of ebb_filter.wasm as Envoy sees it
    #[arg(long, value_name = "FILE")]
    wasm: String,
    /// Count by upstream endpoint too, so that drains can wait for one
    ///
    /// Adds a key to the filter, and prints `upstream_http_filters` as well: filters for the clusters whose endpoints
    /// are to be counted exactly.
    #[arg(long)]
    upstreams: bool,
    /// Version of the Envoy that is to take it, from 1.37 on, as `envoy --version` says it [default: 1.40, the newest that
    /// is known]
    #[arg(long, value_name = "VERSION")]
    envoy_version: Option<String>,
    /// Say `failure_policy: FAIL_OPEN` in the place of `fail_open: true`
    ///
    /// Envoy warns at its start that `fail_open` is deprecated, and with this it does not. But should the filter's VM ever
    /// die, Envoy then fails every request in flight on that worker (503, or cut off if the response has begun), and with
    /// `fail_open` none.
    #[arg(long)]
    failure_policy: bool,
}

const EXAMPLES: &str = "\
Examples:
  ebb envoy-config --listener ingress --control-plane unix:/run/ebb/ebb.sock --wasm /etc/envoy/ebb_filter.wasm
  ebb envoy-config --listener ingress --control-plane ebb.internal:9901 --wasm /etc/envoy/ebb_filter.wasm
  ebb envoy-config --listener a --control-plane unix:/run/ebb/ebb.sock --wasm /ebb_filter.wasm --envoy-version 1.37";

/// A fragment to print.
#[derive(Debug)]
pub(crate) struct EnvoyConfig {
    listener: String,
    control_plane: Address,
    wasm: String,
    upstreams: bool,
    envoy: EnvoyVersion,
    failure_policy: bool,
}

impl TryFrom<Args> for EnvoyConfig {
    type Error = Failure;

    fn try_from(args: Args) -> Result<Self, Failure> {
        if args.listener.trim().is_empty() {
            return Err(Failure::Usage(
                "--listener: the name is empty: choose one, as `ingress`".to_owned(),
            ));
        }
        if args.wasm.trim().is_empty() {
            let text = "--wasm: the path is empty: say where Envoy finds ebb_filter.wasm";
            return Err(Failure::Usage(text.to_owned()));
        }
        let control_plane = common::address("--control-plane", &args.control_plane)?;
        if matches!(control_plane, Address::Tcp { port: 0, .. }) {
            let text =
                "--control-plane: port 0 is none that Envoy could connect to: say the port of `ebb serve`";
            return Err(Failure::Usage(text.to_owned()));
        }
        let envoy = match &args.envoy_version {
            None => EnvoyVersion::NEWEST,
            Some(text) => text
                .parse()
                .map_err(|error| Failure::Usage(format!("--envoy-version: {error}")))?,
        };
        Ok(Self {
            listener: args.listener,
            control_plane,
            wasm: args.wasm,
            upstreams: args.upstreams,
            envoy,
            failure_policy: args.failure_policy,
        })
    }
}

/// Prints the fragment.
///
/// # Errors
/// If standard output cannot be written.
pub(crate) fn run(config: &EnvoyConfig) -> Result<Exit, Failure> {
    let fragment = Fragment {
        listener: &config.listener,
        control_plane: &config.control_plane,
        wasm: &config.wasm,
        upstreams: config.upstreams,
        envoy: config.envoy,
        failure_policy: config.failure_policy,
    };
    output::print(fragment.render().trim_end())?;
    Ok(Exit::Success)
}
