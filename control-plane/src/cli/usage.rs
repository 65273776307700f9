//! Turns what clap has to say into help on standard output or one line on standard error.

use clap::error::ErrorKind;

use super::{
    exit::{Exit, Failure},
    output::{self, one_line},
};

/// Prints the help or version that was asked for, or the help if nothing was asked for. `command` is the one whose
/// arguments were read, as `ebb drain`.
///
/// # Errors
/// The usage error in one line, with the help to turn to.
pub(crate) fn answer(error: &clap::Error, command: &str) -> Result<Exit, Failure> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let text = error.render().to_string();
            output::print(text.trim_end())?;
            Ok(Exit::Success)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // Not an answer to a question: it goes where errors go.
            let _ = error.print();
            Ok(Exit::Usage)
        }
        _ => Err(Failure::Usage(describe(error, command))),
    }
}

/// clap says what is wrong, then tips, then the usage: the first two make the line.
fn describe(error: &clap::Error, command: &str) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let matter = text.split("\n\nUsage:").next().unwrap_or(text);
    let matter = matter.split("\n\nFor more information").next().unwrap_or(matter);
    let paragraphs: Vec<_> = matter.split("\n\n").map(one_line).collect();
    format!("{}; see `{command} --help`", paragraphs.join("; "))
}
