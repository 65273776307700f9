//! Detection.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::{Mode, progress::Progress};

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Detection {}

/// Measures.
///
/// # Errors
/// When a part does not start or does not do what it should.
pub async fn run(_mode: Mode, _progress: &Progress) -> Result<Detection> {
    Ok(Detection {})
}

impl Detection {
    /// As a section of Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        String::new()
    }

    /// As a plot.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn plot(&self, _file: &std::path::Path) -> Result<()> {
        Ok(())
    }
}
