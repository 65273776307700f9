//! A few lines at the bottom of a terminal that are painted over in place.

use std::borrow::Cow;

use console::{Term, truncate_str};

/// Lines that replace each other on a terminal.
#[derive(Debug)]
pub(crate) struct Screen {
    term: Term,
    painted: usize,
}

impl Screen {
    /// On `term`, if that is a terminal.
    pub(crate) fn on(term: Term) -> Option<Self> {
        term.is_term().then_some(Self { term, painted: 0 })
    }

    /// Paints `lines` over the ones before. What does not fit is cut: a wrapped line could not be painted over.
    pub(crate) fn paint(&mut self, lines: &[String]) {
        let (height, width) = self.term.size();
        let lines = fit(lines, height.into(), width.into());
        let mut frame = String::new();
        if self.painted > 0 {
            frame.push_str(&format!("\u{1b}[{}A", self.painted));
        }
        frame.push('\r');
        for line in &lines {
            frame.push_str(line);
            frame.push_str("\u{1b}[K\n");
        }
        frame.push_str("\u{1b}[J");
        self.painted = lines.len();
        // A terminal that went away is no reason to fail.
        let _ = self.term.write_str(&frame).and_then(|()| self.term.flush());
    }

    /// Takes the lines away again.
    pub(crate) fn clear(&mut self) {
        self.paint(&[]);
    }
}

/// The lines that fit, and how many do not. The cursor needs a line of its own.
fn fit(lines: &[String], height: usize, width: usize) -> Vec<Cow<'_, str>> {
    let room = height.saturating_sub(1).max(1);
    let cut = |line| truncate_str(line, width, "…");
    if lines.len() <= room {
        return lines.iter().map(|line| cut(line)).collect();
    }
    let shown = room.saturating_sub(1);
    let rest = format!("… and {} more lines", lines.len() - shown);
    lines
        .iter()
        .take(shown)
        .map(|line| cut(line))
        .chain([Cow::Owned(rest)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_cut_and_counted() {
        let lines: Vec<String> = ["one", "two", "three and more", "four"].map(String::from).into();
        assert_eq!(fit(&lines, 24, 8), ["one", "two", "three a…", "four"]);
        assert_eq!(fit(&lines, 4, 80), ["one", "two", "… and 2 more lines"]);
        assert_eq!(fit(&lines, 0, 80), ["… and 4 more lines"]);
    }
}
