//! Other filters before Ebb's, against the documentation: what Envoy then keeps from them, and what a drain makes of it.

use anyhow::{Context as _, Result};
use ebb_e2e::{
    api::drain_of,
    bins::EnvoyVersion,
    client::http1,
    envoy::EnvoyOptions,
    on_both_envoys, wait,
    world::{World, in_flight},
};
use ebb_proto::v1::Phase;

use crate::{Others, Site, local_replies, use_up_the_limit};

on_both_envoys!(
    what_an_earlier_filter_holds_or_answers_never_passes_the_filter,
    swapped_the_mark_reaches_the_client_and_nothing_closes
);

async fn what_an_earlier_filter_holds_or_answers_never_passes_the_filter(
    version: EnvoyVersion,
) -> Result<()> {
    let site = Site::start(version, Others::Before).await?;
    let mut client = site.world.client().await?;
    use_up_the_limit(&site).await?;
    let held = site.hold().await?;
    let nodes = client.nodes().await?;
    let counted = nodes.first().and_then(|node| in_flight(node, "ingress"));
    assert_eq!(counted, Some(0), "{nodes:?}");
    assert_eq!(site.world.envoy.downstream_rq_active("ingress").await?, 1);
    site.authz.release_all();
    assert_eq!(held.await??.status, 200);

    let id = client.start(drain_of(&["ingress"])).await?.id;
    client.wait_for_phase(&id, Phase::Drained, wait::PATIENCE).await?;
    assert!(site.connect().await?.get("/").await?.says_close());
    for (what, reply) in local_replies(&site).await? {
        assert!(!reply.says_close(), "{what}: {reply:?}");
    }
    Ok(())
}

async fn swapped_the_mark_reaches_the_client_and_nothing_closes(version: EnvoyVersion) -> Result<()> {
    let options = EnvoyOptions {
        version,
        edit: |bootstrap| {
            bootstrap.http_filters_mut("ingress")?.swap(0, 1);
            Ok(())
        },
        ..EnvoyOptions::default()
    };
    let world = World::start(options).await?;
    let mut client = world.client().await?;
    let id = client.start(drain_of(&["ingress"])).await?.id;
    client.wait_for_phase(&id, Phase::Drained, wait::PATIENCE).await?;
    let mut connection = http1::Connection::open(world.ingress()?).await?;
    let response = connection.get("/").await?;
    let mark = response.headers.get("x-ebb-close");
    let mark = mark.context("the mark is taken off")?;
    assert_eq!(mark, "1");
    assert!(!response.says_close(), "{response:?}");
    assert!(!connection.get("/").await?.says_close(), "it is kept open");
    Ok(())
}

#[tokio::test]
async fn listener_drain_waits_for_envoys_own_count_and_says_who_has_to_stand_first() -> Result<()> {
    let site = Site::start_with_admin(Others::Before).await?;
    let drain = site.waits_and_drains(&["ingress"]).await?;
    let says = |warning: &&String| warning.contains("have to stand first");
    let warning = drain.warnings.iter().find(says);
    let warning = warning.with_context(|| format!("no word on the order: {drain:?}"))?;
    assert!(warning.contains("the Envoy of edge-1"), "{warning}");
    Ok(())
}

#[tokio::test]
async fn whole_node_drain_waits_for_envoys_own_count() -> Result<()> {
    let site = Site::start_with_admin(Others::Before).await?;
    site.waits_and_drains(&[]).await?;
    Ok(())
}
