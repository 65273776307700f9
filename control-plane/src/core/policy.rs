//! How a drain behaves: the keys of a policy, their defaults and what may be combined.

use std::time::Duration;

use ebb_proto::v1;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What a missed deadline means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// The drain ends timed out and holds: its listeners go on closing.
    Proceed,
    /// The drain ends timed out and is released: its listeners serve as before.
    Abort,
}

/// What has to tell that nothing is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// The filter; while some of a node's reporters are unknown, its Envoy's own count.
    Auto,
    /// The filter's reporters, and nothing else.
    Filter,
    /// Envoy's own count, by its admin endpoint.
    Admin,
    /// Nobody: the drain takes its whole timeout, and ends drained unless something is known to be in flight.
    Delay,
}

/// What raw TCP sessions mean to a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tcp {
    /// They are waited for like requests in flight.
    Wait,
    /// They are not waited for.
    Ignore,
}

/// A complete policy: every key has a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// How long the node goes on serving as usual after the announcement; 0 = close at once.
    pub announce: Duration,
    /// How long nothing may be in flight and nothing may arrive; 0 = the first confirmed zero is enough.
    pub quiet_period: Duration,
    /// Hard deadline over the whole drain; 0 = do not wait: the drain ends at once as timed out, and holds.
    pub timeout: Duration,
    /// Time over which the share of closing responses grows from 0 to 1; 0 = every response at once.
    pub ramp: Duration,
    /// How long a filter goes on closing without hearing from the control plane; at least [`MIN_LEASE`].
    pub lease: Duration,
    /// What a missed deadline means.
    pub on_timeout: OnTimeout,
    /// What has to tell that nothing is in flight.
    pub evidence: Evidence,
    /// What raw TCP sessions mean to it.
    pub tcp: Tcp,
    /// How long it goes on once nothing is in flight where it cannot be seen whether clients have received everything;
    /// 0 = it does not wait for that.
    pub linger: Duration,
    /// How long it goes on once nothing is in flight for the sake of buffered access logs; 0 = not at all.
    pub flush: Duration,
    /// How long after its listeners began to close it goes on at least, for the sake of idle clients; 0 = not at all.
    pub idle: Duration,
}

/// The shortest lease: it is renewed three times in its length, and a renewal has to cross a busy machine.
pub const MIN_LEASE: Duration = Duration::from_secs(1);

/// The least quiet period, unless the caller says otherwise, of a drain towards an upstream endpoint: between two tries of
/// a request nothing is in flight towards any, for as long as Envoy backs off. By default that is 250 ms at most.
pub const OUTLASTS_RETRIES: Duration = Duration::from_millis(300);

/// The longest value of any key. A drain of a day is a typing error.
pub const MAX_KEY: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for Policy {
    fn default() -> Self {
        Self {
            announce: Duration::ZERO,
            quiet_period: Duration::from_millis(200),
            timeout: Duration::from_secs(30),
            ramp: Duration::ZERO,
            lease: Duration::from_secs(60),
            on_timeout: OnTimeout::Proceed,
            evidence: Evidence::Auto,
            tcp: Tcp::Wait,
            linger: Duration::from_secs(1),
            flush: Duration::ZERO,
            idle: Duration::ZERO,
        }
    }
}

/// The keys that somebody set; the others keep what is under them. Unset and 0 are different things.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyOverrides {
    /// See [`Policy::announce`].
    pub announce: Option<Duration>,
    /// See [`Policy::quiet_period`].
    pub quiet_period: Option<Duration>,
    /// See [`Policy::timeout`].
    pub timeout: Option<Duration>,
    /// See [`Policy::ramp`].
    pub ramp: Option<Duration>,
    /// See [`Policy::lease`].
    pub lease: Option<Duration>,
    /// See [`Policy::on_timeout`].
    pub on_timeout: Option<OnTimeout>,
    /// See [`Policy::evidence`].
    pub evidence: Option<Evidence>,
    /// See [`Policy::tcp`].
    pub tcp: Option<Tcp>,
    /// See [`Policy::linger`].
    pub linger: Option<Duration>,
    /// See [`Policy::flush`].
    pub flush: Option<Duration>,
    /// See [`Policy::idle`].
    pub idle: Option<Duration>,
}

