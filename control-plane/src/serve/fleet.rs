//! `FleetService`.

use std::pin::Pin;

use ebb_proto::v1::{self, fleet_service_server::FleetService};
use futures::{Stream, stream};
use prost::Message as _;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::{gone, pace::Pace, page_size};
use crate::{
    core::{leaving::ForgetError, restoring::RestoreError},
    engine::{self, Engine, Gone, NotRestored, PAGE},
};

/// The service.
#[derive(Debug)]
pub(super) struct Nodes {
    engine: Engine,
    pace: Pace,
}

impl Nodes {
    pub(super) fn new(engine: Engine, pace: Pace) -> Self {
        Self { engine, pace }
    }
}

#[tonic::async_trait]
impl FleetService for Nodes {
    type WatchNodesStream = Pin<Box<dyn Stream<Item = Result<v1::WatchNodesResponse, Status>> + Send>>;

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let v1::ListNodesRequest {
            page_size,
            page_token,
        } = request.into_inner();
        // The last node of the page before.
        let after = (!page_token.is_empty()).then_some(page_token);
        let limit = self::page_size(page_size);
        let (nodes, more) = self.engine.nodes_after(after, limit).await.map_err(gone)?;
        let last = nodes.last().filter(|_| more).map(|node| node.id.clone());
        Ok(Response::new(v1::ListNodesResponse {
            nodes,
            next_page_token: last.unwrap_or_default(),
        }))
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
        let views = self.engine.watch_nodes().await.map_err(gone)?;
        let following = Following {
            views,
            pace: self.pace.clone(),
            left: Vec::new(),
        };
        let follow = stream::unfold(Some(following), |following| async move {
            let mut following = following?;
            match following.next().await {
                Ok(message) => Some((Ok(message), Some(following))),
                Err(gone) => Some((Err(super::gone(gone)), None)),
            }
        });
        Ok(Response::new(Box::pin(follow)))
    }
}

/// Somebody who watches all nodes.
#[derive(Debug)]
struct Following {
    views: watch::Receiver<engine::Nodes>,
    pace: Pace,
    /// Messages of a state that was begun, the last one first.
    left: Vec<v1::WatchNodesResponse>,
}

impl Following {
    async fn next(&mut self) -> Result<v1::WatchNodesResponse, Gone> {
        if self.left.is_empty() {
            self.views.changed().await.map_err(|_| Gone)?;
            let bytes = self.views.borrow().iter().map(v1::Node::encoded_len).sum();
            self.pace.turn(bytes).await;
            // It may be another one by now.
            let nodes = self.views.borrow_and_update().clone();
            self.left = messages(&nodes);
        }
        Ok(self.left.pop().unwrap_or_default())
    }
}

/// Messages that each fit into a page; the last one first.
fn messages(nodes: &[v1::Node]) -> Vec<v1::WatchNodesResponse> {
    let mut messages: Vec<v1::WatchNodesResponse> = Vec::new();
    let mut takes = 0_usize;
    for node in nodes {
        takes = takes.saturating_add(node.encoded_len());
        match messages.last_mut() {
            Some(message) if takes <= PAGE => message.nodes.push(node.clone()),
            last => {
                if let Some(message) = last {
                    message.more = true;
                }
                takes = node.encoded_len();
                messages.push(v1::WatchNodesResponse {
                    nodes: vec![node.clone()],
                    more: false,
                });
            }
        }
    }
    messages.reverse();
    messages
}
