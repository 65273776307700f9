//! Who does what when: the contenders take turns, or with an idle client work side by side.

use std::time::Duration;

use anyhow::Result;
use futures::future::{join_all, try_join_all};

use super::{
    Rolling, Series, Variant,
    contender::Contender,
    replica::Settings,
    site::{Done, Site},
    traffic::{Takes, Traffic},
};
use crate::{Mode, progress::Progress};

/// Restarts of each contender, in each variant.
const ROUNDS: (usize, usize) = (10, 1);
/// What the times of everybody but Ebb are divided by.
const DIVISOR: (u32, u32) = (1, 20);
/// How long Ebb goes on accepting after its health turned bad: three health checks. A short run is not about times, and may
/// be on a machine that is very busy.
const ANNOUNCE: (Duration, Duration) = (Duration::from_millis(600), Duration::from_millis(1500));
/// Clients over HTTP/1.1 and over HTTP/2.
const CLIENTS: ((usize, usize), (usize, usize)) = ((96, 8), (24, 4));
/// Between the signals of the contenders that work side by side.
const STAGGER: Duration = Duration::from_millis(150);

/// Both variants.
pub(super) async fn all(mode: Mode, progress: &Progress) -> Result<Rolling> {
    let divisor = mode.pick(DIVISOR.0, DIVISOR.1);
    let contenders: &[Contender] = mode.pick(&Contender::ALL, &Contender::FEW);
    let rounds = mode.pick(ROUNDS.0, ROUNDS.1);
    let (http1, http2) = mode.pick(CLIENTS.0, CLIENTS.1);
    let long = Duration::from_millis(mode.pick(2000, 500));
    let traffic = Traffic {
        http1,
        http2,
        takes: Takes {
            short: Duration::from_millis(40),
            long,
            long_one_of: mode.pick(250, 50),
        },
    };
    progress.say("rolling: starting two replicas and a load balancer for each contender");
    let mut sites = try_join_all(contenders.iter().map(|&contender| {
        Site::start(Settings {
            contender,
            divisor,
            announce: mode.pick(ANNOUNCE.0, ANNOUNCE.1),
        })
    }))
    .await?;
    let busy = in_turns(&mut sites, rounds, &traffic, progress).await?;
    let idle = side_by_side(&mut sites, rounds, &traffic, progress).await?;
    Ok(Rolling { divisor, busy, idle })
}

/// In each round each contender in turn restarts a replica with all of the load.
async fn in_turns(
    sites: &mut [Site],
    rounds: usize,
    traffic: &Traffic,
    progress: &Progress,
) -> Result<Variant> {
    let mut variant = Variant::nothing(sites, traffic, 1);
    for round in 0..rounds {
        for (site, series) in sites.iter_mut().zip(&mut variant.series) {
            let done = site.restart(round % 2, traffic, false).await?;
            variant.rates.push(done.rate);
            note(&done, series.contender, round, progress);
            series.restarts.push(done.restart);
        }
    }
    Ok(variant)
}

/// In each round all contenders restart a replica that has an idle client, with an equal part of the load each, which goes
/// on until the last of them has done.
async fn side_by_side(
    sites: &mut [Site],
    rounds: usize,
    traffic: &Traffic,
    progress: &Progress,
) -> Result<Variant> {
    let part = traffic.part(sites.len());
    let mut variant = Variant::nothing(sites, &part, sites.len());
    for round in 0..rounds {
        let restarts = sites.iter_mut().zip(0..).map(|(site, place)| async move {
            tokio::time::sleep(STAGGER * place).await;
            let done = site.restart(round % 2, &part, true).await;
            if let Ok(done) = &done {
                note(done, site.contender(), round, progress);
            }
            done
        });
        let all: Vec<Done> = join_all(restarts).await.into_iter().collect::<Result<_>>()?;
        variant.rates.push(all.iter().map(|done| done.rate).sum());
        for (done, series) in all.into_iter().zip(&mut variant.series) {
            series.restarts.push(done.restart);
        }
    }
    Ok(variant)
}

impl Variant {
    fn nothing(sites: &[Site], traffic: &Traffic, at_a_time: usize) -> Self {
        let series = sites.iter().map(|site| Series {
            contender: site.contender(),
            restarts: Vec::new(),
        });
        Self {
            clients: at_a_time * (traffic.http1 + traffic.http2),
            http2_clients: at_a_time * traffic.http2,
            rates: Vec::new(),
            series: series.collect(),
        }
    }
}

fn note(done: &Done, contender: Contender, round: usize, progress: &Progress) {
    let restart = &done.restart;
    progress.say(format_args!(
        "rolling, round {}, {}: {} of {} requests failed, exit after {:.2} s, last response after {:.2} s, {:.0} requests/s before",
        round + 1,
        contender.name(),
        restart.failed(),
        restart.requests,
        restart.exit,
        restart.needed,
        done.rate,
    ));
    if contender == Contender::Ebb && restart.failed() > 0 {
        progress.say(format_args!(
            "Ebb should have failed none: {:?}\n{}",
            restart.failures, done.log
        ));
    }
}
