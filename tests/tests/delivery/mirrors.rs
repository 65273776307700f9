//! What Envoy still does when its clients have their answers: mirrored requests that wait for their turn.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    bins::EnvoyVersion,
    client::http1,
    gateway::{Gateway, setup::Setup},
    upstream::Upstream,
    world::folder,
};
use serde_json::{Value, json};

use crate::world::POLICY_ENGINE;

/// How many are mirrored, one after another.
const REQUESTS: u64 = 6;

#[tokio::test]
async fn every_mirrored_request_arrives() -> Result<()> {
    let folder = folder()?;
    let (upstream, mirror) = (Upstream::start().await?, Upstream::start().await?);
    let mut setup = Setup::new(
        folder.path(),
        EnvoyVersion::V1_40,
        upstream.address(),
        Path::new(POLICY_ENGINE),
    )?;
    setup.set(&["drain", "quiet_period"], "50ms")?;
    setup.envoy.add_cluster("mirror", mirror.address())?;
    let clusters = setup.envoy.value_mut().pointer_mut("/static_resources/clusters");
    let last = clusters
        .and_then(Value::as_array_mut)
        .and_then(|all| all.last_mut());
    let one = json!({ "thresholds": [{ "max_connections": 1 }] });
    last.context("no clusters")?["circuit_breakers"] = one;
    let manager = setup.envoy.connection_manager_mut("ingress")?;
    let route = manager.pointer_mut("/route_config/virtual_hosts/0/routes/0/route");
    route.context("no route")?["request_mirror_policies"] = json!([{ "cluster": "mirror" }]);
    let mut gateway = Gateway::start(setup).await?;
    let address = gateway.setup().ingress();
    // All at once, so that the clients have their answers while most of the mirrored requests wait.
    let requests = (0..REQUESTS).map(|_| async move {
        let mut connection = http1::Connection::open(address).await?;
        connection.get("/delay/200").await
    });
    for answer in futures::future::join_all(requests).await {
        ensure!(answer?.status == 200);
    }
    gateway.stop().await?;
    ensure!(
        mirror.requests_of("delay") == REQUESTS,
        "{} arrived",
        mirror.requests_of("delay")
    );
    Ok(())
}
