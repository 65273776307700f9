//! Announcement.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::{Mode, progress::Progress};

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Announcement {}

/// Measures.
///
/// # Errors
/// When a part does not start or does not do what it should.
pub async fn run(_mode: Mode, _progress: &Progress) -> Result<Announcement> {
    Ok(Announcement {})
}

impl Announcement {
    /// As a section of Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        String::new()
    }
}
