//! `ebb report`: what a drain did.
//!
//! | file | what |
//! |---|---|
//! | `story` | a report of the wire, read for showing |
//! | `text` | a page for a person |
//! | `json` | an object for programs |
//! | `svg` | a picture: its page |
//! | `chart` | the picture's plot of what was in flight |

mod chart;
mod json;
mod story;
mod svg;
mod text;

use clap::ValueEnum;
use ebb_proto::v1::GetReportRequest;

use self::story::Story;
use super::{
    client::Client,
    common::{self, EndpointArgs, block_on},
    exit::{Exit, Failure},
    output,
};
use crate::address::Address;

/// Show what a drain did: its end, what it rests on, and what was in flight over time
///
/// Also of a drain that still runs: how far it has come. Reports are kept with the drains, over restarts of the
/// control plane.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The drain, as `ebb drain` printed it and `ebb status` lists it
    #[arg(value_name = "ID")]
    id: String,
    /// How the report is written to standard output
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Form::Text)]
    output: Form,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

const EXAMPLES: &str = "\
Examples:
  ebb report \"$id\"
  ebb report \"$id\" -o svg > drain.svg
  ebb report \"$id\" -o json | jq '[.timeline[].in_flight] | max'   the most that was in flight";

/// The form of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A page for people
    Text,
    /// For programs: one object on one line, keys in snake_case
    Json,
    /// A picture that needs no other file
    Svg,
}

/// A report to show.
#[derive(Debug)]
pub(crate) struct Show {
    id: String,
    form: Form,
    endpoint: Address,
}

impl TryFrom<Args> for Show {
    type Error = Failure;

    fn try_from(args: Args) -> Result<Self, Failure> {
        Ok(Self {
            id: common::drain_id(args.id)?,
            form: args.output,
            endpoint: args.endpoint.try_into()?,
        })
    }
}

/// Prints the report.
///
/// # Errors
/// If there is no such drain, or the control plane does not answer.
pub(crate) fn run(show: &Show) -> Result<Exit, Failure> {
    block_on(async {
        let client = Client::connect(&show.endpoint).await?;
        let request = GetReportRequest { id: show.id.clone() };
        let answer = client.call(client.drains().get_report(request)).await?;
        let story = Story::from(answer.report.unwrap_or_default());
        match show.form {
            Form::Text => output::print(&text::page(&story).join("\n"))?,
            Form::Json => output::print_json(&json::Report::new(&story))?,
            Form::Svg => output::print(&svg::page(&story))?,
        };
        Ok(Exit::Success)
    })
}
