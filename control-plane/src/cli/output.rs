//! Standard output for results, standard error for everything else; neither ever panics.

use std::io::{self, Write as _};

use serde::Serialize;

use super::exit::Failure;
pub(crate) use crate::text::{one_line, short};

/// Whether somebody still reads standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// It took what was written.
    There,
    /// It has closed its end (`ebb watch | head -1`): nothing more to do, and not an error.
    Gone,
}

/// Writes a result and a newline to standard output.
///
/// # Errors
/// If it cannot be written for another reason than that its reader has gone.
pub(crate) fn print(text: &str) -> Result<Reader, Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Failure::Error(format!(
            "cannot write to standard output: {error}"
        ))),
    }
}

/// Writes a result as one JSON object on one line.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_json(value: &impl Serialize) -> Result<Reader, Failure> {
    print(&to_json(value)?)
}

/// A result as one JSON object on one line.
///
/// # Errors
/// If it cannot be written as JSON.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::Error(format!("cannot write JSON: {error}")))
}

/// Says one line on standard error. That nobody hears it is no reason to fail.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "ebb: {}", one_line(text));
}
