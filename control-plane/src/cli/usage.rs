//! Turns what clap has to say into help on standard output or one line on standard error.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::{
    exit::{Exit, Failure},
    output::{self, one_line},
};

/// Prints the help or version that was asked for, or the help if nothing was asked for.
///
/// # Errors
/// The usage error in one line, with the help to turn to.
pub(crate) fn answer(error: &clap::Error) -> Result<Exit, Failure> {
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
        _ => Err(Failure::Usage(describe(error))),
    }
}

/// clap says what is wrong, then tips, then the usage: the first two make the line.
fn describe(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let matter = text.split("\n\nUsage:").next().unwrap_or(text);
    let matter = matter.split("\n\nFor more information").next().unwrap_or(matter);
    let paragraphs: Vec<_> = matter.split("\n\n").map(one_line).collect();
    format!("{}; see `{} --help`", paragraphs.join("; "), command_of(error))
}

/// The command whose usage clap shows: `ebb drain`.
fn command_of(error: &clap::Error) -> String {
    let usage = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string(),
        _ => String::new(),
    };
    let words = usage.trim_start_matches("Usage:").split_whitespace();
    let is_name =
        |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-');
    let command = words.take_while(is_name).collect::<Vec<_>>().join(" ");
    if command.is_empty() {
        "ebb".to_owned()
    } else {
        command
    }
}
