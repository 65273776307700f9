//! What `ebb envoy-config` prints works in an Envoy that knew nothing of Ebb.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use ebb_e2e::{
    api::drain_of,
    bins::{self, EnvoyVersion},
    bootstrap::Bootstrap,
    client::http1,
    ebb::{Ebb, EbbOptions},
    envoy::{Envoy, EnvoyOptions},
    upstream::Upstream,
    wait,
    world::{folder, wait_attached},
};
use ebb_proto::v1::Phase;
use serde_json::{Value, json};
use tokio::process::Command;

/// An ordinary Envoy: one listener, one cluster.
fn plain(upstream: &Upstream) -> Value {
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "shop",
        "route_config": { "virtual_hosts": [{
            "name": "all", "domains": ["*"], "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "shop" } }],
        }] },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
        }],
    });
    let address =
        json!({ "socket_address": { "address": "127.0.0.1", "port_value": upstream.address().port() } });
    json!({
        "node": { "id": "shop-1", "cluster": "shop" },
        "static_resources": {
            "listeners": [{
                "name": "shop",
                "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } },
                "filter_chains": [{ "filters": [{ "name": "http", "typed_config": manager }] }],
            }],
            "clusters": [{
                "name": "shop",
                "type": "STATIC",
                "load_assignment": {
                    "cluster_name": "shop",
                    "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
                },
            }],
        },
    })
}

/// Puts the printed filters first, as it says, and the printed clusters beside the others.
fn paste(mut bootstrap: Value, printed: &str) -> Result<Value> {
    let printed: Value = serde_yaml_ng::from_str(printed).context("`ebb envoy-config` prints YAML")?;
    let list = |key: &str| -> Result<Vec<Value>> {
        printed
            .get(key)
            .and_then(Value::as_array)
            .cloned()
            .with_context(|| format!("no list `{key}`: {printed}"))
    };
    let filters = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters";
    for (place, items) in [
        (filters, list("http_filters")?),
        ("/static_resources/clusters", list("clusters")?),
    ] {
        let place = bootstrap
            .pointer_mut(place)
            .and_then(Value::as_array_mut)
            .context("no such place")?;
        place.splice(0..0, items);
    }
    Ok(bootstrap)
}

/// Prints the fragment for the listener `shop`, with further arguments.
async fn printed(ebb: &Ebb, more: &[&str]) -> Result<String> {
    let control_plane = format!("unix:{}", ebb.socket().display());
    let wasm = bins::wasm()?.display().to_string();
    let mut args = vec!["envoy-config", "--listener", "shop", "--wasm", &wasm];
    args.extend(["--control-plane", &control_plane]);
    args.extend(more);
    let printed = ebb.cli(&args).await?;
    assert_eq!(printed.code, Some(0), "{printed:?}");
    Ok(printed.stdout)
}

/// What Envoy says of a configuration, and whether it takes it.
async fn validated(version: EnvoyVersion, bootstrap: &Bootstrap, folder: &Path) -> Result<(bool, String)> {
    let file = folder.join("validated.json");
    bootstrap.write(&file)?;
    let mut envoy = Command::new(bins::envoy(version)?);
    envoy
        .args(["--mode", "validate", "--log-level", "warning", "-c"])
        .arg(&file);
    let output = wait::within(
        "Envoy judges",
        Duration::from_secs(60),
        envoy.kill_on_drop(true).output(),
    );
    let output = output.await??;
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ))
}

#[tokio::test]
async fn printed_filters_and_clusters_make_a_plain_envoy_drain() -> Result<()> {
    let versions: [(EnvoyVersion, &[&str]); 3] = [
        (EnvoyVersion::V1_40, &[]),
        (EnvoyVersion::V1_40, &["--failure-policy"]),
        (EnvoyVersion::V1_37, &["--envoy-version", "1.37"]),
    ];
    for (version, arguments) in versions {
        let folder = folder()?;
        let upstream = Upstream::start().await?;
        let ebb = Ebb::start(EbbOptions::in_folder(folder.path())).await?;
        let pasted = paste(plain(&upstream), &printed(&ebb, arguments).await?)?;
        let options = EnvoyOptions {
            version,
            ..EnvoyOptions::default()
        };
        let envoy = Envoy::start_as(&options, Bootstrap::from_value(pasted), folder.path()).await?;
        let mut client = ebb.client().await?;
        wait_attached(&mut client, "shop-1", 1).await?;
        let mut connection = http1::Connection::open(envoy.address("shop")?).await?;
        assert!(!connection.get("/").await?.says_close());
        let drain = client.start(drain_of(&["shop"])).await?;
        assert!(connection.get("/").await?.says_close());
        assert!(connection.closed_within(wait::PATIENCE).await);
        client
            .wait_for_phase(&drain.id, Phase::Drained, wait::PATIENCE)
            .await?;
    }
    Ok(())
}

/// A version of Envoy, what is said to `ebb envoy-config`, and of which fields that Envoy then warns; `None` = it refuses all of it.
type Case = (
    EnvoyVersion,
    &'static [&'static str],
    Option<&'static [&'static str]>,
);

/// An Envoy refuses what it does not know, and warns of what later ones will refuse.
#[tokio::test]
async fn every_version_is_printed_what_it_wants() -> Result<()> {
    let folder = folder()?;
    let upstream = Upstream::start().await?;
    let ebb = Ebb::start(EbbOptions::in_folder(folder.path())).await?;
    let (old, new) = (EnvoyVersion::V1_37, EnvoyVersion::V1_40);
    let cases: [Case; 6] = [
        (new, &[], Some(&["fail_open"])),
        (new, &["--failure-policy"], Some(&[])),
        (
            new,
            &["--envoy-version", "1.39.1"],
            Some(&["fail_open", "capability_restriction_config"]),
        ),
        (old, &[], None),
        (old, &["--envoy-version", "1.37"], Some(&["fail_open"])),
        (old, &["--envoy-version", "1.37", "--failure-policy"], Some(&[])),
    ];
    for (version, arguments, deprecated) in cases {
        let text = printed(&ebb, &[arguments, &["--upstreams"]].concat()).await?;
        let bootstrap = Bootstrap::from_value(paste(plain(&upstream), &text)?);
        let (taken, log) = validated(version, &bootstrap, folder.path()).await?;
        assert_eq!(taken, deprecated.is_some(), "{version:?} {arguments:?}: {log}");
        for field in ["fail_open", "capability_restriction_config"] {
            let warned = log.contains(&format!("PluginConfig.{field}"));
            let expected = deprecated.is_some_and(|fields| fields.contains(&field));
            assert_eq!(warned, expected, "{version:?} {arguments:?}, {field}: {log}");
        }
    }
    Ok(())
}
