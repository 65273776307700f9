//! A report as a picture: one SVG file that needs no other, no font and no script.

use std::{fmt::Write as _, time::Duration};

use super::{
    chart,
    story::{FIXED_SLEEP, Story},
};
use crate::cli::{
    common::{count, human},
    drain::Outcome,
    output::one_line,
};

pub(super) const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 584.0;
pub(super) const MARGIN: f64 = 40.0;
/// Of a line of text, in characters: what is longer is cut.
const LINE: usize = 130;

const STYLE: &str = "\
text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;font-size:13px;fill:#1f2933}\
.title{font-size:24px;font-weight:600}.soft{fill:#616e7c}.strong{font-weight:600}.grid{stroke:#d9dee4;stroke-width:1}\
.axis{stroke:#7b8794;stroke-width:1}";

/// A picture being drawn. Every text that goes in is escaped here.
#[derive(Debug, Default)]
pub(super) struct Canvas(String);

/// Where a text stands against its place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Canvas {
    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{text}</text>"
        ));
    }

    pub(super) fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), fill: &str) {
        self.add(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\"/>"
        ));
    }

    pub(super) fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), attributes: &str) {
        self.add(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" {attributes}/>"
        ));
    }

    pub(super) fn path(&mut self, path: &str, attributes: &str) {
        self.add(format_args!("<path d=\"{path}\" {attributes}/>"));
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{element}");
    }
}

/// A text as it may stand in XML: control characters are taken out, as XML knows none of them.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for letter in one_line(text).chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Neither is a character of XML.
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

fn cut(text: &str) -> String {
    if text.chars().count() <= LINE {
        return text.to_owned();
    }
    let kept: String = text.chars().take(LINE - 1).collect();
    format!("{kept}…")
}

/// The colour of how a drain ended.
pub(super) fn colour(story: &Story) -> &'static str {
    match story.outcome {
        Some(Outcome::Drained) => "#1b7f3b",
        Some(Outcome::TimedOut | Outcome::Cut) => "#c0392b",
        Some(Outcome::Cancelled) => "#616e7c",
        None => "#1f5fbf",
    }
}

/// The whole file.
pub(super) fn page(story: &Story) -> String {
    let mut canvas = Canvas::default();
    canvas.rect((0.0, 0.0), (WIDTH, HEIGHT), "#ffffff");
    heading(&mut canvas, story);
    chart::draw(&mut canvas, story);
    comparison(&mut canvas, story);
    let title = escape(&format!("drain {} {}", story.drain.id, story.end()));
    let described = escape(&format!("{}: {}", story.scope(), summary(story)));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" role=\"img\">\n<title>{title}</title>\n<desc>{described}</desc>\n\
         <style>{STYLE}</style>\n{}</svg>",
        canvas.0
    )
}

fn summary(story: &Story) -> String {
    let parts = [
        format!("{} finished", count(story.finished, "request")),
        format!("{} told to close", count(story.told, "connection")),
        format!("at most {} in flight", story.peak()),
        match story.outcome {
            Some(_) => format!("{} left", story.leftovers()),
            None => format!("{} now", story.leftovers()),
        },
    ];
    parts.join(" · ")
}

fn heading(canvas: &mut Canvas, story: &Story) {
    let title = format!("Drain {} {}", story.drain.id, story.end());
    canvas.text((MARGIN, 48.0), Anchor::Start, "title", &cut(&title));
    let basis = format!(
        "{} · rests on {} · closed by {}",
        story.scope(),
        story.evidence(),
        story.lever()
    );
    canvas.text((MARGIN, 76.0), Anchor::Start, "soft", &cut(&basis));
    canvas.text((MARGIN, 98.0), Anchor::Start, "soft", &cut(&summary(story)));
    if let Some(last) = story.last_to_finish() {
        let last = format!("last to finish: {last}");
        canvas.text((MARGIN, 120.0), Anchor::Start, "soft", &cut(&last));
    }
}

/// How long whoever waits has to wait: for this drain, and with a fixed sleep.
fn comparison(canvas: &mut Canvas, story: &Story) {
    const LEFT: f64 = MARGIN + 80.0;
    const RIGHT: f64 = WIDTH - MARGIN;
    const TOP: f64 = 506.0;
    const BAR: f64 = 18.0;
    canvas.text(
        (MARGIN, TOP - 14.0),
        Anchor::Start,
        "strong",
        "Time until the next step",
    );
    let longest = story.elapsed.max(FIXED_SLEEP).as_secs_f64();
    // Room for the time beside the longer bar.
    let width = |time: Duration| time.as_secs_f64() / longest * (RIGHT - LEFT - 220.0);
    let cut = story.at(FIXED_SLEEP).in_flight;
    let sleep = if story.elapsed > FIXED_SLEEP && cut > 0 {
        format!("15s, and {} cut", count(cut, "request"))
    } else {
        "15s".to_owned()
    };
    let own = human(story.elapsed);
    let own = match (story.outcome, story.saved_ms) {
        (None, _) => format!("{own} so far"),
        (Some(Outcome::Drained), Some(saved)) if saved >= 0 => {
            format!(
                "{own}: {} sooner",
                human(Duration::from_millis(saved.unsigned_abs()))
            )
        }
        (Some(Outcome::Drained), _) => format!("{own}, and nothing cut"),
        _ => own,
    };
    let bars = [
        ("this drain", story.elapsed, colour(story), own),
        ("sleep 15", FIXED_SLEEP, "#9aa5b1", sleep),
    ];
    let mut y = TOP;
    for (name, time, fill, text) in bars {
        let width = width(time).max(2.0);
        canvas.text((MARGIN, y + 14.0), Anchor::Start, "", name);
        canvas.rect((LEFT, y), (width, BAR), fill);
        canvas.text((LEFT + width + 8.0, y + 14.0), Anchor::Start, "", &text);
        y += BAR + 10.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_elsewhere_can_break_out_of_its_text() {
        assert_eq!(
            escape("<script>\"a\" & 'b'\u{0}\u{1b}[2J\n</script>"),
            "&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39; [2J &lt;/script&gt;"
        );
        assert_eq!(escape("\u{ffff}"), "\u{fffd}");
    }

    #[test]
    fn long_lines_are_cut() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"ö".repeat(400)).chars().count(), LINE);
    }
}
