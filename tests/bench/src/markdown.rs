//! Markdown tables, and figures in words.

use std::fmt::Write as _;

use crate::stats::Spread;

/// A table that grows by rows.
#[derive(Clone, Debug)]
pub struct Table {
    text: String,
}

impl Table {
    /// With these headings; all columns but the first are aligned to the right.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        let rule = headings
            .iter()
            .enumerate()
            .map(|(i, _)| if i == 0 { "---" } else { "---:" });
        let rule: Vec<&str> = rule.collect();
        Self {
            text: format!("| {} |\n|{}|\n", headings.join(" | "), rule.join("|")),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: &[String]) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "| {} |", cells.join(" | "));
    }

    /// The table, ended by a newline.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }
}

/// A median with its spread, such as `2.1 (1.9–2.6)`; a dash if there is none.
#[must_use]
pub fn spread(spread: Option<Spread>, decimals: usize) -> String {
    spread.map_or_else(
        || "–".to_owned(),
        |spread| {
            let Spread { median, least, most } = spread;
            format!("{median:.decimals$} ({least:.decimals$}–{most:.decimals$})")
        },
    )
}

/// A figure with so many decimals; a dash if there is none.
#[must_use]
pub fn figure(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.decimals$}"))
}

/// A whole number with a comma before each three digits, such as `174,265`.
#[must_use]
pub fn whole(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_headings_and_rows() {
        let mut table = Table::new(&["way", "ms"]);
        table.row(&["Ebb".to_owned(), "1".to_owned()]);
        assert_eq!(table.finish(), "| way | ms |\n|---|---:|\n| Ebb | 1 |\n");
    }

    #[test]
    fn figures_in_words() {
        assert_eq!(spread(Spread::of(&[1.0, 2.0, 4.0]), 1), "2.0 (1.0–4.0)");
        assert_eq!(
            (spread(None, 1), figure(None, 1)),
            ("–".to_owned(), "–".to_owned())
        );
        assert_eq!(
            [whole(0), whole(999), whole(1000), whole(174_265)],
            ["0", "999", "1,000", "174,265"]
        );
    }
}
