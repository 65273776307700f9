//! How everybody but Ebb stops a replica.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::client::http1;
use http::StatusCode;
use tokio::time::Instant;

use super::contender::{Contender, Wait};

/// What Envoy is told at the beginning of the stop.
fn announcements(contender: Contender) -> &'static [&'static str] {
    match contender {
        Contender::Plain | Contender::Ebb => &[],
        Contender::FixedSleep => &["/healthcheck/fail", "/drain_listeners?graceful"],
        Contender::EnvoyGateway | Contender::Contour => &["/healthcheck/fail"],
        Contender::Istio | Contender::IstioZeroConnections => &["/drain_listeners?graceful"],
    }
}

/// Tells Envoy of its end and waits as `contender` does. Returns whether a deadline ended the wait.
///
/// # Errors
/// When Envoy's admin endpoint does not do what it is asked for.
pub(super) async fn before_the_signal(contender: Contender, admin: SocketAddr, divisor: u32) -> Result<bool> {
    for path in announcements(contender) {
        ask(admin, "POST", path).await?;
    }
    match contender.wait(divisor) {
        Some(wait) => waited(admin, wait).await,
        None => Ok(false),
    }
}

/// Whoever has a least time asks only then, and at once: what was asked before changes nothing, and no interval is lost.
async fn waited(admin: SocketAddr, wait: Wait) -> Result<bool> {
    let start = Instant::now();
    tokio::time::sleep(wait.least).await;
    let Some(poll) = wait.poll else {
        return Ok(false);
    };
    loop {
        if connections(admin).await? == 0 {
            return Ok(false);
        }
        if start.elapsed() + poll.every > poll.deadline {
            tokio::time::sleep_until(start + poll.deadline).await;
            return Ok(true);
        }
        tokio::time::sleep(poll.every).await;
    }
}

/// Connections that clients have with Envoy, over all listeners but the admin's.
async fn connections(admin: SocketAddr) -> Result<u64> {
    let text = ask(admin, "GET", "/stats?filter=downstream_cx_active$&type=Gauges").await?;
    let mut sum = 0;
    for line in text.lines() {
        let Some((name, value)) = line.split_once(": ") else {
            continue;
        };
        // Those of single workers are part of their listener's.
        let counts = name.starts_with("listener.")
            && name.ends_with(".downstream_cx_active")
            && !name.starts_with("listener.admin.")
            && !name.contains(".worker_");
        if counts {
            sum += value
                .trim()
                .parse::<u64>()
                .with_context(|| format!("{name} is no number: {value}"))?;
        }
    }
    Ok(sum)
}

async fn ask(admin: SocketAddr, method: &str, path: &str) -> Result<String> {
    let asking = async {
        let mut connection = http1::Connection::open(admin).await?;
        connection
            .send(&format!(
                "{method} {path} HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\n\r\n"
            ))
            .await?;
        connection.response().await
    };
    let response = tokio::time::timeout(Duration::from_secs(10), asking)
        .await
        .ok()
        .with_context(|| format!("Envoy's admin endpoint does not answer {method} {path}"))?
        .with_context(|| format!("Envoy's admin endpoint fails at {method} {path}"))?;
    ensure!(
        response.status == StatusCode::OK,
        "Envoy's admin endpoint answers {} to {method} {path}",
        response.status
    );
    Ok(String::from_utf8_lossy(&response.body).into_owned())
}
