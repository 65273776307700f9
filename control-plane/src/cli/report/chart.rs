//! The plot of a report's picture: what was in flight over time, its phases shaded, and its end.

use std::{fmt::Write as _, time::Duration};

use ebb_proto::v1::Phase;

use super::{
    story::{FIXED_SLEEP, Point, Story},
    svg::{Anchor, Canvas, MARGIN, WIDTH, colour},
};
use crate::cli::{
    common::{count, human},
    drain::Outcome,
    fleet,
};

const LEFT: f64 = MARGIN + 44.0;
const RIGHT: f64 = WIDTH - MARGIN;
const TOP: f64 = 164.0;
const BOTTOM: f64 = 404.0;
/// Width of a character, about.
const LETTER: f64 = 7.0;
const BLUE: &str = "#1f5fbf";
const UNKNOWN: &str = "#b83280";

/// Lengths of time between two marks, in milliseconds: round ones, which [`human`] writes without a remainder.
const TIMES: [u64; 25] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 30_000, 60_000, 120_000,
    300_000, 600_000, 1_800_000, 3_600_000, 7_200_000, 14_400_000, 28_800_000, 86_400_000,
];

/// An answer may be on its way for so long; who has not answered yet is not worth a mark.
const ANSWER: Duration = Duration::from_millis(100);

/// From times and counts to places.
struct Scale {
    seconds: f64,
    most: f64,
}

impl Scale {
    fn of(story: &Story) -> Self {
        Self {
            // A little room after the end, and none that is zero.
            seconds: story.elapsed.as_secs_f64().max(0.001) * 1.03,
            most: most(story.peak()),
        }
    }

    fn x(&self, time: Duration) -> f64 {
        LEFT + time.as_secs_f64() / self.seconds * (RIGHT - LEFT)
    }

    fn y(&self, in_flight: u64) -> f64 {
        BOTTOM - in_flight as f64 / self.most * (BOTTOM - TOP)
    }
}

/// Draws the plot with its axes and its legend.
pub(super) fn draw(canvas: &mut Canvas, story: &Story) {
    let scale = Scale::of(story);
    let legend = phases(canvas, story, &scale);
    axes(canvas, story, &scale);
    curve(canvas, story, &scale);
    let blind = unknown(canvas, story, &scale);
    end(canvas, story, &scale);
    self::legend(canvas, legend, blind);
}

fn shade(phase: Phase) -> &'static str {
    match phase {
        Phase::Announced => "#e3e8f8",
        Phase::Quiet => "#d5f0dd",
        _ => "#fdf0cf",
    }
}

/// Shades the phases; returns how long each lasted in all, as the legend says it.
fn phases(canvas: &mut Canvas, story: &Story, scale: &Scale) -> Vec<(Phase, Duration)> {
    let mut lasted: Vec<(Phase, Duration)> = Vec::new();
    for span in story.phases() {
        let (from, until) = (scale.x(span.from), scale.x(span.until));
        canvas.rect((from, TOP), (until - from, BOTTOM - TOP), shade(span.phase));
        let length = span.until - span.from;
        match lasted.iter_mut().find(|(phase, _)| *phase == span.phase) {
            Some((_, sum)) => *sum += length,
            None => lasted.push((span.phase, length)),
        }
    }
    lasted
}

fn axes(canvas: &mut Canvas, story: &Story, scale: &Scale) {
    canvas.text((LEFT, TOP - 12.0), Anchor::Start, "strong", "Requests in flight");
    let step = count_step(story.peak());
    let mut value = 0;
    while scale.y(value) >= TOP - 0.5 {
        let y = scale.y(value);
        canvas.line((LEFT, y), (RIGHT, y), "class=\"grid\"");
        canvas.text((LEFT - 8.0, y + 4.0), Anchor::End, "soft", &value.to_string());
        value += step;
    }
    let step = time_step(story.elapsed);
    let mut time = Duration::ZERO;
    while scale.x(time) <= RIGHT {
        let x = scale.x(time);
        canvas.line((x, BOTTOM), (x, BOTTOM + 5.0), "class=\"axis\"");
        let label = if time.is_zero() {
            "0".to_owned()
        } else {
            human(time)
        };
        canvas.text((x, BOTTOM + 20.0), Anchor::Middle, "soft", &label);
        time += step;
    }
    canvas.line((LEFT, BOTTOM), (RIGHT, BOTTOM), "class=\"axis\"");
}

/// The curve begins with the first answer: before it nothing is known.
fn curve(canvas: &mut Canvas, story: &Story, scale: &Scale) {
    let mut path = String::new();
    let heard = |point: &&Point| point.unknown == 0 || point.in_flight > 0;
    let first = story.points.iter().find(heard).or(story.points.first());
    let first = first.map_or(Duration::ZERO, |point| point.at);
    for point in story.points.iter().filter(|point| point.at >= first) {
        let (x, y) = (scale.x(point.at), scale.y(point.in_flight));
        // Writing to a string does not fail.
        let _ = match path.is_empty() {
            true => write!(path, "M{x:.1} {y:.1}"),
            false => write!(path, "H{x:.1}V{y:.1}"),
        };
    }
    let _ = write!(path, "H{:.1}", scale.x(story.elapsed));
    let area = format!("{path}V{BOTTOM:.1}H{:.1}Z", scale.x(first));
    canvas.path(&area, "fill=\"#8fb3ec\" fill-opacity=\"0.7\"");
    canvas.path(
        &path,
        &format!("fill=\"none\" stroke=\"{BLUE}\" stroke-width=\"2\" stroke-linejoin=\"round\""),
    );
}

