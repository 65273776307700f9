//! A drain towards an endpoint: it waits for what is in flight towards that one, and closes nothing.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use ebb_e2e::{
    api::{drain_of, proto},
    bins::EnvoyVersion,
    client::http1,
    ebb::{Ebb, EbbOptions},
    envoy::{Envoy, EnvoyOptions},
    on_both_envoys,
    upstream::Upstream,
    wait,
    world::{folder, wait_attached},
};
use ebb_proto::v1::{Phase, Policy, Scope};
use rustix::process::Signal;

use crate::world::{Mode, count};

on_both_envoys!(
    it_ends_with_the_last_request_towards_that_endpoint,
    an_upload_that_has_not_been_answered_holds_it_open,
    an_envoy_that_is_told_to_stop_halfway_has_cut_what_went_there,
);

struct World {
    envoy: Envoy,
    ebb: Ebb,
    a: Upstream,
    b: Upstream,
    _folder: tempfile::TempDir,
}

impl World {
    async fn start(version: EnvoyVersion, mode: Mode) -> Result<Self> {
        let folder = folder()?;
        let (a, b) = (Upstream::start().await?, Upstream::start().await?);
        let ebb = Ebb::start(EbbOptions::in_folder(folder.path())).await?;
        let options = EnvoyOptions {
            version,
            ..EnvoyOptions::default()
        };
        let mut bootstrap = options.bootstrap(ebb.socket(), a.address())?;
        count(&mut bootstrap, mode, b.address(), b.address())?;
        let envoy = Envoy::start_as(&options, bootstrap, folder.path()).await?;
        let mut client = ebb.client().await?;
        wait_attached(&mut client, &options.node_id, options.concurrency).await?;
        let world = Self {
            envoy,
            ebb,
            a,
            b,
            _folder: folder,
        };
        // A drain is refused towards an endpoint of which nobody has heard. To list the nodes asks the filters.
        let mut first = world.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        assert_eq!(first.response().await?.status, 200);
        client.nodes().await?;
        Ok(world)
    }

    async fn send(&self, head: &str) -> Result<http1::Connection> {
        let mut connection = http1::Connection::open(self.envoy.address("ingress")?).await?;
        connection.send(head).await?;
        Ok(connection)
    }
}

/// Every request towards `address`, on every node.
fn towards(address: SocketAddr) -> ebb_proto::v1::StartDrainRequest {
    let mut request = drain_of(&[]);
    request.scope = Some(Scope {
        upstreams: vec![address.to_string()],
        ..Scope::default()
    });
    request.policy = Some(Policy {
        timeout: Some(proto(4 * wait::PATIENCE)),
        ..Policy::default()
    });
    request
}

async fn it_ends_with_the_last_request_towards_that_endpoint(version: EnvoyVersion) -> Result<()> {
    for mode in [Mode::Listeners, Mode::Clusters] {
        let world = World::start(version, mode).await?;
        let mut client = world.ebb.client().await?;
        let mut towards_a = world.send("GET /hold/after HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        let mut towards_b = world
            .send("GET /hold/after HTTP/1.1\r\nhost: a\r\nto: b\r\n\r\n")
            .await?;
        world.a.wait_held(1).await?;
        world.b.wait_held(1).await?;
        let drain = client.start(towards(world.a.address())).await?;
        let waiting = client.wait_for_in_flight(&drain.id, 1).await?;
        assert_eq!(waiting.phase(), Phase::Draining, "{mode:?}");

        world.a.release_all();
        let response = towards_a.response().await?;
        ensure!(!response.says_close(), "{mode:?}: {:?}", response.headers);
        client
            .wait_for_phase(&drain.id, Phase::Drained, wait::PATIENCE)
            .await?;
        assert_eq!(
            world.b.held(),
            1,
            "{mode:?}: the other endpoint was not waited for"
        );
        world.b.release_all();
        let response = towards_b.response().await?;
        ensure!(!response.says_close(), "{mode:?}: {:?}", response.headers);
    }
    Ok(())
}

async fn an_upload_that_has_not_been_answered_holds_it_open(version: EnvoyVersion) -> Result<()> {
    for mode in [Mode::Listeners, Mode::Clusters] {
        let world = World::start(version, mode).await?;
        let mut client = world.ebb.client().await?;
        let mut upload = world
            .send("POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n1")
            .await?;
        world.a.wait_held(1).await?;
        let drain = client.start(towards(world.a.address())).await?;
        client.wait_for_in_flight(&drain.id, 1).await?;
        // Longer than the quiet period.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let still = client.drain(&drain.id).await?;
        assert_eq!((still.phase(), still.in_flight), (Phase::Draining, 1), "{mode:?}");
        upload.send("2").await?;
        assert_eq!(upload.response().await?.status, 200);
        client
            .wait_for_phase(&drain.id, Phase::Drained, wait::PATIENCE)
            .await?;
    }
    Ok(())
}

async fn an_envoy_that_is_told_to_stop_halfway_has_cut_what_went_there(version: EnvoyVersion) -> Result<()> {
    for mode in [Mode::Listeners, Mode::Clusters] {
        for path in ["/hold", "/hold/after"] {
            let mut world = World::start(version, mode).await?;
            let mut client = world.ebb.client().await?;
            let mut held = world
                .send(&format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"))
                .await?;
            world.a.wait_held(1).await?;
            let drain = client.start(towards(world.a.address())).await?;
            client.wait_for_in_flight(&drain.id, 1).await?;
            world.envoy.process().signal(Signal::TERM)?;
            ensure!(held.response().await.is_err(), "its client lost it");
            let ended = client
                .wait_for_phase(&drain.id, Phase::Cut, wait::PATIENCE)
                .await?;
            assert_eq!(
                (ended.cut, ended.in_flight),
                (1, 0),
                "{mode:?}, {path}: {ended:?}"
            );
        }
    }
    Ok(())
}
