//! How long this machine stands still, which no deadline can be held against.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How long a sleeper sleeps, and how late it may wake without that being a stall.
const SLEEP: Duration = Duration::from_millis(5);

/// A thread that has a core to itself does not notice that others wait for one.
const SLEEPERS: usize = 4;

/// Measures how late threads wake that sleep for 5 ms again and again. Dropping it ends them.
#[derive(Debug)]
pub struct Stalls {
    /// From when to when.
    seen: Arc<Mutex<Vec<(Instant, Instant)>>>,
    ended: Arc<AtomicBool>,
}

impl Stalls {
    /// Starts the threads.
    #[must_use]
    pub fn measure() -> Self {
        let stalls = Self {
            seen: Arc::default(),
            ended: Arc::default(),
        };
        for _ in 0..SLEEPERS {
            let (seen, ended) = (Arc::clone(&stalls.seen), Arc::clone(&stalls.ended));
            std::thread::spawn(move || sleep(&seen, &ended));
        }
        stalls
    }

    /// How much of a span the machine stood still, at least for one of them.
    #[must_use]
    pub fn within(&self, from: Instant, until: Instant) -> Duration {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        seen.sort();
        let (mut stood, mut counted) = (Duration::ZERO, from);
        for (begins, ends) in seen {
            let (begins, ends) = (begins.max(counted), ends.min(until));
            stood += ends.saturating_duration_since(begins);
            counted = counted.max(ends);
        }
        stood
    }
}

fn sleep(seen: &Mutex<Vec<(Instant, Instant)>>, ended: &AtomicBool) {
    while !ended.load(Ordering::Relaxed) {
        let due = Instant::now() + SLEEP;
        std::thread::sleep(SLEEP);
        let now = Instant::now();
        if now.saturating_duration_since(due) > SLEEP {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push((due, now));
        }
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}
