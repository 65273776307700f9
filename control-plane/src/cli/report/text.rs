//! A report as a page for a person.

use std::time::{Duration, SystemTime};

use super::story::{Span, Story};
use crate::cli::{
    common::{count, human},
    drain::report::{table, unknown},
    fleet,
    output::one_line,
    table::{Column, Table},
};

/// Columns of the sparkline.
const COLUMNS: u32 = 60;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The page, line by line.
pub(super) fn page(story: &Story) -> Vec<String> {
    let drain = &story.drain;
    let id = one_line(&drain.id);
    let mut lines = vec![format!("drain {id} {}", story.end())];
    lines.extend(facts(story));
    lines.extend(
        drain
            .warnings
            .iter()
            .map(|warning| one_line(&format!("warning: {warning}"))),
    );
    lines.extend(unknown(drain));
    let listeners = table(drain);
    if !listeners.is_empty() {
        lines.push(String::new());
        lines.extend(listeners);
    }
    lines.push(String::new());
    lines.extend(sparkline(story));
    if story.outcome.is_some() && drain.holding {
        lines.push(String::new());
        lines.push(format!(
            "its listeners go on closing connections until `ebb cancel {id}`"
        ));
    }
    lines
}

fn facts(story: &Story) -> Vec<String> {
    let started = story
        .drain
        .started_at
        .and_then(|at| SystemTime::try_from(at).ok());
    let started = started.map(|at| humantime::format_rfc3339_seconds(at).to_string());
    let facts = [
        ("scope", Some(story.scope())),
        ("started", started),
        ("rests on", Some(story.evidence().to_owned())),
        ("closed by", Some(story.lever().to_owned())),
        ("finished", Some(count(story.finished, "request"))),
        ("told to close", Some(story.told())),
        ("left", Some(story.leftovers())),
        (
            "last to finish",
            Some(story.last_to_finish().unwrap_or_else(|| "none".to_owned())),
        ),
        ("ended", story.against_sleep()),
    ];
    let mut table = Table::new([Column::Text(""), Column::Text("")]);
    for (name, fact) in facts {
        if let Some(fact) = fact {
            table.row([name.to_owned(), fact]);
        }
    }
    // Without the header, which is empty.
    table.lines().into_iter().skip(1).collect()
}

/// What was in flight over time, with its scale and its phases.
fn sparkline(story: &Story) -> Vec<String> {
    let peak = story.peak();
    let column = story.elapsed / COLUMNS;
    let bars: String = (0..COLUMNS)
        .map(|i| bar(story, column * i, column * (i + 1), peak))
        .collect();
    let end = human(story.elapsed);
    let room = (COLUMNS as usize).saturating_sub(2);
    let mut lines = vec![
        format!("in flight over time: at most {peak}; · is none, ? is not known"),
        bars,
        format!("0s{end:>room$}"),
    ];
    lines.extend(Some(phases(&story.phases(), column)).filter(|line| !line.is_empty()));
    lines
}

fn bar(story: &Story, from: Duration, until: Duration, peak: u64) -> char {
    let points = || story.between(from, until);
    let most = points().map(|point| point.in_flight).max().unwrap_or_default();
    match most {
        0 if points().any(|point| point.unknown > 0) => '?',
        0 => '·',
        most => {
            let bars = BARS.len() as u128;
            let level = (u128::from(most) * bars)
                .div_ceil(u128::from(peak.max(1)))
                .clamp(1, bars);
            let level = usize::try_from(level - 1).unwrap_or_default();
            BARS.get(level).copied().unwrap_or('█')
        }
    }
}

/// A mark under the first column of each phase of a column or more, with its name where there is room.
fn phases(spans: &[Span], column: Duration) -> String {
    let place = |span: &Span| span.from.as_nanos() / column.as_nanos().max(1);
    let seen: Vec<&Span> = spans
        .iter()
        .filter(|span| span.until - span.from >= column)
        .collect();
    let next = seen.iter().skip(1).map(|span| place(span)).chain([u128::MAX]);
    let mut line = String::new();
    for (span, next) in seen.iter().zip(next) {
        let name = fleet::phase(span.phase.into());
        let room = next - place(span);
        let mark = if (name.len() as u128) + 1 < room {
            format!("|{name}")
        } else {
            "|".to_owned()
        };
        let start = usize::try_from(place(span))
            .unwrap_or_default()
            .min(COLUMNS as usize);
        let gap = start.saturating_sub(line.chars().count());
        line.push_str(&" ".repeat(gap));
        line.push_str(&mark);
    }
    line
}

#[cfg(test)]
mod tests {
    use ebb_proto::v1::{Drain, DrainReport, Phase, Sample};

    use super::*;

    fn story(points: &[(u64, u64, u32, Phase)], elapsed: u64) -> Story {
        let wire = |millis| Duration::from_millis(millis).try_into().ok();
        let sample = |(at, in_flight, unknown, phase): &(u64, u64, u32, Phase)| Sample {
            at: wire(*at),
            in_flight: *in_flight,
            unknown_reporters: *unknown,
            phase: (*phase).into(),
        };
        Story::from(DrainReport {
            drain: Some(Drain {
                elapsed: wire(elapsed),
                phase: Phase::Drained.into(),
                ..Drain::default()
            }),
            timeline: points.iter().map(sample).collect(),
            ..DrainReport::default()
        })
    }

    #[test]
    fn the_sparkline_has_a_scale_and_names_the_phases() {
        let story = story(
            &[
                (0, 0, 2, Phase::Draining),
                (100, 80, 0, Phase::Draining),
                (1000, 10, 0, Phase::Draining),
                (1010, 79, 0, Phase::Draining),
                (1020, 10, 0, Phase::Draining),
                (3000, 0, 0, Phase::Quiet),
                (6000, 0, 0, Phase::Drained),
            ],
            6000,
        );
        assert_eq!(
            sparkline(&story),
            [
                "in flight over time: at most 80; · is none, ? is not known".to_owned(),
                format!("?{}█{}{}", "█".repeat(9), "▁".repeat(19), "·".repeat(30)),
                format!("0s{}6s", " ".repeat(56)),
                format!("|draining{}|quiet", " ".repeat(21)),
            ]
        );
    }

    #[test]
    fn a_drain_of_no_length_has_a_line_too() {
        let line = sparkline(&story(&[(0, 3, 0, Phase::TimedOut)], 0));
        assert_eq!(line[1], "█".repeat(60));
        assert_eq!(line.len(), 3);
    }

    #[test]
    fn phases_without_room_have_a_mark_alone() {
        let points: Vec<_> = (0..20)
            .map(|i| {
                (
                    i * 100,
                    0,
                    0,
                    if i % 2 == 0 { Phase::Draining } else { Phase::Quiet },
                )
            })
            .collect();
        let line = sparkline(&story(&points, 6000)).pop().unwrap();
        assert_eq!(line, format!("{}draining", "|".repeat(19)));
    }
}
