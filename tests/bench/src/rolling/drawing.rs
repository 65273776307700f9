//! The restarts as a plot: for each contender a bar from the signal to the exit, with what was wasted of it in a paler
//! colour, a dot for each restart, and the failed requests in words.

use std::path::Path;

use anyhow::Result;
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{Restart, Rolling, Series, Variant, contender::Contender};
use crate::{
    markdown::whole,
    plot::{self, BAD, EBB, OTHER, of_plot},
    stats::percentile,
};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The rows lie between these, in pixels from the top.
const ROWS: (i32, i32) = (78, 356);
/// Where bars begin and where the longest ends, in pixels from the left; words follow.
const PANELS: [(i32, i32); 2] = [(196, 400), (546, 750)];
/// No more marks than this on an axis, besides 0.
const MARKS: f64 = 4.0;
const SMALL: i32 = 12;
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);

pub(super) fn plot(rolling: &Rolling, file: &Path) -> Result<()> {
    plot::draw(file, |area| {
        let [busy, idle] = PANELS;
        let middle = i32::try_from(plot::SIZE.0 / 2).unwrap_or_default();
        let title = "From the signal to the end of the replica's last process, in seconds";
        write(area, title, (middle, 20), 17, INK, HPos::Center)?;
        if rolling.divisor > 1 {
            let warning = "a short run: it shows that the benchmark works, and no figures";
            write(area, warning, (middle, 40), SMALL, BAD, HPos::Center)?;
        }
        panel(area, &rolling.busy, "all clients busy", busy)?;
        panel(area, &rolling.idle, "with one idle keep-alive client", idle)?;
        for (place, series) in rolling.busy.series.iter().enumerate() {
            let colour = if series.contender == Contender::Ebb {
                EBB
            } else {
                INK
            };
            let row = row(place, rolling.busy.series.len());
            write(
                area,
                series.contender.name(),
                (PANELS[0].0 - 10, row),
                13,
                colour,
                HPos::Right,
            )?;
        }
        legend(area)
    })
}

fn panel(area: &Area<'_>, variant: &Variant, title: &str, (left, right): (i32, i32)) -> Result<()> {
    let exits = variant
        .series
        .iter()
        .flat_map(|series| series.each(|restart| restart.exit));
    let longest = exits.fold(0.1, f64::max);
    let step = step(longest);
    let x = |seconds: f64| left + (f64::from(right - left) * seconds / longest).round() as i32;
    write(area, title, (left, ROWS.0 - 18), 14, INK, HPos::Left)?;
    let mut mark = 0.0;
    while mark <= longest {
        draw(
            area,
            &PathElement::new([(x(mark), ROWS.0), (x(mark), ROWS.1)], GRID),
        )?;
        write(
            area,
            &format!("{mark}"),
            (x(mark), ROWS.1 + 12),
            SMALL,
            INK,
            HPos::Center,
        )?;
        mark += step;
    }
    for (place, series) in variant.series.iter().enumerate() {
        bar(area, series, row(place, variant.series.len()), &x)?;
    }
    Ok(())
}

fn bar(area: &Area<'_>, series: &Series, middle: i32, x: &impl Fn(f64) -> i32) -> Result<()> {
    let colour = if series.contender == Contender::Ebb {
        EBB
    } else {
        OTHER
    };
    let median = |figure: fn(&Restart) -> f64| percentile(&series.each(figure), 50.0).unwrap_or(0.0);
    let (exit, needed) = (median(|restart| restart.exit), median(|restart| restart.needed));
    let needed = needed.min(exit);
    let (top, bottom) = (middle - 9, middle + 9);
    draw(
        area,
        &Rectangle::new([(x(0.0), top), (x(needed), bottom)], colour.filled()),
    )?;
    draw(
        area,
        &Rectangle::new([(x(needed), top), (x(exit), bottom)], pale(colour).filled()),
    )?;
    for restart in &series.restarts {
        draw(area, &Circle::new((x(restart.exit), middle), 2, INK.filled()))?;
    }
    let end = series
        .each(|restart| restart.exit)
        .into_iter()
        .fold(exit, f64::max);
    let failed = series.failed();
    let words = format!("{exit:.1} s, {} failed", whole(failed));
    let colour = if failed > 0 { BAD } else { INK };
    write(area, &words, (x(end) + 8, middle), SMALL, colour, HPos::Left)
}

fn legend(area: &Area<'_>) -> Result<()> {
    let y = ROWS.1 + 42;
    let box_at = |left, colour: RGBColor| {
        draw(
            area,
            &Rectangle::new([(left, y - 6), (left + 16, y + 6)], colour.filled()),
        )
    };
    let words = |left, text| write(area, text, (left, y), SMALL, INK, HPos::Left);
    box_at(196, OTHER)?;
    box_at(214, EBB)?;
    words(236, "until the last response (median)")?;
    box_at(440, pale(OTHER))?;
    box_at(458, pale(EBB))?;
    words(480, "wasted after it")?;
    draw(area, &Circle::new((600, y), 2, INK.filled()))?;
    words(610, "one restart")
}

/// The middle of a row, in pixels from the top.
fn row(place: usize, rows: usize) -> i32 {
    let height = f64::from(ROWS.1 - ROWS.0) / rows.max(1) as f64;
    ROWS.0 + (height * (place as f64 + 0.5)).round() as i32
}

/// Between two marks of an axis that ends at `longest` seconds.
fn step(longest: f64) -> f64 {
    let steps = [0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0];
    steps
        .into_iter()
        .find(|step| longest / step <= MARKS)
        .unwrap_or(60.0)
}

/// A colour mixed with as much white again, and a little more.
fn pale(colour: RGBColor) -> RGBColor {
    let mix = |part: u8| u8::try_from((u16::from(part) + 255 * 2) / 3).unwrap_or(u8::MAX);
    RGBColor(mix(colour.0), mix(colour.1), mix(colour.2))
}

fn write(area: &Area<'_>, text: &str, at: (i32, i32), size: i32, colour: RGBColor, side: HPos) -> Result<()> {
    let style = ("sans-serif", size)
        .into_font()
        .color(&colour)
        .pos(Pos::new(side, VPos::Center));
    draw(area, &Text::new(text.to_owned(), at, style))
}

fn draw<'e, E>(area: &Area<'_>, element: &'e E) -> Result<()>
where
    &'e E: plotters::element::PointCollection<'e, (i32, i32)>,
    E: for<'b> plotters::element::Drawable<SVGBackend<'b>>,
{
    area.draw(element).map_err(|error| of_plot(&error))
}
