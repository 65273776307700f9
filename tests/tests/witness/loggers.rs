//! Entries that an access logger has buffered: Envoy drops them when it exits, unless the drain waits for them.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use ebb_e2e::{
    client::http1,
    ebb::{Ebb, EbbOptions},
    envoy::{Envoy, EnvoyOptions},
    upstream::Upstream,
    wait,
    world::{folder, wait_attached},
};
use rustix::process::Signal;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};

/// A gRPC service that keeps every byte it is sent, and never ends a stream: the texts in an access log stand in it as
/// they are.
struct Log {
    port: u16,
    bytes: Arc<Mutex<Vec<u8>>>,
    serving: JoinHandle<()>,
}

impl Log {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let bytes = Arc::default();
        let serving = tokio::spawn(serve(listener, Arc::clone(&bytes)));
        Ok(Self { port, bytes, serving })
    }

    fn has(&self, text: &str) -> bool {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, bytes: Arc<Mutex<Vec<u8>>>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let bytes = Arc::clone(&bytes);
        connections.spawn(async move {
            let mut streams = Vec::new();
            let Ok(mut connection) = h2::server::handshake(stream).await else {
                return;
            };
            while let Some(Ok((request, mut answer))) = connection.accept().await {
                let headers = http::Response::builder().header("content-type", "application/grpc");
                if let Ok(response) = headers.body(()) {
                    // Kept open: the end of it would be the end of the stream.
                    streams.extend(answer.send_response(response, false));
                }
                let (mut body, bytes) = (request.into_body(), Arc::clone(&bytes));
                tokio::spawn(async move {
                    while let Some(Ok(data)) = body.data().await {
                        let _ = body.flow_control().release_capacity(data.len());
                        let mut bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
                        bytes.extend_from_slice(&data);
                    }
                });
            }
        });
    }
}

/// Which of three requests are in the log of an Envoy that was stopped as soon as it was drained.
async fn logged(flush: &str) -> Result<Vec<bool>> {
    let (folder, log, upstream) = (folder()?, Log::start().await?, Upstream::start().await?);
    let ebb = Ebb::start(EbbOptions::in_folder(folder.path())).await?;
    let options = EnvoyOptions::default();
    let mut bootstrap = options.bootstrap(ebb.socket(), upstream.address())?;
    bootstrap.add_cluster("log", ([127, 0, 0, 1], log.port).into())?;
    let http2 = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": {} },
        },
    });
    let clusters = bootstrap.value_mut().pointer_mut("/static_resources/clusters");
    let clusters = clusters
        .and_then(|clusters| clusters.as_array_mut())
        .context("clusters")?;
    if let Some(cluster) = clusters.last_mut().and_then(|cluster| cluster.as_object_mut()) {
        cluster.insert("typed_extension_protocol_options".to_owned(), http2);
    }
    let access_log = json!([{
        "name": "envoy.access_loggers.http_grpc",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
            "common_config": {
                "log_name": "log",
                "transport_api_version": "V3",
                "buffer_flush_interval": "1s",
                "grpc_service": { "envoy_grpc": { "cluster_name": "log" } },
            },
        },
    }]);
    if let Some(manager) = bootstrap.connection_manager_mut("ingress")?.as_object_mut() {
        manager.insert("access_log".to_owned(), access_log);
    }
    let mut envoy = Envoy::start_as(&options, bootstrap, folder.path()).await?;
    wait_attached(&mut ebb.client().await?, &options.node_id, 1).await?;
    for number in 0..3 {
        let mut connection = http1::Connection::open(envoy.address("ingress")?).await?;
        assert_eq!(connection.get(&format!("/logged/{number}")).await?.status, 200);
    }
    let drained = ebb
        .cli(&["drain", "--wait", "--quiet-period", "50ms", "--flush", flush])
        .await?;
    assert_eq!(drained.code, Some(0), "{drained:?}");
    envoy.process().signal(Signal::TERM)?;
    envoy.process().exit(wait::PATIENCE).await?;
    Ok((0..3)
        .map(|number| log.has(&format!("/logged/{number}")))
        .collect())
}

#[tokio::test]
async fn entries_that_a_logger_has_buffered_arrive_where_the_policy_gives_it_time() -> Result<()> {
    assert_eq!(logged("2s").await?, [true; 3]);
    // What Envoy does by itself: without that this test would show nothing.
    assert_eq!(logged("0s").await?, [false; 3]);
    Ok(())
}
