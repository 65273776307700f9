//! How many files this process may have open, which is how many connections there may be, and who gets how many of them.

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// Kept for everything that is not a connection to this process: the state, what processes print, calls to admin endpoints.
const RESERVED: u64 = 64;

/// The most that the health endpoint needs: each probe takes milliseconds.
const HEALTH_MAX: u64 = 256;

/// The limit of open files that this process was started with.
#[derive(Clone, Copy, Debug)]
pub struct Inherited(Option<Rlimit>);

/// Raises the limit of open files as far as it goes. Service managers start with 1,024, for the sake of programs that use
/// `select`, and every worker of every Envoy has a connection of its own.
pub fn raise() -> Inherited {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return Inherited(None);
    }
    let all = Rlimit {
        current: limit.maximum,
        ..limit
    };
    match setrlimit(Resource::Nofile, all) {
        Ok(()) => {
            tracing::debug!(
                before = limit.current,
                now = limit.maximum,
                "limit of open files raised"
            );
            Inherited(Some(limit))
        }
        Err(error) => {
            tracing::warn!(limit = limit.current, %error, "cannot raise the limit of open files");
            Inherited(None)
        }
    }
}

impl Inherited {
    /// Gives a process that was just started the limit that this one was started with, and not the raised one.
    pub fn give(&self, pid: u32) {
        let Some(limit) = self.0 else { return };
        if let Err(error) = prlimit(Pid::from_raw(pid.cast_signed()), Resource::Nofile, limit)
            // It may have ended already.
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(pid, %error, "cannot give it the limit of open files that Ebb was started with");
        }
    }
}

/// How many connections there may be to the health endpoint at a time.
#[must_use]
pub fn health_connections() -> usize {
    to_usize(limit().map_or(HEALTH_MAX, health_share))
}

/// How many connections there may be to the gRPC services at a time, all sockets together.
#[must_use]
pub fn grpc_connections() -> usize {
    to_usize(limit().map_or(u64::MAX, grpc_share))
}

fn grpc_share(limit: u64) -> u64 {
    limit
        .saturating_sub(health_share(limit) + RESERVED)
        .max(limit / 2)
}

fn health_share(limit: u64) -> u64 {
    (limit / 8).clamp(1, HEALTH_MAX)
}

/// `None` = no limit.
fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

fn to_usize(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_health_endpoint_cannot_take_what_grpc_needs() {
        for limit in [64_u64, 256, 1024, 1 << 20] {
            let grpc = grpc_share(limit);
            assert!(grpc >= 1 && health_share(limit) >= 1, "{limit}");
            assert!(grpc + health_share(limit) < limit, "{limit}");
        }
    }
}
