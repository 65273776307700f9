//! `FleetService`.

use std::pin::Pin;

use ebb_proto::v1::{self, fleet_service_server::FleetService};
use futures::{Stream, stream};
use tonic::{Request, Response, Status};

use super::gone;
use crate::{
    core::{leaving::ForgetError, restoring::RestoreError},
    engine::{Engine, Gone, NotRestored},
};

/// The service.
#[derive(Debug)]
pub(super) struct Nodes {
    engine: Engine,
}

impl Nodes {
    pub(super) fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl FleetService for Nodes {
    type WatchNodesStream = Pin<Box<dyn Stream<Item = Result<v1::WatchNodesResponse, Status>> + Send>>;

    async fn list_nodes(
        &self,
        _request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let nodes = self.engine.nodes().await.map_err(gone)?;
        Ok(Response::new(v1::ListNodesResponse { nodes }))
    }

    async fn forget_node(
        &self,
        request: Request<v1::ForgetNodeRequest>,
    ) -> Result<Response<v1::ForgetNodeResponse>, Status> {
        let forgotten = self
            .engine
            .forget_node(request.into_inner().node)
            .await
            .map_err(gone)?;
        let reporters = forgotten.map_err(|error| match error {
            ForgetError::Unknown(_) => Status::not_found(error.to_string()),
            ForgetError::Attached(_) => Status::failed_precondition(error.to_string()),
        })?;
        let reporters = u32::try_from(reporters).unwrap_or(u32::MAX);
        Ok(Response::new(v1::ForgetNodeResponse { reporters }))
    }

    async fn restore_node(
        &self,
        request: Request<v1::RestoreNodeRequest>,
    ) -> Result<Response<v1::RestoreNodeResponse>, Status> {
        let restored = self
            .engine
            .restore_node(request.into_inner().node)
            .await
            .map_err(gone)?;
        let envoys = restored.map_err(|error| match &error {
            NotRestored::Refused(RestoreError::NoAdmin(_)) => Status::not_found(error.to_string()),
            NotRestored::Refused(RestoreError::Held(..)) => Status::failed_precondition(error.to_string()),
            NotRestored::Failed(_) => Status::unavailable(error.to_string()),
        })?;
        let envoys = u32::try_from(envoys).unwrap_or(u32::MAX);
        Ok(Response::new(v1::RestoreNodeResponse { envoys }))
    }

    async fn watch_nodes(
        &self,
        _request: Request<v1::WatchNodesRequest>,
    ) -> Result<Response<Self::WatchNodesStream>, Status> {
        let mut views = self.engine.watch_nodes().await.map_err(gone)?;
        views.mark_changed();
        let follow = stream::unfold(Some(views), |views| async move {
            let mut views = views?;
            if views.changed().await.is_err() {
                return Some((Err(gone(Gone)), None));
            }
            let nodes = views.borrow_and_update().clone();
            Some((Ok(v1::WatchNodesResponse { nodes }), Some(views)))
        });
        Ok(Response::new(Box::pin(follow)))
    }
}
