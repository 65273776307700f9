//! What the simulated filters have seen, all of them together.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Counters and times that filters of every thread write.
#[derive(Debug)]
pub(super) struct Board {
    /// When time began, for filters and times alike.
    pub(super) origin: Instant,
    attached: AtomicU64,
    draining: AtomicU64,
    opened: AtomicU64,
    lost: AtomicU64,
    refused: AtomicU64,
    reports: AtomicU64,
    commands: AtomicU64,
    /// The last time at which one attached, in nanoseconds since the origin.
    last_attached: AtomicU64,
    /// The last time at which one answered a drain that waits, likewise.
    last_answer: AtomicU64,
    /// When each was told to drain, likewise; 0 = not yet.
    told: Vec<AtomicU64>,
}

/// How the counters stand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counters {
    /// Streams that have got a command and have not ended.
    pub(super) attached: u64,
    /// Filters whose last command named a drain.
    pub(super) draining: u64,
    /// Streams that were ever opened.
    pub(super) opened: u64,
    /// Of those, the ones that have ended.
    pub(super) lost: u64,
    /// Streams that could not be opened.
    pub(super) refused: u64,
    /// Reports sent.
    pub(super) reports: u64,
    /// Commands received.
    pub(super) commands: u64,
}

impl Board {
    pub(super) fn new(filters: usize) -> Self {
        Self {
            origin: Instant::now(),
            attached: AtomicU64::default(),
            draining: AtomicU64::default(),
            opened: AtomicU64::default(),
            lost: AtomicU64::default(),
            refused: AtomicU64::default(),
            reports: AtomicU64::default(),
            commands: AtomicU64::default(),
            last_attached: AtomicU64::default(),
            last_answer: AtomicU64::default(),
            told: (0..filters).map(|_| AtomicU64::default()).collect(),
        }
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn opened(&self) {
        self.opened.fetch_add(1, Relaxed);
    }

    pub(super) fn lost(&self, attached: bool) {
        self.attached.fetch_sub(u64::from(attached), Relaxed);
        self.lost.fetch_add(1, Relaxed);
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(super) fn reported(&self) {
        self.reports.fetch_add(1, Relaxed);
    }

    /// A command has come; `first` = the first of its stream.
    pub(super) fn commanded(&self, first: bool) {
        self.commands.fetch_add(1, Relaxed);
        if first {
            self.last_attached.fetch_max(self.nanos(), Relaxed);
            self.attached.fetch_add(1, Relaxed);
        }
    }

    /// A filter drained or did not, and does or does not.
    pub(super) fn drains(&self, before: bool, now: bool) {
        match (before, now) {
            (false, true) => self.draining.fetch_add(1, Relaxed),
            (true, false) => self.draining.fetch_sub(1, Relaxed),
            _ => 0,
        };
    }

    pub(super) fn told(&self, index: usize) {
        if let Some(told) = self.told.get(index).filter(|told| told.load(Relaxed) == 0) {
            told.store(self.nanos().max(1), Relaxed);
        }
    }

    pub(super) fn answered(&self) {
        self.last_answer.fetch_max(self.nanos(), Relaxed);
    }

    pub(super) fn counters(&self) -> Counters {
        Counters {
            attached: self.attached.load(Relaxed),
            draining: self.draining.load(Relaxed),
            opened: self.opened.load(Relaxed),
            lost: self.lost.load(Relaxed),
            refused: self.refused.load(Relaxed),
            reports: self.reports.load(Relaxed),
            commands: self.commands.load(Relaxed),
        }
    }

    /// Forgets who was told.
    pub(super) fn forget_told(&self) {
        for told in &self.told {
            told.store(0, Relaxed);
        }
    }

    /// When each that was told was told, after `start`.
    pub(super) fn told_after(&self, start: Instant) -> Vec<Duration> {
        let start = start.saturating_duration_since(self.origin);
        let told = self.told.iter().map(|told| told.load(Relaxed));
        told.filter(|told| *told > 0)
            .map(|told| Duration::from_nanos(told).saturating_sub(start))
            .collect()
    }

    /// When the last one attached, after `start`.
    pub(super) fn attached_after(&self, start: Instant) -> Duration {
        self.after(&self.last_attached, start)
    }

    /// When the last one answered a drain that waits, after `start`.
    pub(super) fn answered_after(&self, start: Instant) -> Duration {
        self.after(&self.last_answer, start)
    }

    fn after(&self, at: &AtomicU64, start: Instant) -> Duration {
        Duration::from_nanos(at.load(Relaxed)).saturating_sub(start.saturating_duration_since(self.origin))
    }
}
