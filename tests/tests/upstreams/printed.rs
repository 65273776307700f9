//! What `ebb envoy-config --upstreams` prints counts in an Envoy that knew nothing of Ebb.

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    bins, bootstrap::Bootstrap, cli, client::http1, envoy::Envoy, upstream::Upstream, vms::Vms, world::folder,
};
use serde_json::{Value, json};

/// One listener and one cluster, with what was printed in its places; `filters`: those for clusters too.
fn bootstrap(upstream: &Upstream, printed: &Value, filters: bool) -> Result<Value> {
    let take = |key: &str| {
        printed
            .get(key)
            .cloned()
            .with_context(|| format!("no `{key}`: {printed}"))
    };
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
    });
    let mut http_filters = take("http_filters")?;
    http_filters.as_array_mut().context("no list")?.push(router);
    let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": "shop" } });
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "shop",
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] },
        "http_filters": http_filters,
    });
    let address =
        json!({ "socket_address": { "address": "127.0.0.1", "port_value": upstream.address().port() } });
    let mut cluster = json!({
        "name": "shop",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "shop",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
        },
    });
    if filters {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http_protocol_options": {} },
                "http_filters": take("upstream_http_filters")?,
            },
        });
    }
    let mut clusters = take("clusters")?;
    clusters.as_array_mut().context("no list")?.push(cluster);
    Ok(json!({
        "node": { "id": "shop-1", "cluster": "shop" },
        "static_resources": {
            "listeners": [{
                "name": "shop",
                "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } },
                "filter_chains": [{ "filters": [{ "name": "http", "typed_config": manager }] }],
            }],
            "clusters": clusters,
        },
    }))
}

#[tokio::test]
async fn printed_filters_count_by_endpoint() -> Result<()> {
    for in_cluster in [false, true] {
        let folder = folder()?;
        let upstream = Upstream::start().await?;
        let socket = folder.path().join("ebb.sock");
        let mut vms = Vms::listen(&socket)?;
        let control_plane = format!("unix:{}", socket.display());
        let wasm = bins::wasm()?.display().to_string();
        let args = [
            "envoy-config",
            "--listener",
            "shop",
            "--control-plane",
            &control_plane,
            "--wasm",
            &wasm,
            "--upstreams",
        ];
        let printed = cli::start(&socket, &args)?.output().await?;
        ensure!(printed.code == Some(0), "{printed:?}");
        let printed: Value = serde_yaml_ng::from_str(&printed.stdout).context("it prints YAML")?;
        let bootstrap = Bootstrap::from_value(bootstrap(&upstream, &printed, in_cluster)?);
        let envoy = Envoy::start_from(bootstrap, folder.path()).await?;
        vms.attach(1).await?;
        let mut connection = http1::Connection::open(envoy.address("shop")?).await?;
        connection.send("GET /hold HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        upstream.wait_held(1).await?;
        // In a cluster an endpoint is known from the first byte on, in a listener from response headers on.
        let early = vms.upstream(&upstream.address().to_string()).await?;
        assert_eq!(early, in_cluster.then_some((1, 1)));
        upstream.release_all();
        assert_eq!(connection.response().await?.status, 200);
        vms.wait_upstream(&upstream.address().to_string(), 0).await?;
        assert_eq!(vms.upstream(&upstream.address().to_string()).await?, Some((0, 1)));
    }
    Ok(())
}
