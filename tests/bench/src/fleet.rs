//! Fleet.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::{Mode, progress::Progress};

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fleet {}

/// Measures.
///
/// # Errors
/// When a part does not start or does not do what it should.
pub async fn run(_mode: Mode, _progress: &Progress) -> Result<Fleet> {
    Ok(Fleet {})
}

impl Fleet {
    /// As a section of Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        String::new()
    }
}
