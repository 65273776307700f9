//! All Envoys of the comparison, up at once, with their upstream and their control plane; and one sample of one of them.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    ebb::{Ebb, EbbOptions},
    envoy::{Envoy, EnvoyOptions},
    load, wait,
    world::{self, wait_attached},
};
use hyper::Method;
use tempfile::TempDir;

use super::{
    CONNECTIONS, Kind, Protocol, Sample,
    way::{self, DIRECT, LISTENER, Modules, PROXIED, Way},
};
use crate::{
    Mode, proc,
    tools::{self, Outcome, Target},
};

/// Everything that runs. Fields are dropped in order: first the Envoys, last the folder.
pub(super) struct Stage {
    actors: Vec<Actor>,
    _upstream: Envoy,
    _ebb: Ebb,
    _folder: TempDir,
}

/// One way, running.
pub(super) struct Actor {
    pub(super) way: Way,
    envoy: Envoy,
    pid: u32,
}

/// Envoy's own counters.
struct Counters {
    requests: u64,
    connections: u64,
}

impl Stage {
    /// Starts all. The ways that close are made to close. `show_logs`: at the end.
    pub(super) async fn set(ways: impl Fn(&Modules) -> Vec<Way>, show_logs: bool) -> Result<Self> {
        let folder = world::folder()?;
        let modules = Modules::make(folder.path())?;
        let ebb = Ebb::start(EbbOptions {
            show_log: show_logs,
            ..EbbOptions::in_folder(folder.path())
        })
        .await?;
        let home = |name: &str| {
            let home = folder.path().join(name);
            fs::create_dir(&home).with_context(|| format!("cannot create {}", home.display()))?;
            anyhow::Ok(home)
        };
        // A bootstrap has its own words for everything else that options say.
        let options = EnvoyOptions {
            show_log: show_logs,
            ..EnvoyOptions::default()
        };
        let bootstrap = way::upstream(ebb.socket(), &modules)?;
        let upstream = Envoy::start_as(&options, bootstrap, &home("upstream")?).await?;
        let address = upstream.address(LISTENER)?;
        let starting = ways(&modules).into_iter().map(|way| {
            let (modules, ebb, options) = (&modules, &ebb, &options);
            let home = home(&way.node());
            async move {
                let bootstrap = way.bootstrap(modules, ebb.socket(), address)?;
                let mut envoy = Envoy::start_as(options, bootstrap, &home?).await?;
                let pid = envoy.process().pid().context("Envoy has ended")?;
                let actor = Actor { way, envoy, pid };
                actor
                    .prepare(ebb)
                    .await
                    .with_context(|| format!("cannot prepare: {}", way.words()))?;
                anyhow::Ok(actor)
            }
        });
        let actors = futures::future::try_join_all(starting).await?;
        Ok(Self {
            actors,
            _upstream: upstream,
            _ebb: ebb,
            _folder: folder,
        })
    }

    /// Those of one table.
    pub(super) fn actors(&self, ways: &[Way]) -> Vec<&Actor> {
        self.actors
            .iter()
            .filter(|actor| ways.contains(&actor.way))
            .collect()
    }
}

impl Actor {
    async fn prepare(&self, ebb: &Ebb) -> Result<()> {
        let node = self.way.node();
        if self.way.attaches() {
            wait_attached(&mut ebb.client().await?, &node, 1).await?;
        }
        match self.way {
            Way::ByItself | Way::Admin => {
                self.envoy.admin(Method::POST, "/healthcheck/fail").await?;
            }
            Way::Draining => {
                // Nothing is in flight, so it ends at once; the listener goes on closing.
                let drain = [
                    "drain",
                    "--node",
                    &node,
                    "--listener",
                    LISTENER,
                    "--evidence",
                    "filter",
                    "--wait",
                ];
                let output = ebb.cli(&drain).await?;
                ensure!(
                    output.code == Some(0),
                    "the drain did not end drained: {output:?}"
                );
            }
            _ => {}
        }
        Ok(())
    }

    /// Loads it, and reads what Envoy has used. Any request that fails is an error, as is a count of Envoy's own that
    /// differs from the client's, and a connection kept or closed that should not have been.
    pub(super) async fn sample(&self, kind: Kind, mode: Mode) -> Result<Sample> {
        let sampled = self.try_sample(kind, mode).await;
        sampled.with_context(|| format!("{} ({})", self.way.words(), kind.words()))
    }

    async fn try_sample(&self, kind: Kind, mode: Mode) -> Result<Sample> {
        let before = self.counters().await?;
        let cpu_before = proc::cpu(self.pid)?;
        let outcome = self.load(kind, mode).await?;
        let cpu = proc::cpu(self.pid)?.saturating_sub(cpu_before);
        self.wait_for_no_connection().await?;
        let after = self.counters().await?;
        let sample = Sample {
            requests: after.requests.saturating_sub(before.requests),
            connections: after.connections.saturating_sub(before.connections),
            responses: outcome.responses,
            cpu_ns: u64::try_from(cpu.as_nanos())?,
        };
        ensure!(
            outcome.failures.is_empty(),
            "requests failed: {:?}",
            outcome.failures
        );
        ensure!(
            sample.requests == sample.responses && sample.requests > 0,
            "Envoy counted {} requests, the client {} responses",
            sample.requests,
            sample.responses
        );
        let closes = sample.connections >= sample.responses;
        ensure!(
            closes == kind.closing,
            "{} connections for {} responses",
            sample.connections,
            sample.responses
        );
        Ok(sample)
    }

    async fn load(&self, kind: Kind, mode: Mode) -> Result<Outcome> {
        let target = Target {
            address: self.envoy.address(LISTENER)?,
            path: if kind.proxied { PROXIED } else { DIRECT }.to_owned(),
            connections: CONNECTIONS,
        };
        let requests = mode.pick(3000, 500);
        match (kind.protocol, kind.closing) {
            (Protocol::Http1, _) => tools::h2load(load::Protocol::Http1, &target, requests).await,
            (Protocol::Http2, false) => tools::h2load(load::Protocol::Http2, &target, requests).await,
            // `h2load` does not come back after a GOAWAY.
            (Protocol::Http2, true) => tools::clients(load::Protocol::Http2, &target, requests).await,
        }
    }

    async fn counters(&self) -> Result<Counters> {
        Ok(Counters {
            requests: self.stat("downstream_rq_total").await?,
            connections: self.stat("downstream_cx_total").await?,
        })
    }

    async fn wait_for_no_connection(&self) -> Result<()> {
        let bound = Duration::from_secs(30);
        wait::until("the last connection is closed", bound, || async {
            Ok(self.stat("downstream_cx_active").await? == 0)
        })
        .await
    }

    async fn stat(&self, name: &str) -> Result<u64> {
        let name = format!("http.{LISTENER}.{name}");
        self.envoy
            .stat(&name)
            .await?
            .with_context(|| format!("Envoy has no value {name}"))
    }
}
