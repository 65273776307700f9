//! Ebb's filters before all others, as documented.

use anyhow::Result;
use ebb_e2e::{api::drain_of, bins::EnvoyVersion, on_both_envoys, wait};
use ebb_proto::v1::Phase;

use crate::{Others, Site, local_replies, use_up_the_limit};

on_both_envoys!(
    drain_waits_for_what_ext_authz_holds,
    what_later_filters_answer_says_close
);

async fn drain_waits_for_what_ext_authz_holds(version: EnvoyVersion) -> Result<()> {
    let site = Site::start(version, Others::After).await?;
    let drain = site.waits_and_drains(&["ingress"]).await?;
    assert_eq!(drain.warnings, Vec::<String>::new(), "{drain:?}");
    Ok(())
}

async fn what_later_filters_answer_says_close(version: EnvoyVersion) -> Result<()> {
    let site = Site::start(version, Others::After).await?;
    use_up_the_limit(&site).await?;
    for (what, reply) in local_replies(&site).await? {
        assert!(!reply.says_close(), "{what}: nothing drains: {reply:?}");
    }
    let mut client = site.world.client().await?;
    let id = client.start(drain_of(&["ingress"])).await?.id;
    client.wait_for_phase(&id, Phase::Drained, wait::PATIENCE).await?;
    for (what, reply) in local_replies(&site).await? {
        assert!(reply.says_close(), "{what}: {reply:?}");
        assert!(!reply.headers.contains_key("x-ebb-close"), "{what}: {reply:?}");
    }
    Ok(())
}
