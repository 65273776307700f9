//! How often things may happen: when to try the control plane again, and how many reports may go out.

use std::time::Duration;

/// Exponential backoff with jitter: a whole fleet must not come back at the same instant.
#[derive(Debug)]
pub struct Backoff {
    rng: fastrand::Rng,
    failures: u32,
}

impl Backoff {
    /// A backoff whose jitter starts from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            failures: 0,
        }
    }

    /// Consecutive failures so far.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Counts a failure and says how long to wait: between half of `min` doubled once per failure and all of it,
    /// never less than `min` or more than `max`.
    pub fn fail(&mut self, min: Duration, max: Duration) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let ceiling = min.saturating_mul(factor).min(max);
        let floor = min.max(ceiling / 2).min(ceiling);
        floor.saturating_add((ceiling - floor).mul_f64(self.rng.f64()))
    }

    /// A random moment within `span`.
    pub fn jitter(&mut self, span: Duration) -> Duration {
        span.mul_f64(self.rng.f64())
    }

    /// Counts a success.
    pub fn succeed(&mut self) {
        self.failures = 0;
    }
}

/// Limits the reports that requests cause: a burst goes out at once, then they are spaced.
///
/// Envoy takes whatever a filter sends and tells nothing of a receiver that does not read, so a stuck control plane
/// would otherwise cost memory with every request.
#[derive(Debug, Default)]
pub struct Limiter {
    /// When the whole burst would be there again.
    full_at: Duration,
}

impl Limiter {
    /// How many may go out at once.
    pub const BURST: u32 = 32;
    /// The space between two, once the burst is used up.
    pub const SPACING: Duration = Duration::from_millis(5);

    /// Takes one, or says from when on one will be there.
    ///
    /// # Errors
    /// The time from which on a further one will be allowed.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        let full_at = self.full_at.max(now).saturating_add(Self::SPACING);
        let allowed_at = full_at.saturating_sub(Self::SPACING.saturating_mul(Self::BURST));
        if allowed_at > now {
            return Err(allowed_at);
        }
        self.full_at = full_at;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(5);

    #[test]
    fn backoff_grows_within_its_bounds_and_starts_over() {
        for seed in 0..50 {
            let mut backoff = Backoff::new(seed);
            let mut ceiling = 2 * MIN;
            for _ in 0..40 {
                let wait = backoff.fail(MIN, MAX);
                assert!(
                    wait >= MIN.max(ceiling.min(MAX) / 2),
                    "{wait:?} under {ceiling:?}"
                );
                assert!(wait <= ceiling.min(MAX), "{wait:?} over {ceiling:?}");
                ceiling = ceiling.saturating_mul(2);
            }
            assert_eq!(backoff.failures(), 40);
            backoff.succeed();
            assert!(backoff.fail(MIN, MAX) <= 2 * MIN);
        }
    }

    #[test]
    fn backoff_is_jittered() {
        let waits: Vec<Duration> = (0..20).map(|seed| Backoff::new(seed).fail(MIN, MAX)).collect();
        assert!(waits.iter().any(|wait| *wait != waits[0]));
    }

    #[test]
    fn jitter_is_spread_over_its_span() {
        let mut backoff = Backoff::new(3);
        let waits: Vec<Duration> = (0..1000).map(|_| backoff.jitter(MIN)).collect();
        assert!(waits.iter().all(|wait| *wait <= MIN));
        let early = waits.iter().filter(|wait| **wait < MIN / 2).count();
        assert!((400..600).contains(&early), "{early}");
        assert_eq!(backoff.jitter(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn backoff_with_equal_bounds() {
        assert_eq!(Backoff::new(1).fail(MIN, MIN), MIN);
    }

    #[test]
    fn a_burst_passes_and_then_one_per_space() {
        let mut limiter = Limiter::default();
        let now = Duration::from_secs(9);
        for _ in 0..Limiter::BURST {
            assert_eq!(limiter.take(now), Ok(()));
        }
        let next = limiter.take(now).unwrap_err();
        assert_eq!(next, now + Limiter::SPACING);
        assert_eq!(limiter.take(next), Ok(()));
        assert!(limiter.take(next).is_err());
        let later = next + Limiter::SPACING * Limiter::BURST;
        for _ in 0..Limiter::BURST {
            assert_eq!(limiter.take(later), Ok(()));
        }
        assert!(limiter.take(later).is_err());
    }
}
