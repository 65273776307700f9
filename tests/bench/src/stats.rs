//! Medians, spreads and percentiles.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The middle of some figures, and how far they spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// Of these figures; none if there are none.
    #[must_use]
    pub fn of(figures: &[f64]) -> Option<Self> {
        Some(Self {
            median: percentile(figures, 50.0)?,
            least: percentile(figures, 0.0)?,
            most: percentile(figures, 100.0)?,
        })
    }
}

/// The median, and the interval in which the median of infinitely many such figures lies with a confidence of 95 %. By
/// rank alone: nothing is assumed of how the figures are distributed. None for fewer than eight figures, which cannot tell.
#[must_use]
pub fn confident_median(figures: &[f64]) -> Option<Spread> {
    let count = figures.len() as f64;
    let rank = ((count - 1.96 * count.sqrt()) / 2.0).floor();
    if rank < 1.0 {
        return None;
    }
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    Some(Spread {
        median: percentile(figures, 50.0)?,
        least: *sorted.get(rank as usize - 1)?,
        most: *sorted.get(sorted.len() - rank as usize)?,
    })
}

/// A percentile (0 to 100) by linear interpolation between the two figures next to it; none if there are none.
#[must_use]
pub fn percentile(figures: &[f64], percent: f64) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = percent.clamp(0.0, 100.0) / 100.0 * (sorted.len().checked_sub(1)? as f64);
    let below = *sorted.get(place.floor() as usize)?;
    let above = *sorted.get(place.ceil() as usize)?;
    Some(below + (above - below) * place.fract())
}

/// Milliseconds, with their fraction.
#[must_use]
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_between_figures() {
        let figures = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(percentile(&figures, 0.0), Some(1.0));
        assert_eq!(percentile(&figures, 50.0), Some(2.5));
        assert_eq!(percentile(&figures, 100.0), Some(4.0));
        assert_eq!(percentile(&[7.0], 99.0), Some(7.0));
        assert_eq!(percentile(&[], 50.0), None);
    }

    #[test]
    fn a_median_is_known_the_better_the_more_figures_there_are() {
        let figures: Vec<f64> = (1..=40).map(f64::from).collect();
        // By the binomial distribution it is the 14th to the 27th, with 96 %.
        let found = confident_median(&figures).unwrap();
        assert_eq!((found.median, found.least, found.most), (20.5, 13.0, 28.0));
        assert_eq!(confident_median(&figures[..5]), None);
        assert_eq!(confident_median(&figures[..6]), None);
        let eight = confident_median(&figures[..8]).unwrap();
        assert_eq!((eight.least, eight.most), (1.0, 8.0));
    }

    #[test]
    fn a_spread_has_both_ends() {
        let spread = Spread::of(&[3.0, 1.0, 2.0]);
        assert_eq!(
            spread,
            Some(Spread {
                median: 2.0,
                least: 1.0,
                most: 3.0
            })
        );
        assert_eq!(Spread::of(&[]), None);
    }
}
