//! What an Envoy that is to be stopped still owes: requests in flight, TCP sessions, bytes that its clients have not received,
//! and calls that it makes on its own account.

use super::{admin::Admin, process};
use crate::{
    core::outstanding::{Outstanding, Unsent},
    outside::{self, Look},
};

/// An Envoy, as far as it can be looked at.
#[derive(Clone, Debug, Default)]
pub struct Envoy {
    /// Its admin endpoint.
    pub admin: Option<Admin>,
    /// Its pid, or that of a wrapper that leads its process group.
    pub pid: Option<u32>,
}

/// What is left to wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Requests, sessions and bytes: 0 = nothing.
    pub(super) total: u64,
    /// Calls on its own account, for which there is less time.
    pub(super) upstream: u64,
    /// Requests ever begun; `None` = not asked.
    pub(super) begun: Option<u64>,
    /// All of it in words, if there is something.
    pub(super) left: String,
}

impl Envoy {
    /// Everything that it owes.
    ///
    /// # Errors
    /// Its own count of the requests is not known, in words.
    pub(super) async fn owes(&self, admin: &Admin) -> Result<Count, String> {
        let in_flight = admin.requests_in_flight().await;
        let in_flight = in_flight.map_err(|error| error.to_string())?;
        // Requests may take long; what comes after them is not asked for before.
        if in_flight > 0 {
            return Ok(Count {
                total: in_flight,
                left: format!("{in_flight} in flight by Envoy's own count"),
                ..Count::default()
            });
        }
        let begun = admin.begun_by_listener().await;
        let begun = begun.map_err(|error| error.to_string())?;
        let begun = begun.values().fold(0, |sum: u64, begun| sum.wrapping_add(*begun));
        Ok(Count {
            begun: Some(begun),
            ..Count::new(self.look().await)
        })
    }

    /// What its clients have not received, where that can be seen; nothing where it cannot.
    pub(super) async fn undelivered(&self) -> Count {
        let unsent = self.look().await.unsent;
        Count::new(Outstanding {
            unsent,
            ..Outstanding::default()
        })
    }

    async fn look(&self) -> Outstanding {
        let pids = match self.pid {
            Some(pid) => tokio::task::spawn_blocking(move || process::group(pid))
                .await
                .unwrap_or_default(),
            None => Vec::new(),
        };
        outside::look(Look {
            admin: self.admin.clone(),
            pids,
            ..Look::default()
        })
        .await
    }
}

impl Count {
    fn new(outstanding: Outstanding) -> Self {
        let sessions = outstanding.tcp.unwrap_or_default();
        let Unsent {
            buffered,
            queued,
            clients,
        } = outstanding.unsent.unwrap_or_default();
        let bytes = buffered.saturating_add(queued);
        let upstream = outstanding.upstream.unwrap_or_default();
        let mut left = Vec::new();
        if sessions > 0 {
            left.push(format!("{sessions} TCP sessions"));
        }
        match (bytes, clients) {
            (0, _) => {}
            (_, 0) => left.push(format!("{bytes} bytes that clients have not received")),
            _ => left.push(format!("{bytes} bytes that {clients} clients have not received")),
        }
        if upstream > 0 {
            left.push(format!("{upstream} requests to upstreams of Envoy's own"));
        }
        Self {
            total: sessions.saturating_add(bytes),
            upstream,
            begun: None,
            left: left.join(", "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_in_words() {
        assert_eq!(Count::new(Outstanding::default()), Count::default());
        let all = Count::new(Outstanding {
            tcp: Some(2),
            unsent: Some(Unsent {
                buffered: 5,
                queued: 7,
                clients: 1,
            }),
            upstream: Some(3),
        });
        assert_eq!((all.total, all.upstream), (14, 3));
        assert_eq!(
            all.left,
            "2 TCP sessions, 12 bytes that 1 clients have not received, 3 requests to upstreams of Envoy's own"
        );
        let buffered = Unsent {
            buffered: 5,
            ..Unsent::default()
        };
        let count = Count::new(Outstanding {
            unsent: Some(buffered),
            ..Outstanding::default()
        });
        assert_eq!(count.left, "5 bytes that clients have not received");
    }
}
