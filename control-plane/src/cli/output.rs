//! Standard output for results, standard error for everything else; neither ever panics.

use std::io::{self, Write as _};

use serde::Serialize;

use super::exit::Failure;

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

/// As much of a name is shown in a line or a table, in characters; `-o json` has all of it.
pub(crate) const SHOWN: usize = 80;

/// A name from elsewhere, cut off where it is longer than anybody reads.
pub(crate) fn short(name: &str) -> String {
    match name.char_indices().nth(SHOWN) {
        Some(_) => name.chars().take(SHOWN - 1).chain(['…']).collect(),
        None => name.to_owned(),
    }
}

/// Whether a character shows nothing and changes how others are shown: the direction of the text above all, which can make a
/// line say what is not in it.
fn is_trick(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// A text from elsewhere as one line, without the control characters that could play with a terminal. What shows nothing and
/// changes how others are shown is shown as what it is: unreadable.
pub(crate) fn one_line(text: &str) -> String {
    let plain = text.replace(char::is_control, " ").replace(is_trick, "\u{fffd}");
    plain
        .split(' ')
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_text_is_one_harmless_line() {
        assert_eq!(one_line("a\n  b\tc\u{1b}[2J "), "a b c [2J");
        assert_eq!(one_line("edge\u{202e}1-\u{2066}x"), "edge\u{fffd}1-\u{fffd}x");
        assert_eq!(one_line("größer 日本 é"), "größer 日本 é");
    }

    #[test]
    fn a_name_that_nobody_reads_to_its_end_is_cut_off() {
        assert_eq!(short("edge"), "edge");
        let cut = short(&"ä".repeat(1000));
        assert_eq!((cut.chars().count(), cut.chars().last()), (SHOWN, Some('…')));
    }
}
