//! The clock of a run, and the thread that notices when this machine stands still.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::journal::{Moment, Stall};

/// How long the sleeper sleeps, and how late it may wake without that being a stall.
const SLEEP: Duration = Duration::from_millis(5);

/// When a run began.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Begins now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.0.elapsed()
    }

    /// Sleeps until a moment; not at all if it has passed.
    pub async fn sleep_until(&self, at: Moment) {
        tokio::time::sleep_until((self.0 + at).into()).await;
    }
}

/// Measures how late a thread wakes that sleeps for 5 ms again and again. Dropping it ends the thread.
#[derive(Debug)]
pub struct Stalls {
    seen: Arc<Mutex<Vec<Stall>>>,
    ended: Arc<AtomicBool>,
}

impl Stalls {
    /// Starts the thread.
    #[must_use]
    pub fn measure(clock: Clock) -> Self {
        let stalls = Self {
            seen: Arc::default(),
            ended: Arc::default(),
        };
        let (seen, ended) = (Arc::clone(&stalls.seen), Arc::clone(&stalls.ended));
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let due = clock.now() + SLEEP;
                std::thread::sleep(SLEEP);
                let length = clock.now().saturating_sub(due);
                if length > SLEEP {
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.push(Stall { at: due, length });
                }
            }
        });
        stalls
    }

    /// Those that ended after `since`.
    #[must_use]
    pub fn since(&self, since: Moment) -> Vec<Stall> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let ended_before = |stall: &Stall| stall.at + stall.length < since;
        let first = seen.partition_point(ended_before);
        seen.get(first..).unwrap_or_default().to_vec()
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}
