//! Playing schedules: each in a world of its own, judged round by round, and counted.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::task::JoinSet;

use crate::{
    clock::{Clock, Stalls},
    figures::Figures,
    journal::Journal,
    judge::{Failure, judge},
    round,
    schedule::Schedule,
    world::{Shared, World},
};

/// A run: what it shares, and its figures so far.
#[derive(Clone, Debug)]
pub struct Run {
    shared: Shared,
    figures: Arc<Mutex<Figures>>,
    /// Whether every round is printed, not only those with failures.
    verbose: bool,
}

impl Run {
    /// Begins a run. `torture` is the binary of that name.
    #[must_use]
    pub fn begin(torture: std::path::PathBuf, verbose: bool) -> Self {
        let clock = Clock::start();
        Self {
            shared: Shared {
                clock,
                stalls: Arc::new(Stalls::measure(clock)),
                torture,
            },
            figures: Arc::default(),
            verbose,
        }
    }

    /// Plays schedules, as many at a time as there are `worlds`, until there are no more.
    pub async fn play_all(&self, mut schedules: impl Iterator<Item = Schedule>, worlds: usize) {
        let mut playing = JoinSet::new();
        loop {
            while playing.len() < worlds
                && let Some(schedule) = schedules.next()
            {
                let run = self.clone();
                playing.spawn(async move { run.play(&schedule).await });
            }
            if playing.join_next().await.is_none() {
                return;
            }
        }
    }

    /// The figures so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.figures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How long the run has lasted.
    #[must_use]
    pub fn elapsed(&self) -> std::time::Duration {
        self.shared.clock.now()
    }

    async fn play(&self, schedule: &Schedule) {
        let played = self.play_rounds(schedule).await;
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        match played {
            Ok(()) => figures.schedules += 1,
            Err(error) => {
                figures.broken += 1;
                eprintln!("BROKEN WORLD, seed {}: {error:#}\n{schedule}", schedule.seed);
            }
        }
    }

    async fn play_rounds(&self, schedule: &Schedule) -> Result<()> {
        let world = World::start(&schedule.world, &self.shared).await?;
        for (number, plan) in schedule.rounds.iter().enumerate() {
            let played = round::play(&world, plan, number).await;
            let journal = match played {
                Ok(journal) => journal,
                Err(error) => {
                    eprintln!("{}", world.control.log().await);
                    return Err(error.context(format!("round {number}")));
                }
            };
            let failures = judge(&journal);
            self.count(&journal, &failures);
            if self.verbose || !failures.is_empty() {
                print(schedule, number, &failures, &journal.to_string());
            }
            if !failures.is_empty() {
                eprintln!("log of the control plane so far:\n{}", world.control.log().await);
            }
        }
        Ok(())
    }

    fn count(&self, journal: &Journal, failures: &[Failure]) {
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        figures.count(journal, failures);
    }
}

fn print(schedule: &Schedule, number: usize, failures: &[Failure], timeline: &str) {
    let mut text = format!("--- seed {} round {number}: {}\n", schedule.seed, schedule.world);
    for failure in failures {
        text.push_str(&format!("FAILURE {failure}\n"));
    }
    // In one piece: worlds are played side by side.
    eprintln!("{text}{timeline}");
}
