//! Where Ebb's filters stand among the others: first, as documented, and what holds where they do not.

mod earlier;
mod first;

use std::time::Duration;

use anyhow::Result;
use ebb_e2e::{
    api::drain_of,
    bins::EnvoyVersion,
    bootstrap::Bootstrap,
    client::{Failure, Response, http1},
    ebb::{Ebb, EbbOptions},
    envoy::{Envoy, EnvoyOptions},
    upstream::Upstream,
    wait,
    world::{World, folder, wait_attached},
};
use ebb_proto::v1::{Drain, Phase};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// How long a drain is looked at that must not end.
const LOOK: Duration = Duration::from_secs(2);

/// Where the other filters of `ingress` stand.
#[derive(Clone, Copy, Debug)]
enum Others {
    /// After Ebb's two, as documented.
    After,
    /// Before Ebb's two.
    Before,
}

/// An Envoy whose `ingress` has other filters beside Ebb's: CORS, a local rate limit, and ext_authz.
#[derive(Debug)]
struct Site {
    world: World,
    /// Whom ext_authz asks, with the path of the request: it holds `/hold`, and refuses `/status/403`.
    authz: Upstream,
}

impl Site {
    async fn start(version: EnvoyVersion, others: Others) -> Result<Self> {
        Self::start_with(version, others, false).await
    }

    /// With Envoy's admin endpoint known to the control plane.
    async fn start_with_admin(others: Others) -> Result<Self> {
        let site = Self::start_with(EnvoyVersion::V1_40, others, true).await?;
        wait::until("the admin endpoint is found", wait::PATIENCE, || async {
            Ok(site.world.ebb.log().contains("admin endpoint found"))
        })
        .await?;
        Ok(site)
    }

    async fn start_with(version: EnvoyVersion, others: Others, admin: bool) -> Result<Self> {
        let folder = folder()?;
        let (upstream, authz) = (Upstream::start().await?, Upstream::start().await?);
        let mut ebb_options = EbbOptions::in_folder(folder.path());
        if admin {
            let socket = folder.path().join("admin.sock");
            ebb_options.admins.push(format!("unix:{}", socket.display()));
        }
        let ebb = Ebb::start(ebb_options).await?;
        let options = EnvoyOptions {
            version,
            ..EnvoyOptions::default()
        };
        let mut bootstrap = options.bootstrap(ebb.socket(), upstream.address())?;
        add_others(&mut bootstrap, others, &authz)?;
        let envoy = Envoy::start_as(&options, bootstrap, folder.path()).await?;
        wait_attached(&mut ebb.client().await?, &options.node_id, options.concurrency).await?;
        let world = World {
            envoy,
            ebb,
            upstream,
            folder,
        };
        Ok(Self { world, authz })
    }

    async fn connect(&self) -> Result<http1::Connection> {
        Ok(http1::Connection::open(self.world.ingress()?).await?)
    }

    /// A request that ext_authz holds.
    async fn hold(&self) -> Result<JoinHandle<Result<Response, Failure>>> {
        let mut connection = self.connect().await?;
        let held = tokio::spawn(async move { connection.get("/hold").await });
        self.authz.wait_held(1).await?;
        Ok(held)
    }

