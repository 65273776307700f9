//! What `ebb envoy-config` prints works in an Envoy that knew nothing of Ebb.

use anyhow::{Context as _, Result};
use ebb_e2e::{
    api::drain_of,
    bins,
    bootstrap::Bootstrap,
    client::http1,
    ebb::{Ebb, EbbOptions},
    envoy::Envoy,
    upstream::Upstream,
    wait,
    world::{folder, wait_attached},
};
use ebb_proto::v1::Phase;
use serde_json::{Value, json};

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

#[tokio::test]
async fn printed_filters_and_clusters_make_a_plain_envoy_drain() -> Result<()> {
    let folder = folder()?;
    let upstream = Upstream::start().await?;
    let ebb = Ebb::start(EbbOptions::in_folder(folder.path())).await?;
    let control_plane = format!("unix:{}", ebb.socket().display());
    let wasm = bins::wasm()?.display().to_string();
    let args = [
        "envoy-config",
        "--listener",
        "shop",
        "--control-plane",
        &control_plane,
        "--wasm",
        &wasm,
    ];
    let printed = ebb.cli(&args).await?;
    assert_eq!(printed.code, Some(0), "{printed:?}");

    let bootstrap = Bootstrap::from_value(paste(plain(&upstream), &printed.stdout)?);
    let envoy = Envoy::start_from(bootstrap, folder.path()).await?;
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
    Ok(())
}
