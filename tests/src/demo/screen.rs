//! Standard output: on a terminal with a picture that is redrawn in place under the text, else line by line.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::time::Instant;

/// Without a terminal, the picture is written as one line, at most this often.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Where the demo writes.
#[derive(Debug)]
pub(super) struct Screen {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Terminal {
        /// Lines of the picture, which stands right above the cursor.
        drawn: usize,
    },
    Lines {
        last: Option<Instant>,
    },
}

/// What is to be seen now, in both forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Picture {
    /// For a terminal: at most 79 columns each.
    pub(super) lines: Vec<String>,
    /// For everything else.
    pub(super) line: String,
}

impl Screen {
    /// Standard output as it is.
    pub(super) fn new() -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let kind = if io::stdout().is_terminal() && !dumb {
            Kind::Terminal { drawn: 0 }
        } else {
            Kind::Lines { last: None }
        };
        Self { kind }
    }

    /// Writes a line that stays. The picture goes: what is drawn next stands below the line.
    ///
    /// # Errors
    /// When standard output is closed.
    pub(super) fn say(&mut self, line: &str) -> Result<()> {
        let erased = self.erase();
        write(&format!("{erased}{line}\n"))
    }

    /// Shows `picture` in place of the one before.
    ///
    /// # Errors
    /// When standard output is closed.
    pub(super) fn draw(&mut self, picture: &Picture) -> Result<()> {
        if let Kind::Lines { last } = &mut self.kind {
            if last.is_some_and(|last| last.elapsed() < LINE_EVERY) {
                return Ok(());
            }
            *last = Some(Instant::now());
            return write(&format!("{}\n", picture.line));
        }
        let erased = self.erase();
        self.kind = Kind::Terminal {
            drawn: picture.lines.len(),
        };
        write(&format!("{erased}{}\n", picture.lines.join("\n")))
    }

    /// The escape sequence that takes the picture away: cursor up, and clear to the end of the screen.
    fn erase(&mut self) -> String {
        match &mut self.kind {
            Kind::Terminal { drawn } if *drawn > 0 => {
                let up = std::mem::take(drawn);
                format!("\x1b[{up}A\x1b[J")
            }
            Kind::Terminal { .. } | Kind::Lines { .. } => String::new(),
        }
    }
}

/// In one write, so that nothing flickers.
fn write(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("cannot write to standard output")
}
