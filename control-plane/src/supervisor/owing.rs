//! What an Envoy that is to be stopped still owes: requests in flight, TCP sessions, bytes that its clients have not received,
//! and calls that it makes on its own account.

use super::{admin::Admin, cut::Remains, process};
use crate::{
    core::{outstanding::Outstanding, policy::Tcp},
    outside::{self, Look},
};

/// An Envoy, as far as it can be looked at.
#[derive(Clone, Debug)]
pub struct Envoy {
    /// Its admin endpoint.
    pub admin: Option<Admin>,
    /// Its pid, or that of a wrapper that leads its process group.
    pub pid: Option<u32>,
    /// What its raw TCP sessions mean to its stop.
    pub tcp: Tcp,
}

/// What is left to wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) remains: Remains,
    /// Requests ever begun; `None` = not asked.
    pub(super) begun: Option<u64>,
}

impl From<Remains> for Count {
    fn from(remains: Remains) -> Self {
        Self { remains, begun: None }
    }
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
            return Ok(Remains::by_envoy(in_flight).into());
        }
        let begun = admin.answered_by_listener().await;
        let begun = begun.map_err(|error| error.to_string())?;
        let begun = begun.values().fold(0, |sum: u64, begun| sum.wrapping_add(*begun));
        Ok(Count {
            remains: Remains::owed(self.of_concern(self.look().await)),
            begun: Some(begun),
        })
    }

    /// What its clients have not received, where that can be seen; nothing where it cannot.
    pub(super) async fn undelivered(&self) -> Count {
        let unsent = self.look().await.unsent;
        let delivery = Outstanding {
            unsent,
            ..Outstanding::default()
        };
        Remains::owed(delivery).into()
    }

    fn of_concern(&self, seen: Outstanding) -> Outstanding {
        Outstanding {
            tcp: seen.tcp.filter(|_| self.tcp == Tcp::Wait),
            ..seen
        }
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
