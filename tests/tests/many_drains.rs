//! Many drains at once, over the same listeners.

use std::time::Duration;

use anyhow::Result;
use ebb_e2e::{
    api::{drain_of, proto},
    client::http1,
    envoy::EnvoyOptions,
    load::{Load, Plan, Protocol},
    wait,
    world::World,
};
use ebb_proto::v1::{Phase, Policy, StartDrainRequest};
use futures::future::try_join_all;

const DRAINS: usize = 64;
const LISTENERS: [&str; 2] = ["ingress", "internal"];
/// What the drains cover, in turn; none = the whole node.
const SCOPES: [&[&str]; 4] = [&["ingress"], &["internal"], &["ingress", "internal"], &[]];
/// Many drains on a slow machine: far away.
const TIMEOUT: Duration = Duration::from_secs(300);

fn covers(scope: &[&str], listener: &str) -> bool {
    scope.is_empty() || scope.contains(&listener)
}

async fn closes(world: &World, listener: &str) -> Result<bool> {
    let mut connection = http1::Connection::open(world.envoy.address(listener)?).await?;
    Ok(connection.get("/").await?.says_close())
}

#[tokio::test]
async fn sixty_four_drains_that_overlap_each_end_drained_and_a_listener_closes_while_any_covers_it()
-> Result<()> {
    let options = EnvoyOptions {
        concurrency: 2,
        ..EnvoyOptions::default()
    };
    let world = World::start(options).await?;
    let client = world.client().await?;
    let mut plans = Vec::new();
    let mut held = Vec::new();
    for listener in LISTENERS {
        let address = world.envoy.address(listener)?;
        for protocol in [Protocol::Http1, Protocol::Http2] {
            plans.push(Plan {
                address,
                protocol,
                clients: 2,
                interval: Duration::from_millis(20),
                path: "/".to_owned(),
            });
        }
        held.push(tokio::spawn(async move {
            http1::Connection::open(address).await?.get("/hold").await
        }));
    }
    world.upstream.wait_held(LISTENERS.len()).await?;
    let load = Load::start(&plans);
    load.wait_for_requests(50).await?;

    let starting = (0..DRAINS).map(|number| {
        let (mut client, scope) = (client.clone(), SCOPES[number % SCOPES.len()]);
        let policy = Policy {
            timeout: Some(proto(TIMEOUT)),
            ..Policy::default()
        };
        async move {
            let request = StartDrainRequest {
                policy: Some(policy),
                ..drain_of(scope)
            };
            Ok::<_, tonic::Status>((client.start(request).await?.id, scope))
        }
    });
    let mut drains = try_join_all(starting).await?;
    let running = client.clone().drains().await?;
    assert_eq!(running.len(), DRAINS);
    for drain in &running {
        assert!(
            matches!(drain.phase(), Phase::Draining),
            "held up by a request: {drain:?}"
        );
    }
    for listener in LISTENERS {
        assert!(closes(&world, listener).await?, "{listener} closes");
    }
    load.wait_for_requests(50).await?;
    let tally = load.stop().await;
    assert_eq!(tally.failed(), 0, "{tally:?}");
    world.upstream.release_all();
    for held in held {
        let response = held.await??;
        assert!(response.status == 200 && response.says_close(), "{response:?}");
    }

    let ending = drains.iter().map(|(id, scope)| {
        let mut client = client.clone();
        async move {
            let drain = client
                .wait_for_phase(id, Phase::Drained, 2 * wait::PATIENCE)
                .await?;
            let told: Vec<_> = drain
                .listeners
                .iter()
                .map(|l| (l.name.as_str(), l.in_flight))
                .collect();
            let covered: Vec<_> = LISTENERS
                .into_iter()
                .filter(|name| covers(scope, name))
                .map(|name| (name, 0))
                .collect();
            assert_eq!(told, covered, "{drain:?}");
            assert!(drain.unknown_reporters.is_empty() && drain.holding, "{drain:?}");
            Ok::<_, anyhow::Error>(())
        }
    });
    try_join_all(ending).await?;

    fastrand::shuffle(&mut drains);
    while let Some((id, _)) = drains.pop() {
        client.clone().cancel(&id).await?;
        for listener in LISTENERS {
            if drains.iter().any(|(_, scope)| covers(scope, listener)) {
                assert!(
                    closes(&world, listener).await?,
                    "{} drains are left: {drains:?}",
                    drains.len()
                );
            } else {
                wait::until(format!("{listener} serves"), wait::PATIENCE, || async {
                    Ok(!closes(&world, listener).await?)
                })
                .await?;
            }
        }
    }
    for drain in client.clone().drains().await? {
        assert!(
            drain.phase() == Phase::Drained && !drain.holding,
            "its outcome stays: {drain:?}"
        );
    }
    Ok(())
}