    /// Looks at a drain for a while: it must not end, as ext_authz still holds a request.
    async fn waits(&self, id: &str) -> Result<()> {
        let mut client = self.world.client().await?;
        let until = tokio::time::Instant::now() + LOOK;
        while tokio::time::Instant::now() < until {
            let drain = client.drain(id).await?;
            // Until Envoy's own count is there the filter's zero looks quiet.
            let waits = matches!(drain.phase(), Phase::Draining | Phase::Quiet);
            assert!(waits, "one is held: {drain:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(self.authz.held(), 1, "ext_authz holds it");
        Ok(())
    }

    /// Starts a drain, sees it wait for a request that ext_authz holds, lets that go, and sees the drain end.
    async fn waits_and_drains(&self, listeners: &[&str]) -> Result<Drain> {
        let mut client = self.world.client().await?;
        let held = self.hold().await?;
        let id = client.start(drain_of(listeners)).await?.id;
        self.waits(&id).await?;
        self.authz.release_all();
        let held = held.await??;
        assert_eq!(held.status, 200, "{held:?}");
        client.wait_for_phase(&id, Phase::Drained, wait::PATIENCE).await
    }
}

/// Adds CORS, a rate limit of one request for `/limited`, and ext_authz.
fn add_others(bootstrap: &mut Bootstrap, others: Others, authz: &Upstream) -> Result<()> {
    bootstrap.add_cluster("authz", authz.address())?;
    let filters = bootstrap.http_filters_mut("ingress")?;
    let at = match others {
        Others::Before => 0,
        Others::After => filters.len() - 1,
    };
    filters.splice(at..at, [cors(), rate_limit(), ext_authz(authz)]);
    let per_route = json!({
        "envoy.filters.http.cors": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
            "allow_origin_string_match": [{ "exact": ORIGIN }],
            "allow_methods": "GET",
        },
        "envoy.filters.http.local_ratelimit": {
            "@type": RATE_LIMIT,
            "stat_prefix": "limited",
            "token_bucket": { "max_tokens": 1, "fill_interval": "3600s" },
            "filter_enabled": { "default_value": { "numerator": 100 } },
            "filter_enforced": { "default_value": { "numerator": 100 } },
        },
    });
    for (path, per_route) in [("/limited", per_route), ("/hold", json!({}))] {
        // What ext_authz has let pass is answered at once.
        let route = json!({
            "match": { "path": path },
            "route": { "cluster": "upstream", "prefix_rewrite": "/" },
            "typed_per_filter_config": per_route,
        });
        bootstrap.insert_route("ingress", route)?;
    }
    Ok(())
}

const ORIGIN: &str = "https://shop.test";
const RATE_LIMIT: &str =
    "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";

fn cors() -> Value {
    json!({
        "name": "envoy.filters.http.cors",
        "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors" },
    })
}

fn rate_limit() -> Value {
    json!({
        "name": "envoy.filters.http.local_ratelimit",
        "typed_config": { "@type": RATE_LIMIT, "stat_prefix": "rate_limit" },
    })
}

fn ext_authz(authz: &Upstream) -> Value {
    let uri = format!("http://{}", authz.address());
    json!({
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "http_service": { "server_uri": { "uri": uri, "cluster": "authz", "timeout": "60s" } },
        },
    })
}

/// What the other filters answer themselves: a refusal of ext_authz, a rate limit, a CORS preflight.
async fn local_replies(site: &Site) -> Result<Vec<(&'static str, Response)>> {
    let preflight = format!(
        "OPTIONS /limited HTTP/1.1\r\nHost: ebb.test\r\nOrigin: {ORIGIN}\r\nAccess-Control-Request-Method: GET\r\n\r\n"
    );
    let asked = site.world.upstream.requests();
    let mut replies = Vec::new();
    for (what, request, status) in [
        ("ext_authz", get("/status/403"), 403),
        ("rate limit", get("/limited"), 429),
        ("CORS", preflight, 200),
    ] {
        let mut connection = site.connect().await?;
        connection.send(&request).await?;
        let reply = connection.response().await?;
        assert_eq!(reply.status, status, "{what}: {reply:?}");
        if reply.says_close() {
            assert!(connection.closed_within(wait::PATIENCE).await, "{what}");
        }
        replies.push((what, reply));
    }
    assert_eq!(
        site.world.upstream.requests(),
        asked,
        "none of them went upstream"
    );
    Ok(replies)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: ebb.test\r\n\r\n")
}

/// Takes the one request that the rate limit lets pass.
async fn use_up_the_limit(site: &Site) -> Result<()> {
    let allowed = site.connect().await?.get("/limited").await?;
    assert_eq!(allowed.status, 200, "{allowed:?}");
    Ok(())
}
