//! A site: two replicas behind a load balancer in TCP mode, of which one at a time is restarted.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use ebb_e2e::{
    client::Failure,
    gateway::journal::{self, Moment},
    haproxy::HaProxy,
    load::{Load, Tally},
    world,
};
use tempfile::TempDir;

use super::{
    Restart,
    contender::Contender,
    replica::{Replica, Settings, Stopped},
    traffic::{Idle, Traffic},
};

/// How often the load balancer asks for a replica's health. One answer decides.
pub(super) const CHECK_EVERY: Duration = Duration::from_millis(200);
/// Load before a restart, over which the rate is taken.
const BEFORE: Duration = Duration::from_secs(1);
/// Load after both replicas are up again.
const AFTER: Duration = Duration::from_millis(300);

/// A site of one contender. Fields are dropped in order: last the folder.
#[derive(Debug)]
pub(super) struct Site {
    contender: Contender,
    replicas: [Replica; 2],
    balancer: HaProxy,
    _folder: TempDir,
}

/// What a restart came to, and the load that goes on.
pub(super) struct Done {
    pub(super) restart: Restart,
    /// Requests per second before the restart.
    pub(super) rate: f64,
    pub(super) _load: Load,
    /// For whoever wants to know why a request has failed: what Ebb has logged.
    pub(super) log: String,
}

impl Site {
    /// Starts everything and waits until the load balancer calls both replicas up.
    pub(super) async fn start(settings: Settings) -> Result<Self> {
        let folder = world::folder()?;
        let mut replicas = [Replica::new(settings)?, Replica::new(settings)?];
        for replica in &mut replicas {
            replica.start().await?;
        }
        let servers = replicas.each_ref().map(Replica::server);
        let mut balancer = HaProxy::start_checking(folder.path(), &servers, CHECK_EVERY, false)?;
        balancer.wait_up(servers.len()).await?;
        Ok(Self {
            contender: settings.contender,
            replicas,
            balancer,
            _folder: folder,
        })
    }

    /// Who it belongs to.
    pub(super) fn contender(&self) -> Contender {
        self.contender
    }

    /// Restarts one of the replicas under load, which goes on afterwards.
    pub(super) async fn restart(
        &mut self,
        number: usize,
        traffic: &Traffic,
        with_idle: bool,
    ) -> Result<Done> {
        self.restarted(number, traffic, with_idle)
            .await
            .with_context(|| format!("a restart of {}", self.contender.name()))
    }

    async fn restarted(&mut self, number: usize, traffic: &Traffic, with_idle: bool) -> Result<Done> {
        let replica = self.replicas.get_mut(number).context("no such replica")?;
        let load = traffic.start(self.balancer.address());
        load.wait_for_requests(traffic.requests_at_a_time()).await?;
        let (began, before) = (journal::now(), load.tally());
        tokio::time::sleep(BEFORE).await;
        let mut idle = match with_idle {
            true => Some(Idle::start(replica.server().address).await?),
            false => None,
        };
        let idle_client = match &mut idle {
            Some(idle) => Some(idle.is_connected().await),
            None => None,
        };
        let tally = load.tally();
        let rate = (tally.requests - before.requests) as f64 / seconds(began, journal::now());
        if self.contender.is_announced() {
            self.balancer.leave_out(number).await?;
        }
        let stopped = replica.stop().await?;
        replica.start().await?;
        if self.contender.is_announced() {
            self.balancer.take_back(number).await?;
        }
        self.balancer.wait_up(self.replicas.len()).await?;
        tokio::time::sleep(AFTER).await;
        let window = seconds(stopped.signal, journal::now());
        let restart = restart(number, stopped, &tally, &load.tally(), window, idle_client);
        let log = self.replicas.get(number).map(Replica::log).unwrap_or_default();
        Ok(Done {
            restart,
            rate,
            _load: load,
            log,
        })
    }
}

fn restart(
    replica: usize,
    stopped: Stopped,
    before: &Tally,
    after: &Tally,
    window: f64,
    idle_client: Option<bool>,
) -> Restart {
    let more = |(kind, number): (&Failure, &u64)| {
        let number = number - before.failures.get(kind).unwrap_or(&0);
        (number > 0).then(|| (kind.to_string(), number))
    };
    Restart {
        replica,
        requests: after.requests - before.requests,
        failures: after.failures.iter().filter_map(more).collect::<BTreeMap<_, _>>(),
        window,
        exit: seconds(stopped.signal, stopped.exit),
        needed: seconds(stopped.signal, stopped.last),
        deadline: stopped.deadline,
        idle_client,
    }
}

/// From one moment to a later one; 0 to an earlier one.
fn seconds(from: Moment, to: Moment) -> f64 {
    Duration::from_nanos(to.saturating_sub(from)).as_secs_f64()
}
