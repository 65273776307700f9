//! TCP sessions beside HTTP connections.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use ebb::outside::{Look, look, names_of_sessions};
use serde_json::{Value, json};

use crate::envoy::{Envoy, answer, binaries, cluster, echo, head, http, listener, sees, serve, tcp};

fn start(binary: &std::path::Path) -> Envoy {
    let manager = || http("web", &json!({}), &json!({}));
    let mut mixed = listener("mixed", json!([manager(), tcp("raw", "sessions")]));
    mixed["filter_chains"][0]["filter_chain_match"] = json!({ "application_protocols": ["http/1.1"] });
    mixed["listener_filters"] = json!([{ "name": "inspector", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector" } }]);
    let listeners = [
        listener("web", json!([manager()])),
        listener("db", json!([tcp("db_tcp", "sessions")])),
        mixed,
    ];
    let clusters = [
        cluster("up", serve(answer), &json!({})),
        cluster("sessions", serve(echo), &json!({})),
    ];
    Envoy::start(binary, &listeners, &clusters)
}

fn session(envoy: &Envoy, listener: &str) -> TcpStream {
    let mut stream = envoy.connect(listener);
    // Long enough, and of such a kind, that an inspector knows that it is no HTTP.
    let hello = b"\x00\x01\x02\x03 this is no HTTP, it is a session\r\n";
    stream.write_all(hello).expect("sent");
    let mut echoed = [0; 16];
    stream.read_exact(&mut echoed).expect("echoed");
    stream
}

fn request(envoy: &Envoy, listener: &str) -> TcpStream {
    let mut stream = envoy.connect(listener);
    stream
        .write_all(b"GET /2 HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect("sent");
    head(&mut stream).expect("answered");
    stream
}

fn at(envoy: &Envoy, names: &[&str]) -> Look {
    Look {
        admin: Some(envoy.admin()),
        pids: vec![envoy.pid()],
        listeners: names.iter().map(|name| (*name).to_owned()).collect(),
        ports: Vec::new(),
    }
}

#[tokio::test]
async fn sessions_are_told_from_http_connections_by_listener_and_by_prefix() {
    for binary in binaries() {
        let envoy = start(&binary);
        assert_eq!(look(at(&envoy, &[])).await.tcp, Some(0));
        let _http = [
            request(&envoy, "web"),
            request(&envoy, "web"),
            request(&envoy, "mixed"),
        ];
        assert_eq!(
            look(at(&envoy, &[])).await.tcp,
            Some(0),
            "HTTP connections are none"
        );
        let db = [session(&envoy, "db"), session(&envoy, "db")];
        let mixed = session(&envoy, "mixed");
        let expected = [
            (&[][..], 3),
            (&["db"], 2),
            (&["db_tcp"], 2),
            (&["mixed"], 1),
            (&["raw"], 1),
            (&["db", "raw"], 3),
            (&["web"], 0),
            (&["nobody"], 0),
        ];
        for (names, sessions) in expected {
            assert_eq!(look(at(&envoy, names)).await.tcp, Some(sessions), "{names:?}");
        }
        let names = names_of_sessions(&envoy.admin()).await.expect("told");
        assert_eq!(
            names.into_iter().collect::<Vec<_>>(),
            ["db", "db_tcp", "mixed", "raw"]
        );
        // They go on when no new ones can come, and count.
        envoy.ask("POST", "/drain_listeners").expect("closed");
        assert_eq!(look(at(&envoy, &["db"])).await.tcp, Some(2));
        drop(db);
        sees("the sessions are over", &at(&envoy, &["db"]), |seen| {
            seen.tcp == Some(0)
        })
        .await;
        drop(mixed);
        sees("all sessions are over", &at(&envoy, &[]), |seen| {
            seen.tcp == Some(0)
        })
        .await;
    }
}

#[tokio::test]
async fn a_session_is_no_request_to_an_upstream() {
    for binary in binaries() {
        let envoy = start(&binary);
        let _session = session(&envoy, "db");
        let seen = look(at(&envoy, &[])).await;
        assert_eq!((seen.tcp, seen.upstream), (Some(1), Some(0)));
    }
}

/// A TCP proxy that looks whether Envoy drains.
fn checked() -> Value {
    let mut chain = tcp("checked_tcp", "sessions");
    chain["filters"][0]["typed_config"]["check_drain_close"] = json!(true);
    chain
}

#[tokio::test]
async fn a_session_is_closed_by_failing_health_only_where_its_proxy_looks_for_that() {
    let [binary, older] = binaries();
    let listeners = [
        listener("db", json!([tcp("db_tcp", "sessions")])),
        listener("checked", json!([checked()])),
    ];
    let clusters = [cluster("sessions", serve(echo), &json!({}))];
    let envoy = Envoy::start(&binary, &listeners, &clusters);
    let (mut plain, mut busy) = (session(&envoy, "db"), session(&envoy, "checked"));
    let _idle = session(&envoy, "checked");
    for stream in [&mut plain, &mut busy] {
        // What is left of the greeting.
        let mut rest = [0; 64];
        let read = stream.read(&mut rest).expect("the rest");
        assert!(read > 0);
    }
    envoy.ask("POST", "/healthcheck/fail").expect("failing");
    let mut echoed = [0; 4];
    plain.write_all(b"ping").expect("sent");
    plain.read_exact(&mut echoed).expect("it goes on");
    busy.write_all(b"ping").expect("sent");
    assert_eq!(
        busy.read(&mut echoed).expect("closed"),
        0,
        "and what it sent is lost"
    );
    // Who says nothing is not told.
    sees("one is left", &at(&envoy, &["checked"]), |seen| {
        seen.tcp == Some(1)
    })
    .await;
    assert!(
        !Envoy::accepts(&older, &listeners, &clusters),
        "1.37 does not know the field"
    );
}
