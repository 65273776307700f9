//! A gateway with several slow readers, stopped.

use std::{
    path::Path,
    sync::mpsc::{self, Sender},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    bins::EnvoyVersion,
    gateway::{Gateway, setup::Setup},
    upstream::Upstream,
    world::folder,
};
use rustls::pki_types::CertificateDer;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::readers::{self, Asked, Pace};

pub(crate) const POLICY_ENGINE: &str = env!("CARGO_BIN_EXE_policy-engine");

/// How many read at the same time.
const READERS: usize = 10;

/// More than the kernels of both ends take: the rest is in Envoy's buffers.
const LARGE: usize = 6_000_000;

/// What is in the kernel when Envoy is done: the default windows of HTTP/2.
const SMALL: usize = 65_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admin {
    Yes,
    No,
}

/// What the clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Http1,
    Http2,
    Http2LargeWindows,
    Tls,
}

impl Wire {
    fn body(self) -> (usize, Pace) {
        let pace = |bytes, milliseconds, kernel| Pace {
            bytes,
            pause: Duration::from_millis(milliseconds),
            kernel,
        };
        match self {
            Self::Http2 => (SMALL, pace(4096, 30, 8 * 1024)),
            Self::Http1 => (LARGE, pace(64 * 1024, 20, 64 * 1024)),
            // A read gives a record at most, or what a reader of frames has room for.
            Self::Tls | Self::Http2LargeWindows => (LARGE, pace(16 * 1024, 5, 64 * 1024)),
        }
    }
}

/// Stops a gateway while its clients have everything still to read, with a quiet period that is over long before.
pub(crate) async fn every_byte_arrives(wire: Wire, admin: Admin) -> Result<()> {
    let folder = folder()?;
    let upstream = Upstream::start().await?;
    let mut setup = Setup::new(
        folder.path(),
        EnvoyVersion::V1_40,
        upstream.address(),
        Path::new(POLICY_ENGINE),
    )?;
    setup.set(&["drain", "quiet_period"], "50ms")?;
    if admin == Admin::No {
        setup.without_admin()?;
    }
    let root = if wire == Wire::Tls {
        Some(certify(&mut setup)?)
    } else {
        None
    };
    let mut gateway = Gateway::start(setup).await?;
    let (length, pace) = wire.body();
    let asked = Asked {
        address: gateway.setup().ingress(),
        length,
        pace,
    };
    let (begun, heads) = mpsc::channel();
    let readers: Vec<_> = (0..READERS)
        .map(|_| reader(wire, asked, root.clone(), begun.clone()))
        .collect();
    drop(begun);
    let heard = tokio::task::spawn_blocking(move || heads.iter().take(READERS).count()).await?;
    ensure!(heard == READERS, "only {heard} were answered");
    let stop = gateway.stop().await?;
    let mut got = Vec::new();
    for reader in readers {
        got.push(reader.await??);
    }
    ensure!(
        got.iter().all(|got| *got == length),
        "of {length} bytes each: {got:?}"
    );
    let log = gateway.log();
    ensure!(!log.contains("not in time"), "not by a deadline: {stop:?}\n{log}");
    Ok(())
}

fn reader(
    wire: Wire,
    asked: Asked,
    root: Option<CertificateDer<'static>>,
    begun: Sender<()>,
) -> JoinHandle<Result<usize>> {
    match (wire, root) {
        (Wire::Http2, _) => tokio::spawn(async move { readers::http2(asked, None, &begun).await }),
        (Wire::Http2LargeWindows, _) => {
            let large = Some(1 << 30);
            tokio::spawn(async move { readers::http2(asked, large, &begun).await })
        }
        (_, Some(root)) => tokio::task::spawn_blocking(move || readers::tls(asked, root, &begun)),
        (_, None) => tokio::task::spawn_blocking(move || readers::http1(asked, &begun)),
    }
}

/// Has `ingress` speak TLS, and returns its certificate.
fn certify(setup: &mut Setup) -> Result<CertificateDer<'static>> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let socket = json!({ "name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": { "tls_certificates": [{
            "certificate_chain": { "inline_string": certificate },
            "private_key": { "inline_string": key },
        }] } } });
    let listeners = setup.envoy.value_mut().pointer_mut("/static_resources/listeners");
    let listeners = listeners
        .and_then(|all| all.as_array_mut())
        .context("no listeners")?;
    let ingress = listeners
        .iter_mut()
        .find(|one| one["name"] == "ingress")
        .context("no ingress")?;
    ingress["filter_chains"][0]["transport_socket"] = socket;
    Ok(made.cert.der().clone())
}
