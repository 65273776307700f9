//! `ProcessService`.

use std::{pin::Pin, time::Duration};

use ebb_proto::v1::{self, process_service_server::ProcessService};
use futures::{Stream, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::gone;
use crate::supervisor::{
    Handle, Told,
    handle::{self, Ended},
    machine::{ProcessState, ProcessView},
    tell::Severity,
};

/// The service.
#[derive(Debug)]
pub(super) struct Processes {
    /// `None`: no process is kept here.
    supervisor: Option<Handle>,
    /// Turns true when the control plane ends.
    stopped: watch::Receiver<bool>,
}

impl Processes {
    pub(super) fn new(supervisor: Option<Handle>, stopped: watch::Receiver<bool>) -> Self {
        Self { supervisor, stopped }
    }
}

/// What is waited for is told with the time that is left: while there is any, it is told again after this.
const TELL_AGAIN: Duration = Duration::from_secs(1);

type Messages<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

#[tonic::async_trait]
impl ProcessService for Processes {
    type WatchProcessesStream = Messages<v1::WatchProcessesResponse>;
    type ShutdownStream = Messages<v1::ShutdownResponse>;

    async fn list_processes(
        &self,
        _request: Request<v1::ListProcessesRequest>,
    ) -> Result<Response<v1::ListProcessesResponse>, Status> {
        let processes = match &self.supervisor {
            Some(supervisor) => list(supervisor).await?,
            None => Vec::new(),
        };
        Ok(Response::new(v1::ListProcessesResponse { processes }))
    }

    async fn watch_processes(
        &self,
        _request: Request<v1::WatchProcessesRequest>,
    ) -> Result<Response<Self::WatchProcessesStream>, Status> {
        let Some(supervisor) = self.supervisor.clone() else {
            // Nothing is all there will ever be.
            let mut stopped = self.stopped.clone();
            let empty = stream::once(async { Ok(v1::WatchProcessesResponse::default()) });
            let end = stream::once(async move {
                // An error is the same: whoever could stop it is gone.
                let _ = stopped.wait_for(|stopped| *stopped).await;
                Err(gone(crate::engine::Gone))
            });
            return Ok(Response::new(Box::pin(futures::StreamExt::chain(empty, end))));
        };
        let mut changes = supervisor.status();
        changes.mark_changed();
        let follow = stream::unfold(Some((supervisor, changes, false)), |follow| async move {
            let (supervisor, mut changes, waits) = follow?;
            let again = async {
                match waits {
                    true => tokio::time::sleep(TELL_AGAIN).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    return Some((Err(ended(Ended)), None));
                },
                () = again => {}
            }
            changes.mark_unchanged();
            match list(&supervisor).await {
                Ok(processes) => {
                    let waits = processes.iter().any(|process| !process.waits_for.is_empty());
                    let message = v1::WatchProcessesResponse { processes };
                    Some((Ok(message), Some((supervisor, changes, waits))))
                }
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(follow)))
    }

    async fn shutdown(
        &self,
        _request: Request<v1::ShutdownRequest>,
    ) -> Result<Response<Self::ShutdownStream>, Status> {
        let Some(supervisor) = &self.supervisor else {
            return Err(Status::failed_precondition(
                "no process is kept here: `ebb serve` is the control plane alone, `ebb run` keeps processes",
            ));
        };
        let changes = supervisor.status();
        supervisor.shut_down().await.map_err(ended)?;
        Ok(Response::new(Box::pin(events(changes))))
    }
}

/// Everything that has happened, then everything as it happens, then the exit code.
fn events(
    changes: watch::Receiver<handle::Status>,
) -> impl Stream<Item = Result<v1::ShutdownResponse, Status>> {
    stream::unfold(Some((changes, 0)), |follow| async move {
        let (mut changes, seen) = follow?;
        let more = |status: &handle::Status| status.shutdown.len() > seen || status.code.is_some();
        let Ok(status) = changes.wait_for(more).await.map(|status| status.clone()) else {
            return Some((Err(ended(Ended)), None));
        };
        match (status.shutdown.get(seen), status.code) {
            (Some(told), _) => {
                let event = Some(event(told));
                let message = v1::ShutdownResponse {
                    event,
                    exit_code: None,
                };
                Some((Ok(message), Some((changes, seen + 1))))
            }
            (None, exit_code) => {
                let message = v1::ShutdownResponse {
                    event: None,
                    exit_code,
                };
                Some((Ok(message), None))
            }
        }
    })
}

fn event(told: &Told) -> v1::ShutdownEvent {
    v1::ShutdownEvent {
        at: Some(told.at.into()),
        since: wire(told.since),
        process: told.process.clone().unwrap_or_default(),
        text: told.text.clone(),
        warning: told.severity == Severity::Warning,
    }
}

async fn list(supervisor: &Handle) -> Result<Vec<v1::Process>, Status> {
    let views = supervisor.processes().await.map_err(ended)?;
    Ok(views.into_iter().map(process).collect())
}

fn process(view: ProcessView) -> v1::Process {
    let state = match view.state {
        ProcessState::Waiting => v1::ProcessState::Waiting,
        ProcessState::Starting => v1::ProcessState::Starting,
        ProcessState::Ready => v1::ProcessState::Ready,
        ProcessState::BackingOff => v1::ProcessState::BackingOff,
        ProcessState::Holding => v1::ProcessState::Holding,
        ProcessState::Draining => v1::ProcessState::Draining,
        ProcessState::Stopping => v1::ProcessState::Stopping,
        ProcessState::Exited => v1::ProcessState::Exited,
    };
    v1::Process {
        name: view.name,
        state: state.into(),
        pid: view.pid.unwrap_or(0),
        uptime: view.uptime.and_then(wire),
        waits_for: view.waits_for,
        restarts: view.restarts,
        exit: view.exit.map(|exit| exit.to_string()).unwrap_or_default(),
    }
}

fn wire(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}

fn ended(ended: Ended) -> Status {
    Status::unavailable(ended.to_string())
}
