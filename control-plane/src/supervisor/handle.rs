//! What others see of the supervisor, and what they can ask of it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    machine::{Event, ProcessView},
    tell::{Severity, short},
};

/// Something that happened, told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// By the wall clock.
    pub at: SystemTime,
    /// Since the shutdown began; zero before.
    pub since: Duration,
    /// The process it is about.
    pub process: Option<String>,
    /// In words.
    pub text: String,
    /// How bad it is.
    pub severity: Severity,
}

/// All of it, as it stands.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Grows with every change.
    pub generation: u64,
    /// Why not everything is ready and serving; `None` if it is.
    pub unready: Option<String>,
    /// What has happened since the shutdown began.
    pub shutdown: Vec<Arc<Told>>,
    /// The exit code, once all is over.
    pub code: Option<i32>,
}

pub(super) enum Request {
    Event(Event),
    View(oneshot::Sender<Vec<ProcessView>>),
}

/// A handle to the supervisor.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) status: watch::Receiver<Status>,
    /// The `node.id` of each proxy among the processes, as far as it is known.
    pub(super) nodes: Vec<watch::Receiver<Option<String>>>,
}

/// The supervisor has ended, so there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the supervisor has ended")]
pub struct Ended;

impl Handle {
    /// Every process, as it stands, in the order of the configuration.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn processes(&self) -> Result<Vec<ProcessView>, Ended> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(Request::View(reply))
            .await
            .map_err(|_| Ended)?;
        answer.await.map_err(|_| Ended)
    }

    /// Begins the ordered shutdown, unless it has begun.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn shut_down(&self) -> Result<(), Ended> {
        let event = Request::Event(Event::ShutdownRequested);
        self.requests.send(event).await.map_err(|_| Ended)
    }

    /// The `node.id` of each proxy among the processes, as far as it is known, now and as it becomes known.
    #[must_use]
    pub fn nodes(&self) -> Vec<watch::Receiver<Option<String>>> {
        self.nodes.clone()
    }

    /// The status as it stands, and as it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }
}

/// Who stopped when and why it waited: one line per process, in the order in which they ended.
#[must_use]
pub fn report(told: &[Arc<Told>]) -> Vec<String> {
    let mut names: Vec<&str> = Vec::new();
    for entry in told.iter().rev() {
        if let Some(name) = entry.process.as_deref()
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names.reverse();
    let line = |name: &str| {
        let own = told.iter().filter(|entry| entry.process.as_deref() == Some(name));
        let steps: Vec<String> = own
            .map(|entry| format!("+{} {}", short(entry.since), entry.text))
            .collect();
        format!("{name}: {}", steps.join("; "))
    };
    names.into_iter().map(line).collect()
}