/// Marks when not everybody was known; returns whether that ever was so.
fn unknown(canvas: &mut Canvas, story: &Story, scale: &Scale) -> bool {
    let ends = story
        .points
        .iter()
        .skip(1)
        .map(|point| point.at)
        .chain([story.elapsed]);
    let mut spans: Vec<(Duration, Duration)> = Vec::new();
    for (point, until) in story
        .points
        .iter()
        .zip(ends)
        .filter(|(point, _)| point.unknown > 0)
    {
        match spans.last_mut().filter(|(_, before)| *before == point.at) {
            Some(span) => span.1 = until,
            None => spans.push((point.at, until)),
        }
    }
    spans.retain(|(from, until)| until.saturating_sub(*from) >= ANSWER);
    for (from, until) in &spans {
        let (from, until) = (scale.x(*from), scale.x(*until));
        canvas.rect((from, BOTTOM - 5.0), ((until - from).max(2.0), 5.0), UNKNOWN);
    }
    !spans.is_empty()
}

/// The moment of its end, and that of a fixed sleep's if it came before.
fn end(canvas: &mut Canvas, story: &Story, scale: &Scale) {
    if story.elapsed > FIXED_SLEEP {
        let x = scale.x(FIXED_SLEEP);
        canvas.line(
            (x, TOP),
            (x, BOTTOM),
            "stroke=\"#616e7c\" stroke-width=\"1.5\" stroke-dasharray=\"5 4\"",
        );
        let left = count(story.at(FIXED_SLEEP).in_flight, "request");
        let text = format!("sleep 15 ends: {left} in flight");
        beside(canvas, (x, TOP + 36.0), scale.x(story.elapsed), "soft", &text);
    }
    let what = match story.outcome {
        Some(Outcome::Drained) => "drained",
        Some(Outcome::TimedOut) => "timed out",
        Some(Outcome::Cancelled) => "cancelled",
        Some(Outcome::Cut) => "cut",
        None => "now",
    };
    let x = scale.x(story.elapsed);
    canvas.line(
        (x, TOP - 6.0),
        (x, BOTTOM),
        &format!("stroke=\"{}\" stroke-width=\"2.5\"", colour(story)),
    );
    let text = format!("{what} at {}", human(story.elapsed));
    // Never over the title of the axis.
    canvas.text((x.max(LEFT + 400.0), TOP - 12.0), Anchor::End, "strong", &text);
}

/// A text at a vertical line, on the side where there is room up to `right`.
fn beside(canvas: &mut Canvas, (x, y): (f64, f64), right: f64, class: &str, text: &str) {
    if x + 8.0 + width(text) <= right {
        canvas.text((x + 8.0, y), Anchor::Start, class, text);
    } else {
        canvas.text((x - 8.0, y), Anchor::End, class, text);
    }
}

/// How wide a text is, about.
fn width(text: &str) -> f64 {
    text.chars().count() as f64 * LETTER
}

fn legend(canvas: &mut Canvas, phases: Vec<(Phase, Duration)>, blind: bool) {
    let mut x = LEFT;
    let y = BOTTOM + 48.0;
    let phases = phases.into_iter().map(|(phase, lasted)| {
        (
            shade(phase),
            format!("{} {}", fleet::phase(phase.into()), human(lasted)),
        )
    });
    let blind = blind.then(|| {
        (
            UNKNOWN,
            "some workers unknown: the count is a lower bound".to_owned(),
        )
    });
    for (fill, text) in phases.chain(blind) {
        canvas.rect((x, y - 11.0), (14.0, 14.0), fill);
        canvas.text((x + 20.0, y), Anchor::Start, "", &text);
        x += width(&text) + 44.0;
    }
}

/// A round number of requests between two marks: about five of them.
fn count_step(peak: u64) -> u64 {
    let mut step: u64 = 1;
    for factor in [2, 5, 10].into_iter().cycle().take(60) {
        if peak / step <= 6 {
            break;
        }
        let decade = 10u64.saturating_pow(step.ilog10());
        step = decade.saturating_mul(factor);
    }
    step
}

/// The count at the top of the plot: the mark above the peak.
fn most(peak: u64) -> f64 {
    let step = count_step(peak);
    peak.max(1).div_ceil(step).saturating_mul(step) as f64
}

/// A round time between two marks: about six of them.
fn time_step(elapsed: Duration) -> Duration {
    let wanted = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX) / 7;
    let step = TIMES.iter().find(|step| **step > wanted);
    Duration::from_millis(step.copied().unwrap_or_else(|| wanted.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_and_few() {
        for (peak, step, top) in [
            (0, 1, 1.0),
            (1, 1, 1.0),
            (3, 1, 3.0),
            (7, 2, 8.0),
            (12, 2, 12.0),
            (43, 10, 50.0),
            (100, 20, 100.0),
            (4_350, 1_000, 5_000.0),
        ] {
            assert_eq!((count_step(peak), most(peak)), (step, top), "{peak}");
        }
        assert!(count_step(u64::MAX) > 1 << 60);
        for (millis, step) in [
            (0, 1),
            (850, 200),
            (1_200, 200),
            (30_000, 5_000),
            (90_000, 15_000),
        ] {
            assert_eq!(
                time_step(Duration::from_millis(millis)),
                Duration::from_millis(step),
                "{millis}"
            );
        }
        assert!(time_step(Duration::MAX) > Duration::from_secs(86_400));
    }
}
