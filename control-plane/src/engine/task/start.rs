//! Starting drains: at once, or once what they name has come back.

use std::time::{Duration, Instant};

use ebb_proto::v1;
use tokio::sync::oneshot;

use super::{Reply, Task};
use crate::core::{
    Now,
    drains::{StartError, StartRequest},
};

/// After its start the control plane gives filters of which nothing is kept this long to come back, before it says that
/// nobody is attached, or no filter where one has to count. A filter tries again within 5 s, unless it is configured otherwise.
const RETURN_WITHIN: Duration = Duration::from_secs(6);

/// The same once somebody is attached or expected, before it says that a node or listener is not there: that is a
/// mistyped name more often than not.
const NAMED_WITHIN: Duration = Duration::from_millis(1500);

/// A drain of something that may yet come back.
pub(super) struct Parked {
    pub(super) request: Box<StartRequest>,
    /// Whether the filters have been asked on its account.
    pub(super) asked: bool,
    /// Until when it waits for what it names.
    pub(super) until: Instant,
    pub(super) reply: oneshot::Sender<Result<v1::Drain, StartError>>,
}

impl Task {
    pub(super) fn start(&mut self, wanted: Parked, now: Now) {
        match self.core.start((*wanted.request).clone(), now) {
            // An admin endpoint is found long before the filters of its Envoy are back.
            Err(StartError::NobodyAttached | StartError::NoFilter(_))
                if now.instant < self.started + RETURN_WITHIN =>
            {
                let until = self.started + RETURN_WITHIN;
                self.parked.push(Parked { until, ..wanted });
            }
            Err(StartError::UnknownNode { .. } | StartError::UnknownListener { .. })
                if now.instant < self.started + NAMED_WITHIN =>
            {
                let until = self.started + NAMED_WITHIN;
                self.parked.push(Parked { until, ..wanted });
            }
            // What there is is known by reports, of which the last may be seconds old, and by Envoys, if they are asked.
            Err(StartError::UnknownUpstream { .. } | StartError::UnknownListener { .. }) if !wanted.asked => {
                let asked = self.core.query_names(now);
                self.wait_for(
                    asked,
                    Reply::Retry(Parked {
                        asked: true,
                        ..wanted
                    }),
                    now,
                );
            }
            Err(error) => {
                let _ = wanted.reply.send(Err(error));
            }
            Ok((id, effects)) if effects.is_empty() => {
                let _ = wanted
                    .reply
                    .send(Ok(self.core.drain(&id, now).unwrap_or_default()));
            }
            Ok((id, effects)) => {
                self.carry_out(effects, now);
                let asked = self.core.query_drain(&id, now);
                self.wait_for(asked, Reply::Started(id, wanted.reply), now);
            }
        }
    }

    pub(super) fn start_parked(&mut self, now: Now) {
        for wanted in std::mem::take(&mut self.parked) {
            self.start(wanted, now);
        }
    }
}
