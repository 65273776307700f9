//! What the plots have in common: size, colours, and errors that are ours.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::{coord::Shift, prelude::*};

/// Width and height of a plot, in pixels.
pub const SIZE: (u32, u32) = (900, 420);

/// The colour of Ebb, which stands out.
pub const EBB: RGBColor = RGBColor(0, 114, 178);

/// The colour of everybody else.
pub const OTHER: RGBColor = RGBColor(150, 150, 150);

/// The colour of what went wrong.
pub const BAD: RGBColor = RGBColor(213, 94, 0);

/// Draws on a white SVG in `file`.
///
/// # Errors
/// When the file cannot be written or the drawing makes no sense.
pub fn draw(file: &Path, drawing: impl FnOnce(&DrawingArea<SVGBackend, Shift>) -> Result<()>) -> Result<()> {
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(|error| of_plot(&error))?;
    drawing(&area)?;
    area.present().map_err(|error| of_plot(&error))
}

/// An error of the plotting library, which borrows what it speaks of.
pub fn of_plot(error: &dyn std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}
