//! The record of a run: everything that was measured, raw, and the documents made of it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::{
    announcement::Announcement, cost::Cost, detection::Detection, fleet::Fleet, footprint::Footprint,
    machine::Machine, rolling::Rolling,
};

/// A run. Benchmarks that were not asked for are absent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// When it began, in seconds since 1970.
    pub began: u64,
    /// Where.
    pub machine: Machine,
    /// Restarts under load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling: Option<Rolling>,
    /// From the last request's end to whoever waits for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detection: Option<Detection>,
    /// From the call to the first closing response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announcement: Option<Announcement>,
    /// What a request costs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// Many filters on one control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<Fleet>,
    /// Sizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub footprint: Option<Footprint>,
}

impl Record {
    /// Reads one that [`Record::write`] wrote.
    ///
    /// # Errors
    /// When it cannot be read or is something else.
    pub fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no record of a run", file.display()))
    }

    /// Writes `run.json`, `README.md` and the plots into `folder`.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let put = |name: &str, text: String| {
            let file = folder.join(name);
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
        };
        put("run.json", serde_json::to_string(self)? + "\n")?;
        put("README.md", self.markdown())?;
        if let Some(rolling) = &self.rolling {
            rolling.plot(&folder.join("rolling.svg"))?;
        }
        if let Some(detection) = &self.detection {
            detection.plot(&folder.join("detection.svg"))?;
        }
        Ok(())
    }

    fn markdown(&self) -> String {
        let mut text = format!(
            "# Figures\n\nMade by `make bench` from one run, of which `run.json` has every raw figure. {}.\n\n\
             Times on a machine that others share mean little by themselves: compare them with those beside them, which were \
             taken in turns with them. A figure is a median, with the smallest and the largest in brackets.\n",
            self.machine.in_words()
        );
        let sections = [
            self.rolling.as_ref().map(Rolling::markdown),
            self.detection.as_ref().map(Detection::markdown),
            self.announcement.as_ref().map(Announcement::markdown),
            self.cost.as_ref().map(Cost::markdown),
            self.fleet.as_ref().map(Fleet::markdown),
            self.footprint.as_ref().map(Footprint::markdown),
        ];
        for section in sections.into_iter().flatten() {
            text.push('\n');
            text.push_str(section.trim_end());
            text.push('\n');
        }
        text
    }
}