/// A policy that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// A duration below zero, or one that no clock can hold.
    #[error("policy.{key}: not a duration of zero or more")]
    NotADuration {
        /// The key.
        key: &'static str,
    },
    /// A duration over [`MAX_KEY`].
    #[error("policy.{key}: {} is more than a day", humantime::format_duration(*value))]
    TooLong {
        /// The key.
        key: &'static str,
        /// Its value.
        value: Duration,
    },
    /// A lease under [`MIN_LEASE`].
    #[error("policy.lease: {} is less than 1s", humantime::format_duration(*value))]
    ShortLease {
        /// Its value.
        value: Duration,
    },
    /// What it waits for in any case does not fit into `timeout`, so the drain could never end drained.
    #[error(
        "policy.timeout: {} cannot hold announce {} + {key} {}: raise timeout, or set it to 0 to not wait",
        humantime::format_duration(*timeout), humantime::format_duration(*announce), humantime::format_duration(*value)
    )]
    CannotFit {
        /// The deadline.
        timeout: Duration,
        /// The announcement.
        announce: Duration,
        /// The longest of what comes after it.
        key: &'static str,
        /// Its value.
        value: Duration,
    },
    /// A number that this version does not know.
    #[error("policy.on_timeout: {0} is not a known value")]
    UnknownOnTimeout(i32),
    /// A number that this version does not know.
    #[error("policy.evidence: {0} is not a known value")]
    UnknownEvidence(i32),
    /// A number that this version does not know.
    #[error("policy.tcp: {0} is not a known value")]
    UnknownTcp(i32),
}

impl Policy {
    /// This policy with the keys of `overrides` in place of its own, as a drain goes by it: see [`Policy::fitted`].
    ///
    /// # Errors
    /// [`PolicyError`], which names the key: the first of [`Policy::problems`].
    pub fn with(&self, overrides: &PolicyOverrides) -> Result<Self, PolicyError> {
        let policy = self.fitted(overrides);
        match policy.problems().into_iter().next() {
            Some(error) => Err(error),
            None => Ok(policy),
        }
    }

    /// This policy with the keys of `overrides` in place of its own, whether that can be or not. A `linger` that they do not
    /// set takes at most what the timeout leaves for it: a short drain must not time out for the sake of what cannot be seen.
    pub fn fitted(&self, overrides: &PolicyOverrides) -> Self {
        let mut policy = self.overridden(overrides);
        if overrides.linger.is_none() {
            // Half of it: the other half is for the requests.
            policy.linger = policy
                .linger
                .min(policy.timeout.saturating_sub(policy.least()) / 2);
        }
        policy
    }

    /// This policy with the keys of `overrides` in place of its own, to be overridden by others in turn.
    pub fn overridden(&self, overrides: &PolicyOverrides) -> Self {
        Self {
            announce: overrides.announce.unwrap_or(self.announce),
            quiet_period: overrides.quiet_period.unwrap_or(self.quiet_period),
            timeout: overrides.timeout.unwrap_or(self.timeout),
            ramp: overrides.ramp.unwrap_or(self.ramp),
            lease: overrides.lease.unwrap_or(self.lease),
            on_timeout: overrides.on_timeout.unwrap_or(self.on_timeout),
            evidence: overrides.evidence.unwrap_or(self.evidence),
            tcp: overrides.tcp.unwrap_or(self.tcp),
            linger: overrides.linger.unwrap_or(self.linger),
            flush: overrides.flush.unwrap_or(self.flush),
            idle: overrides.idle.unwrap_or(self.idle),
        }
    }

    /// Everything in it that cannot be.
    pub fn problems(&self) -> Vec<PolicyError> {
        let keys = [
            ("announce", self.announce),
            ("quiet_period", self.quiet_period),
            ("timeout", self.timeout),
            ("ramp", self.ramp),
            ("lease", self.lease),
            ("linger", self.linger),
            ("flush", self.flush),
            ("idle", self.idle),
        ];
        let too_long = keys.into_iter().filter(|(_, value)| *value > MAX_KEY);
        let mut problems: Vec<PolicyError> = too_long
            .map(|(key, value)| PolicyError::TooLong { key, value })
            .collect();
        if self.lease < MIN_LEASE {
            problems.push(PolicyError::ShortLease { value: self.lease });
        }
        let (key, value) = longest([self.needs(), ("linger", self.linger)]);
        if !self.timeout.is_zero() && self.announce.saturating_add(value) >= self.timeout {
            problems.push(PolicyError::CannotFit {
                timeout: self.timeout,
                announce: self.announce,
                key,
                value,
            });
        }
        problems
    }

    /// The least time in which a drain can end drained, but for `linger`.
    pub fn least(&self) -> Duration {
        self.announce.saturating_add(self.needs().1)
    }

