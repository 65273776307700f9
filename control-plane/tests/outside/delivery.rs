//! Bytes that clients do not have yet.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
};

use ebb::{
    core::outstanding::{Outstanding, Unsent},
    outside::{Look, look},
};
use serde_json::json;

use crate::envoy::{Envoy, answer, binaries, cluster, eventually, http, listener, sees, serve};

/// More than the kernels of both ends hold.
const LARGE: usize = 12_000_000;

/// What Envoy's kernel holds alone, for a client that takes a few kilobytes.
const SMALL: usize = 40_000;

fn start(binary: &Path) -> Envoy {
    let web = json!([http("web", &json!({}), &json!({}))]);
    let other = json!([http("other", &json!({}), &json!({}))]);
    let listeners = [listener("web", web), listener("other", other)];
    Envoy::start(binary, &listeners, &[cluster("up", serve(answer), &json!({}))])
}

fn get(stream: &mut TcpStream, length: usize) {
    let request = format!("GET /{length} HTTP/1.1\r\nhost: a\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
}

/// Reads a response with a body of this length.
fn read(stream: &mut TcpStream, length: usize) {
    let head = crate::envoy::head(stream);
    assert!(head.is_some(), "cut before the body");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("the whole body");
}

fn owed(outstanding: &Outstanding) -> Unsent {
    outstanding.unsent.expect("seen")
}

#[tokio::test]
async fn a_slow_reader_is_owed_bytes_until_its_kernel_has_them_all() {
    for binary in binaries() {
        let envoy = start(&binary);
        let by_pid = Look {
            pids: vec![envoy.pid()],
            ..Look::default()
        };
        let by_both = Look {
            admin: Some(envoy.admin()),
            ..by_pid.clone()
        };
        // Without a pid that of whoever serves the admin endpoint is taken.
        let by_admin = Look {
            pids: Vec::new(),
            ..by_both.clone()
        };
        let by_port = Look {
            ports: vec![envoy.address("web").port()],
            ..by_pid.clone()
        };
        let named = |name: &str| Look {
            listeners: vec![name.to_owned()],
            ..by_both.clone()
        };
        assert_eq!(owed(&look(by_pid.clone()).await), Unsent::default());
        let mut client = envoy.connect("web");
        get(&mut client, LARGE);
        eventually("Envoy's buffers are filled", || {
            (envoy.stat("http.web.downstream_cx_tx_bytes_buffered") > 0).then_some(())
        });
        for at in [&by_pid, &by_both, &by_admin, &by_port, &named("web")] {
            let owed = owed(&look(at.clone()).await);
            assert!(owed.queued > 0 && owed.clients == 1, "{at:?}: {owed:?}");
            assert_eq!(owed.buffered > 0, at.admin.is_some(), "{at:?}: {owed:?}");
        }
        assert_eq!(owed(&look(named("other")).await), Unsent::default());
        read(&mut client, LARGE);
        for at in [&by_pid, &by_both, &by_admin, &by_port, &named("web")] {
            sees("all is acknowledged", at, |seen| {
                seen.unsent == Some(Unsent::default())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn bytes_are_owed_when_envoy_has_none_left_and_its_listeners_are_closed() {
    for binary in binaries() {
        let envoy = start(&binary);
        let pids = vec![envoy.pid()];
        let web = envoy.address("web");
        let mut client = envoy.connect_narrowly("web");
        get(&mut client, SMALL);
        eventually("Envoy is done", || {
            let ended = envoy.stat("http.web.downstream_rq_completed") == 1;
            (ended && envoy.stat("http.web.downstream_rq_active") == 0).then_some(())
        });
        assert_eq!(envoy.stat("http.web.downstream_cx_tx_bytes_buffered"), 0);
        envoy.ask("POST", "/drain_listeners").expect("closed");
        eventually("nobody listens any more", || TcpStream::connect(web).err());
        let by_port = Look {
            pids: pids.clone(),
            ports: vec![web.port()],
            ..Look::default()
        };
        let by_admin = Look {
            admin: Some(envoy.admin()),
            pids,
            ..Look::default()
        };
        for at in [&by_port, &by_admin] {
            let owed = owed(&look(at.clone()).await);
            assert!(owed.queued > 0 && owed.clients == 1, "{at:?}: {owed:?}");
        }
        read(&mut client, SMALL);
        sees("all is acknowledged", &by_port, |seen| {
            seen.unsent == Some(Unsent::default())
        })
        .await;
    }
}

#[tokio::test]
async fn what_cannot_be_seen_is_none_and_bytes_in_buffers_are_not_nothing() {
    assert_eq!(look(Look::default()).await, Outstanding::default());
    let [binary, _] = binaries();
    let envoy = start(&binary);
    let mut elsewhere = std::process::Command::new("unshare")
        .args(["--net", "sleep", "60"])
        .spawn()
        .expect("unshare");
    let own = std::fs::read_link("/proc/self/ns/net").expect("readable");
    eventually("a process is in another network namespace", || {
        let its = std::fs::read_link(format!("/proc/{}/ns/net", elsewhere.id())).ok()?;
        (its != own).then_some(())
    });
    let at = Look {
        admin: Some(envoy.admin()),
        pids: vec![elsewhere.id()],
        ..Look::default()
    };
    assert_eq!(look(at.clone()).await.unsent, None);
    let mut client = envoy.connect("web");
    get(&mut client, LARGE);
    let seen = sees("bytes are in the buffers", &at, |seen| seen.unsent.is_some()).await;
    assert!(owed(&seen).buffered > 0 && owed(&seen).queued == 0, "{seen:?}");
    read(&mut client, LARGE);
    sees("nothing is known again", &at, |seen| seen.unsent.is_none()).await;
    elsewhere.kill().expect("killed");
    elsewhere.wait().expect("waited");
}
