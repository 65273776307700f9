//! What Envoy does on its own account: mirrors, and the access log's stream.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};

use ebb::outside::{Look, look};
use serde_json::{Value, json};

use crate::envoy::{Envoy, answer, binaries, cluster, eventually, head, http, listener, sees, serve};

fn at(envoy: &Envoy) -> Look {
    Look {
        admin: Some(envoy.admin()),
        ..Look::default()
    }
}

fn request(envoy: &Envoy) {
    let mut stream = envoy.connect("web");
    stream
        .write_all(b"GET /2 HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect("sent");
    head(&mut stream).expect("answered");
}

#[tokio::test]
async fn mirrored_requests_count_until_the_last_is_done() {
    for binary in binaries() {
        let arrived = Arc::new(AtomicUsize::new(0));
        let (let_go, gate) = mpsc::sync_channel::<()>(0);
        let gate = Arc::new(std::sync::Mutex::new(gate));
        let slow = serve({
            let arrived = Arc::clone(&arrived);
            move |mut stream| {
                while head(&mut stream).is_some() {
                    arrived.fetch_add(1, Ordering::SeqCst);
                    let _ = gate.lock().expect("lock").recv();
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
                }
            }
        });
        let mirror = json!({ "request_mirror_policies": [{ "cluster": "mirror" }] });
        let one = json!({ "circuit_breakers": { "thresholds": [{ "max_connections": 1 }] } });
        let clusters = [
            cluster("up", serve(answer), &json!({})),
            cluster("mirror", slow, &one),
        ];
        let listeners = [listener("web", json!([http("web", &mirror, &json!({}))]))];
        let envoy = Envoy::start(&binary, &listeners, &clusters);
        assert_eq!(look(at(&envoy)).await.upstream, Some(0));
        for _ in 0..3 {
            request(&envoy);
        }
        eventually("all are answered", || {
            (envoy.stat("http.web.downstream_rq_active") == 0).then_some(())
        });
        let seen = sees("all are outstanding", &at(&envoy), |seen| {
            seen.upstream == Some(3)
        })
        .await;
        assert_eq!(seen.tcp, Some(0));
        for left in [2, 1, 0] {
            let_go.send(()).expect("one waits");
            sees("one less", &at(&envoy), |seen| seen.upstream == Some(left)).await;
        }
        assert_eq!(arrived.load(Ordering::SeqCst), 3);
        // Of one listener of several nobody can tell.
        let named = Look {
            listeners: vec!["web".to_owned()],
            ..at(&envoy)
        };
        assert_eq!(look(named).await.upstream, None);
    }
}

/// Speaks as much HTTP/2 as a client needs to keep a stream open.
fn silent_http2(mut stream: TcpStream) {
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let mut chunk = [0; 4096];
    if stream.write_all(&settings).is_ok() {
        while matches!(stream.read(&mut chunk), Ok(1..)) {}
    }
}

#[tokio::test]
async fn the_open_stream_of_an_access_log_is_not_waited_for() {
    let http2: Value = json!({ "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": {} } } } });
    let log = json!({ "access_log": [{ "name": "log", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
        "common_config": { "log_name": "log", "transport_api_version": "V3",
            "buffer_flush_interval": "0.1s",
            "grpc_service": { "envoy_grpc": { "cluster_name": "log" } } } } }] });
    for binary in binaries() {
        let clusters = [
            cluster("up", serve(answer), &json!({})),
            cluster("log", serve(silent_http2), &http2),
        ];
        let listeners = [listener("web", json!([http("web", &json!({}), &log)]))];
        let envoy = Envoy::start(&binary, &listeners, &clusters);
        request(&envoy);
        eventually("the stream is open", || {
            (envoy.stat("cluster.log.upstream_rq_active") > 0).then_some(())
        });
        sees("nothing to wait for", &at(&envoy), |seen| {
            seen.upstream == Some(0)
        })
        .await;
        assert!(
            envoy.stat("cluster.log.upstream_rq_active") > 0,
            "it does not end"
        );
    }
}
