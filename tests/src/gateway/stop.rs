//! A stop that was followed to its end.

use std::{collections::HashMap, time::Duration};

use ebb_proto::v1::ShutdownEvent;

/// A stop, as it was.
#[derive(Clone, Debug)]
pub struct Stop {
    /// From the signal to the end of `ebb run`.
    pub took: Duration,
    /// What happened meanwhile.
    pub events: Vec<ShutdownEvent>,
}

impl Stop {
    /// The time that the processes took to end once each was told to, which is up to them and to the machine.
    #[must_use]
    pub fn ends(&self) -> Duration {
        let mut told = HashMap::new();
        let mut sum = Duration::ZERO;
        for event in &self.events {
            let since = since(event);
            if event.text.starts_with("sent SIG") {
                told.insert(&event.process, since);
            } else if let Some(told) = told.remove(&event.process) {
                sum += since.saturating_sub(told);
            }
        }
        sum
    }
}

/// How long after the beginning of the shutdown something happened.
#[must_use]
pub fn since(event: &ShutdownEvent) -> Duration {
    let since = event.since.and_then(|since| since.try_into().ok());
    since.unwrap_or_default()
}
