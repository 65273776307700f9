//! How fast watchers are told what is large. Each gets a copy of its own, so that a thousand of them could keep every core busy
//! with it, and whoever waits for a deadline would wait for them.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A message up to this size, in bytes, goes at once.
const SMALL: usize = 4 << 10;

/// All watchers together get so many bytes of larger ones in a second.
const PER_SECOND: u64 = 4 << 20;

/// When the next large message may go; shared by all watchers.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace(Arc<Mutex<Option<Instant>>>);

impl Pace {
    /// Waits until it is the turn of a message of so many bytes.
    pub(super) async fn turn(&self, bytes: usize) {
        if bytes <= SMALL {
            return;
        }
        let at = self.book(bytes, Instant::now());
        tokio::time::sleep_until(at.into()).await;
    }

    fn book(&self, bytes: usize, now: Instant) -> Instant {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = next.map_or(now, |next| next.max(now));
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let takes = Duration::from_micros(bytes.saturating_mul(1_000_000) / PER_SECOND);
        *next = Some(at + takes);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_messages_follow_each_other_and_what_nobody_used_is_not_saved_up() {
        let (pace, start) = (Pace::default(), Instant::now());
        let second = usize::try_from(PER_SECOND).unwrap();
        assert_eq!(pace.book(second, start), start);
        assert_eq!(pace.book(second / 2, start), start + Duration::from_secs(1));
        let later = start + Duration::from_secs(60);
        assert_eq!(pace.book(second, later), later);
        assert_eq!(pace.book(1, later), later + Duration::from_secs(1));
    }

    #[tokio::test]
    async fn small_messages_do_not_wait() {
        let pace = Pace::default();
        pace.book(1 << 40, Instant::now());
        pace.turn(SMALL).await;
    }
}
