//! Calls to the control plane of a world.

use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, runtime::Runtime};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::world::{World, eventually};

/// A connection, and what drives it.
pub(crate) struct Calls {
    pub(crate) runtime: Runtime,
    pub(crate) channel: Channel,
}

impl Calls {
    /// Waits until it is connected.
    pub(crate) fn to(world: &World) -> Self {
        let socket = world.path("ebb.sock");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        let channel = eventually("the control plane accepts", || {
            runtime.block_on(connect(socket.clone())).ok()
        });
        Self { runtime, channel }
    }

    /// What grpc.health.v1 says of a service.
    pub(crate) fn health(&self, service: &str) -> ServingStatus {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let mut client = HealthClient::new(self.channel.clone());
        let answer = self.runtime.block_on(client.check(request)).expect("an answer");
        answer.into_inner().status()
    }

    /// Waits until grpc.health.v1 says so of everything.
    pub(crate) fn until_health(&self, wanted: ServingStatus) {
        eventually(&format!("{wanted:?}"), || {
            ["", "ebb.v1.FilterService", "ebb.v1.DrainService"]
                .iter()
                .all(|service| self.health(service) == wanted)
                .then_some(())
        });
    }
}

async fn connect(socket: PathBuf) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
}
