//! What an unset key means. The one place of these numbers; those of
//! `[drain]` are [`Policy::default`](crate::core::policy::Policy).

use std::time::Duration;

/// `[shutdown] grace_period`: what orchestrators give unless told otherwise.
pub const GRACE_PERIOD: Duration = Duration::from_secs(30);
/// Part of the grace period that is kept for the last SIGKILL, for reaping and for the report.
pub const RESERVE: Duration = Duration::from_millis(500);
/// Of it: from the last SIGKILL until whatever is not gone is given up.
pub const KILL_WITHIN: Duration = Duration::from_millis(250);
/// Of it: what follows the end of the last process, which is the last output, the last word to every stream, and the log.
pub const CLEAN_UP: Duration = Duration::from_millis(250);
/// `process.ready.timeout`.
pub const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// `process.ready.interval`.
pub const READY_INTERVAL: Duration = Duration::from_millis(100);
/// `process.stop.timeout`: a chain of three with a drain of 15 s fits the usual 30 s.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(4);
/// What is kept of an unset `process.stop.timeout` while drains may take the rest, as a share of the grace period.
pub const STOP_SHARE: u32 = 20;
/// The least that is kept of it: most processes end within some milliseconds of their signal.
pub const STOP_LEAST: Duration = Duration::from_millis(250);
/// `process.restart.backoff`.
pub const RESTART_BACKOFF: Duration = Duration::from_millis(500);
/// Waits between restarts double from the backoff up to this.
pub const RESTART_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A process that was ready for this long has its restarts forgotten.
pub const RESTART_FORGET: Duration = Duration::from_secs(60);
