//! Columns of text, aligned.

use console::{Alignment, measure_text_width, pad_str};

use super::output::{one_line, short};

/// Where a column's cells stand.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Column {
    /// Names, at the left.
    Text(&'static str),
    /// Numbers, at the right.
    Number(&'static str),
}

/// A table without borders, two spaces between its columns.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(columns: impl Into<Vec<Column>>) -> Self {
        Self {
            columns: columns.into(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, a cell for each column. Names come from elsewhere: control characters are taken out, and a long one must not
    /// widen every row. What stands last widens none.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let last = self.columns.len().saturating_sub(1);
        let cells = cells.into_iter().map(|cell| one_line(&cell)).enumerate();
        let cells = cells.map(|(place, cell)| if place < last { short(&cell) } else { cell });
        self.rows.push(cells.collect());
    }

    /// The header and the rows, one line each.
    pub(crate) fn lines(&self) -> Vec<String> {
        let header: Vec<String> = self
            .columns
            .iter()
            .map(|column| column.title().to_owned())
            .collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|i| {
                let cells = self.rows.iter().chain([&header]).filter_map(|row| row.get(i));
                cells
                    .map(|cell| measure_text_width(cell))
                    .max()
                    .unwrap_or_default()
            })
            .collect();
        [&header]
            .into_iter()
            .chain(&self.rows)
            .map(|row| self.line(row, &widths))
            .collect()
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let cells = row.iter().zip(&self.columns).zip(widths);
        let padded = cells.map(|((cell, column), width)| pad_str(cell, *width, column.alignment(), None));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Text(title) | Self::Number(title) => title,
        }
    }

    fn alignment(self) -> Alignment {
        match self {
            Self::Text(_) => Alignment::Left,
            Self::Number(_) => Alignment::Right,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_does_not_widen_every_row() {
        let mut table = Table::new([Column::Text("NODE"), Column::Number("IN FLIGHT")]);
        table.row(["x".repeat(1000), "7".into()]);
        table.row(["edge-1".into(), "0".into()]);
        for line in table.lines() {
            assert!(measure_text_width(&line) <= 100, "{line}");
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new([
            Column::Text("NODE"),
            Column::Number("IN FLIGHT"),
            Column::Text("PHASE"),
        ]);
        table.row(["edge-1".into(), "7".into(), "serving".into()]);
        table.row(["größer-2\u{1b}[2J".into(), "1234567890".into(), "draining".into()]);
        assert_eq!(
            table.lines(),
            [
                "NODE           IN FLIGHT  PHASE",
                "edge-1                 7  serving",
                "größer-2 [2J  1234567890  draining",
            ]
        );
    }
}