    /// What it waits for in any case once it closes: these run side by side.
    fn needs(&self) -> (&'static str, Duration) {
        longest([
            ("idle", self.idle),
            ("flush", self.flush),
            ("quiet_period", self.quiet_period),
        ])
    }

    /// Makes the quiet period at least [`OUTLASTS_RETRIES`], if that fits.
    pub fn outlast_retries(&mut self) {
        if self.announce + OUTLASTS_RETRIES < self.timeout {
            self.quiet_period = self.quiet_period.max(OUTLASTS_RETRIES);
        }
    }

    /// The same on the wire, every key set.
    pub fn to_proto(&self) -> v1::Policy {
        let wire = |value: Duration| prost_types::Duration::try_from(value).ok();
        v1::Policy {
            announce: wire(self.announce),
            quiet_period: wire(self.quiet_period),
            timeout: wire(self.timeout),
            ramp: wire(self.ramp),
            lease: wire(self.lease),
            on_timeout: match self.on_timeout {
                OnTimeout::Proceed => v1::OnTimeout::Proceed,
                OnTimeout::Abort => v1::OnTimeout::Abort,
            }
            .into(),
            evidence: match self.evidence {
                Evidence::Auto => v1::Evidence::Auto,
                Evidence::Filter => v1::Evidence::Filter,
                Evidence::Admin => v1::Evidence::Admin,
                Evidence::Delay => v1::Evidence::Delay,
            }
            .into(),
            tcp: match self.tcp {
                Tcp::Wait => v1::Tcp::Wait,
                Tcp::Ignore => v1::Tcp::Ignore,
            }
            .into(),
            linger: wire(self.linger),
            flush: wire(self.flush),
            idle: wire(self.idle),
        }
    }
}

fn longest<const N: usize>(keys: [(&'static str, Duration); N]) -> (&'static str, Duration) {
    let longest = keys.into_iter().max_by_key(|(_, value)| *value);
    longest.unwrap_or_default()
}

/// A duration from the wire; `None` if it is negative or malformed. The conversion of `prost_types` alone would add up
/// parts of different signs, which protobuf forbids, and overflow at the least of all numbers.
pub fn from_wire(value: &prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(value.seconds).ok()?;
    let nanos = u32::try_from(value.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}

impl PolicyOverrides {
    /// The keys that are set on the wire.
    ///
    /// # Errors
    /// [`PolicyError`], which names the key.
    pub fn from_proto(policy: &v1::Policy) -> Result<Self, PolicyError> {
        let read = |key, value: &Option<prost_types::Duration>| match value {
            None => Ok(None),
            Some(value) => from_wire(value)
                .map(Some)
                .ok_or(PolicyError::NotADuration { key }),
        };
        Ok(Self {
            announce: read("announce", &policy.announce)?,
            quiet_period: read("quiet_period", &policy.quiet_period)?,
            timeout: read("timeout", &policy.timeout)?,
            ramp: read("ramp", &policy.ramp)?,
            lease: read("lease", &policy.lease)?,
            on_timeout: match v1::OnTimeout::try_from(policy.on_timeout) {
                Ok(v1::OnTimeout::Unspecified) => None,
                Ok(v1::OnTimeout::Proceed) => Some(OnTimeout::Proceed),
                Ok(v1::OnTimeout::Abort) => Some(OnTimeout::Abort),
                Err(_) => return Err(PolicyError::UnknownOnTimeout(policy.on_timeout)),
            },
            evidence: match v1::Evidence::try_from(policy.evidence) {
                Ok(v1::Evidence::Unspecified) => None,
                Ok(v1::Evidence::Auto) => Some(Evidence::Auto),
                Ok(v1::Evidence::Filter) => Some(Evidence::Filter),
                Ok(v1::Evidence::Admin) => Some(Evidence::Admin),
                Ok(v1::Evidence::Delay) => Some(Evidence::Delay),
                Err(_) => return Err(PolicyError::UnknownEvidence(policy.evidence)),
            },
            tcp: match v1::Tcp::try_from(policy.tcp) {
                Ok(v1::Tcp::Unspecified) => None,
                Ok(v1::Tcp::Wait) => Some(Tcp::Wait),
                Ok(v1::Tcp::Ignore) => Some(Tcp::Ignore),
                Err(_) => return Err(PolicyError::UnknownTcp(policy.tcp)),
            },
            linger: read("linger", &policy.linger)?,
            flush: read("flush", &policy.flush)?,
            idle: read("idle", &policy.idle)?,
        })
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
