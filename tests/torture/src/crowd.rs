//! Many at once who are of no use to the control plane: they connect and say nothing, or watch and do not read.

use std::time::Duration;

use anyhow::Result;
use ebb_proto::v1::{
    WatchDrainRequest, WatchNodesRequest, drain_service_client::DrainServiceClient,
    fleet_service_client::FleetServiceClient,
};
use tokio::net::UnixStream;

use crate::world::World;

/// Connects so often, and says nothing for that long.
pub(crate) async fn idle(world: &World, number: usize, length: Duration) -> Result<()> {
    let socket = world.control.socket();
    let mut connections = Vec::new();
    for _ in 0..number {
        // It may be away meanwhile.
        connections.extend(UnixStream::connect(&socket).await.ok());
    }
    tokio::time::sleep(length).await;
    drop(connections);
    Ok(())
}

/// Watches the fleet and every drain, so many times, and reads nothing for that long.
pub(crate) async fn watchers(world: &World, number: usize, length: Duration) -> Result<()> {
    let mut client = world.control.client().await?;
    let channel = client.channel();
    let (mut fleet, mut drains) = (
        FleetServiceClient::new(channel.clone()),
        DrainServiceClient::new(channel),
    );
    let ids: Vec<String> = client.drains().await?.into_iter().map(|drain| drain.id).collect();
    let mut streams = Vec::new();
    let mut fleets = Vec::new();
    for number in 0..number {
        match ids.get(number % (ids.len() + 1)) {
            Some(id) => {
                let request = WatchDrainRequest { id: id.clone() };
                streams.extend(drains.watch_drain(request).await.ok());
            }
            None => fleets.extend(fleet.watch_nodes(WatchNodesRequest {}).await.ok()),
        }
    }
    tokio::time::sleep(length).await;
    drop((streams, fleets));
    Ok(())
}
