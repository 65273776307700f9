//! Texts from elsewhere, made fit for a terminal or a log.

/// As much of a name is shown in a line or a table, in characters; `-o json` has all of it.
const SHOWN: usize = 80;

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
