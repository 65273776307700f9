//! What is wrong with a configuration: every problem of a file, each with its place.

use std::{fmt, io, path::PathBuf};

/// One thing that is wrong, with its place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1; `None` where nothing in the file caused it (an absent key, the environment).
    pub line: Option<usize>,
    /// Path of the key, as `process[2].ready.timeout`; empty for the file as a whole.
    pub key: String,
    /// Name of the process that the key belongs to.
    pub process: Option<String>,
    /// The value as it was written, cut to one line; `None` where there is none or it may be a secret.
    pub value: Option<String>,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "{line}: ")?;
        } else {
            f.write_str(" ")?;
        }
        f.write_str(&self.key)?;
        if let Some(process) = &self.process {
            write!(f, " (process \"{process}\")")?;
        }
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        if !self.key.is_empty() {
            f.write_str(": ")?;
        }
        f.write_str(&self.message)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file was read and refused: all of its problems, in the order of the file.
    #[error("{}", render(path, problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Never empty.
        problems: Vec<Problem>,
    },
}

fn render(path: &std::path::Path, problems: &[Problem]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| format!("{}:{problem}", path.display()))
        .collect();
    lines.join("\n")
}
