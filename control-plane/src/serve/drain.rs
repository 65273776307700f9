//! `DrainService`.

use std::pin::Pin;

use ebb_proto::v1::{self, drain_service_server::DrainService};
use futures::{Stream, stream};
use prost::Message as _;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::{gone, pace::Pace, page_size};
use crate::{
    core::{
        blockers::{DEFAULT_LIMIT, MAX_LIMIT},
        drains::{StartError, StartRequest},
        policy::PolicyOverrides,
        record::has_ended,
    },
    engine::{Engine, Gone},
};

/// The service.
#[derive(Debug)]
pub(super) struct Drains {
    engine: Engine,
    pace: Pace,
}

impl Drains {
    pub(super) fn new(engine: Engine, pace: Pace) -> Self {
        Self { engine, pace }
    }
}

impl From<StartError> for Status {
    fn from(error: StartError) -> Self {
        let text = error.to_string();
        match error {
            StartError::Policy(_) | StartError::LongRequestId(_) | StartError::MixedScope => {
                Self::invalid_argument(text)
            }
            StartError::TakenRequestId { .. } => Self::already_exists(text),
            StartError::NobodyAttached
            | StartError::NoAdmin(_)
            | StartError::NoFilter(_)
            | StartError::NotCounted(_) => Self::failed_precondition(text),
            StartError::UnknownNode { .. }
            | StartError::UnknownListener { .. }
            | StartError::UnknownUpstream { .. } => Self::not_found(text),
        }
    }
}

/// An id that people can read out and type.
fn new_id() -> String {
    const LETTERS: &[u8] = b"23456789abcdefghjkmnpqrstuvwxyz";
    std::iter::repeat_with(|| fastrand::choice(LETTERS).map_or('x', |letter| char::from(*letter)))
        .take(10)
        .collect()
}

fn unknown(id: &str) -> Status {
    Status::not_found(format!("no drain {id:?}; `ebb status` lists the known ones"))
}

#[tonic::async_trait]
impl DrainService for Drains {
    type WatchDrainStream = Pin<Box<dyn Stream<Item = Result<v1::WatchDrainResponse, Status>> + Send>>;

    async fn start_drain(
        &self,
        request: Request<v1::StartDrainRequest>,
    ) -> Result<Response<v1::StartDrainResponse>, Status> {
        let request = request.into_inner();
        let overrides = PolicyOverrides::from_proto(&request.policy.unwrap_or_default())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let start = StartRequest {
            id: new_id(),
            request_id: request.request_id,
            scope: request.scope.unwrap_or_default().into(),
            overrides,
            of_a_stop: false,
        };
        let drain = self.engine.start_drain(start).await.map_err(gone)??;
        Ok(Response::new(v1::StartDrainResponse { drain: Some(drain) }))
    }

    async fn get_drain(
        &self,
        request: Request<v1::GetDrainRequest>,
    ) -> Result<Response<v1::GetDrainResponse>, Status> {
        let id = request.into_inner().id;
        let drain = self
            .engine
            .drain(id.clone())
            .await
            .map_err(gone)?
            .ok_or_else(|| unknown(&id))?;
        Ok(Response::new(v1::GetDrainResponse { drain: Some(drain) }))
    }

    async fn list_drains(
        &self,
        request: Request<v1::ListDrainsRequest>,
    ) -> Result<Response<v1::ListDrainsResponse>, Status> {
        let v1::ListDrainsRequest {
            page_size,
            page_token,
        } = request.into_inner();
        let after = match page_token.as_str() {
            "" => None,
            token => Some(token.parse().map_err(|_| {
                Status::invalid_argument("page_token: of no page; leave it empty for the first")
            })?),
        };
        let limit = self::page_size(page_size);
        let (drains, next) = self.engine.drains_after(after, limit).await.map_err(gone)?;
        Ok(Response::new(v1::ListDrainsResponse {
            drains,
            next_page_token: next.map(|next| next.to_string()).unwrap_or_default(),
        }))
    }

    async fn watch_drain(
        &self,
        request: Request<v1::WatchDrainRequest>,
    ) -> Result<Response<Self::WatchDrainStream>, Status> {
        let id = request.into_inner().id;
        let views = self
            .engine
            .watch_drain(id.clone())
            .await
            .map_err(gone)?
            .ok_or_else(|| unknown(&id))?;
        Ok(Response::new(Box::pin(follow(views, self.pace.clone()))))
    }

    async fn cancel_drain(
        &self,
        request: Request<v1::CancelDrainRequest>,
    ) -> Result<Response<v1::CancelDrainResponse>, Status> {
        let id = request.into_inner().id;
        let drain = self
            .engine
            .cancel(id.clone())
            .await
            .map_err(gone)?
            .ok_or_else(|| unknown(&id))?;
        Ok(Response::new(v1::CancelDrainResponse { drain: Some(drain) }))
    }

    async fn get_report(
        &self,
        request: Request<v1::GetReportRequest>,
    ) -> Result<Response<v1::GetReportResponse>, Status> {
        let id = request.into_inner().id;
        let report = self.engine.report_of(id.clone()).await.map_err(gone)?;
        Ok(Response::new(v1::GetReportResponse {
            report: Some(report.ok_or_else(|| unknown(&id))?),
        }))
    }

    async fn list_blockers(
        &self,
        request: Request<v1::ListBlockersRequest>,
    ) -> Result<Response<v1::ListBlockersResponse>, Status> {
        let v1::ListBlockersRequest { drain_id, limit } = request.into_inner();
        let limit = self::limit(limit)?;
        let drain = (!drain_id.is_empty()).then(|| drain_id.clone());
        let blockers = self.engine.blockers(drain, limit).await.map_err(gone)?;
        Ok(Response::new(v1::ListBlockersResponse {
            blockers: blockers.ok_or_else(|| unknown(&drain_id))?,
        }))
    }
}

/// How many requests are wanted; `0` leaves it to the control plane.
fn limit(wanted: u32) -> Result<u32, Status> {
    match wanted {
        0 => Ok(DEFAULT_LIMIT),
        1..=MAX_LIMIT => Ok(wanted),
        _ => Err(Status::invalid_argument(format!(
            "limit: {wanted} is more than {MAX_LIMIT}"
        ))),
    }
}

/// The drain as it stands, then as it changes, to its end.
fn follow(
    views: watch::Receiver<v1::Drain>,
    pace: Pace,
) -> impl Stream<Item = Result<v1::WatchDrainResponse, Status>> {
    let mut first = views;
    first.mark_changed();
    stream::unfold(Some((first, pace)), |following| async move {
        let (mut views, pace) = following?;
        if views.changed().await.is_err() {
            return Some((Err(gone(Gone)), None));
        }
        let bytes = views.borrow().encoded_len();
        tokio::select! {
            () = pace.turn(bytes) => {}
            // Its end waits for nothing. An error is seen below, by what was last known.
            _ = views.wait_for(has_ended) => {}
        }
        let drain = views.borrow_and_update().clone();
        let ended = has_ended(&drain);
        Some((
            Ok(v1::WatchDrainResponse { drain: Some(drain) }),
            (!ended).then_some((views, pace)),
        ))
    })
}
