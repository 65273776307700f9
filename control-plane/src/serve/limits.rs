//! How many connections there may be.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open files, which is that of connections, as far as it goes. Service managers start with 1,024, for
/// the sake of programs that use `select`, and every worker of every Envoy has a connection of its own. Not for a process
/// that starts others: they would inherit it.
pub(super) fn allow_connections() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let all = Rlimit {
        current: limit.maximum,
        ..limit
    };
    match setrlimit(Resource::Nofile, all) {
        Ok(()) => tracing::debug!(
            before = limit.current,
            now = limit.maximum,
            "limit of open files raised"
        ),
        Err(error) => tracing::warn!(limit = limit.current, %error, "cannot raise the limit of open files"),
    }
}
