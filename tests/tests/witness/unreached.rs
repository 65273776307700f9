//! An admin endpoint that is configured and has not been reached yet is unknown, not absent.

use anyhow::Result;
use ebb_e2e::{
    ebb::{Ebb, EbbOptions},
    envoy::{Envoy, EnvoyOptions},
    upstream::Upstream,
    world::{folder, wait_attached},
};
use serde_json::json;

use super::{Waiting, answered, hold, only_drain};

#[tokio::test]
async fn a_whole_node_waits_for_an_endpoint_that_comes_up_after_the_control_plane() -> Result<()> {
    let folder = folder()?;
    let mut options = EbbOptions::in_folder(folder.path());
    let admin = folder.path().join("admin.sock");
    options.admins.push(format!("unix:{}", admin.display()));
    let ebb = Ebb::start(options).await?;
    let upstream = Upstream::start().await?;
    let options = EnvoyOptions {
        edit: |bootstrap| {
            // No filter counts what goes here.
            let without = json!({
                "match": { "path": "/hold" },
                "route": { "cluster": "upstream" },
                "typed_per_filter_config": {
                    "ebb": {
                        "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig",
                        "disabled": true,
                    },
                },
            });
            bootstrap.insert_route("ingress", without)
        },
        ..EnvoyOptions::default()
    };
    let envoy = Envoy::start(&options, folder.path(), ebb.socket(), upstream.address()).await?;
    let mut client = ebb.client().await?;
    wait_attached(&mut client, &options.node_id, 1).await?;
    let held = hold(&upstream, envoy.address("ingress")?, 1).await?;
    let drain = Waiting::on(ebb.cli_start(&["drain", "--wait"])?);
    only_drain(&client).await?;
    drain
        .goes_on(&upstream, "its endpoint may just have been found")
        .await;
    assert_eq!(envoy.downstream_rq_active("ingress").await?, 1);
    upstream.release_all();
    answered(held).await?;
    assert_eq!(drain.ended().await?.code, Some(0));
    Ok(())
}

#[tokio::test]
async fn one_that_never_answers_is_named_and_waited_for_until_the_deadline() -> Result<()> {
    let folder = folder()?;
    let mut options = EbbOptions::in_folder(folder.path());
    options
        .admins
        .push(format!("unix:{}/nobody.sock", folder.path().display()));
    let ebb = Ebb::start(options).await?;
    let upstream = Upstream::start().await?;
    let options = EnvoyOptions::default();
    let _envoy = Envoy::start(&options, folder.path(), ebb.socket(), upstream.address()).await?;
    wait_attached(&mut ebb.client().await?, &options.node_id, 1).await?;
    let ended = ebb.cli(&["drain", "--wait", "--timeout", "1s"]).await?;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.stdout.contains("nobody.sock does not answer"), "{ended:?}");
    Ok(())
}
