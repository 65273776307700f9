//! From the last request's end to whoever waits for it: Ebb beside loops that ask every second and every five.
//!
//! The end is the last byte of the response at the client, in this process, which also watches the drain and runs the
//! loops: one clock. Ebb's store is on disk, as by default. The loops ask a bare Envoy of the same version for the
//! connections of a listener that has the request alone; each begins at a moment of its own, and the request ends at a random
//! moment of the loop's period.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ebb_e2e::{
    admin,
    api::{Client, drain_of, proto},
    bootstrap::Bootstrap,
    client::http1,
    envoy::{Envoy, EnvoyOptions},
    upstream::Upstream,
    wait,
    world::{World, folder},
};
use ebb_proto::v1::{Phase, Policy, StartDrainRequest};
use futures::future::try_join_all;
use http::Method;
use plotters::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    Mode,
    markdown::{Table, figure},
    plot,
    progress::Progress,
    stats::{millis, percentile},
    timed::Timed,
};

/// How long nothing may be in flight before the drains end.
const QUIET_PERIOD: Duration = Duration::from_millis(50);
/// A request that a loop waits for takes this, and up to a period more.
const AT_LEAST: Duration = Duration::from_millis(50);
/// The bound of a drain.
const BOUND: Duration = Duration::from_secs(30);

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Detection {
    /// How long nothing may be in flight before a drain ends, in milliseconds.
    pub quiet_period: f64,
    /// Everybody who waited.
    pub ways: Vec<Timed>,
}

/// Measures.
///
/// # Errors
/// When a part does not start or does not do what it should.
pub async fn run(mode: Mode, progress: &Progress) -> Result<Detection> {
    let drains = mode.pick(500, 5);
    progress.say(format_args!("detection: {drains} drains by Ebb"));
    let mut ways = vec![Timed {
        name: "Ebb".to_owned(),
        times: by_ebb(drains).await?,
    }];
    // Every loop has a listener of its own and asks alone, so many wait side by side.
    let (lanes, rounds) = mode.pick((50, 10), (3, 2));
    let periods = mode.pick([1000, 5000], [100, 500]).map(Duration::from_millis);
    progress.say(format_args!("detection: {} by each loop", lanes * rounds));
    for (period, times) in by_loops(periods, lanes, rounds).await? {
        ways.push(Timed {
            name: format!("asking every {} s", period.as_secs_f64()),
            times,
        });
    }
    Ok(Detection {
        quiet_period: millis(QUIET_PERIOD),
        ways,
    })
}

async fn by_ebb(drains: usize) -> Result<Vec<f64>> {
    let options = EnvoyOptions {
        show_log: false,
        ..EnvoyOptions::default()
    };
    let world = World::start_with(options, |ebb, folder| ebb.state = Some(folder.join("state"))).await?;
    let mut client = world.client().await?;
    let mut times = Vec::with_capacity(drains);
    for _ in 0..drains {
        times.push(millis(one_drain(&world, &mut client).await?));
    }
    Ok(times)
}

/// From the last byte of a held request's response to the watcher's news that the drain has ended.
async fn one_drain(world: &World, client: &mut Client) -> Result<Duration> {
    let address = world.ingress()?;
    let request = tokio::spawn(timed(address, "/hold".to_owned()));
    world.upstream.wait_held(1).await?;
    let policy = Policy {
        quiet_period: Some(proto(QUIET_PERIOD)),
        timeout: Some(proto(BOUND)),
        ..Policy::default()
    };
    let drain = client
        .start(StartDrainRequest {
            policy: Some(policy),
            ..drain_of(&["ingress"])
        })
        .await?;
    client.wait_for_in_flight(&drain.id, 1).await?;
    let mut watch = client.watch(&drain.id).await?;
    world.upstream.release_all();
    let told = wait::within("the drain ends", BOUND, async {
        loop {
            let message = watch
                .message()
                .await?
                .context("the watch ended before the drain")?;
            let phase = message.drain.map(|drain| drain.phase());
            if phase == Some(Phase::Drained) {
                return anyhow::Ok(Instant::now());
            }
            ensure!(phase != Some(Phase::TimedOut), "the drain timed out");
        }
    })
    .await??;
    let ended = request.await??;
    client.cancel(&drain.id).await?;
    Ok(told.saturating_duration_since(ended))
}

/// When the response was complete.
async fn timed(address: SocketAddr, path: String) -> Result<Instant> {
    let response = http1::Connection::open(address).await?.get(&path).await?;
    let ended = Instant::now();
    ensure!(
        response.status == http::StatusCode::OK,
        "the answer was {}",
        response.status
    );
    Ok(ended)
}

async fn by_loops(periods: [Duration; 2], lanes: usize, rounds: usize) -> Result<Vec<(Duration, Vec<f64>)>> {
    let folder = folder()?;
    let upstream = Upstream::start().await?;
    let names: Vec<String> = (0..lanes * periods.len())
        .map(|lane| format!("lane{lane}"))
        .collect();
    let options = EnvoyOptions {
        show_log: false,
        ..EnvoyOptions::default()
    };
    let envoy = Envoy::start_as(&options, bare(&names, upstream.address()), folder.path()).await?;
    let waiting = names.iter().enumerate().map(|(lane, name)| {
        let period = if lane < lanes { periods[0] } else { periods[1] };
        let (socket, address) = (envoy.admin_socket(), envoy.address(name));
        async move {
            let mut times = Vec::with_capacity(rounds);
            let address = address?;
            for _ in 0..rounds {
                times.push(millis(one_loop(socket, name, address, period).await?));
            }
            anyhow::Ok(times)
        }
    });
    let mut times = try_join_all(waiting).await?;
    let slow = times.split_off(lanes);
    let [fast_period, slow_period] = periods;
    Ok(vec![(fast_period, times.concat()), (slow_period, slow.concat())])
}

/// From the last byte of a request's response to the end of a loop that asks for the connections of its listener.
async fn one_loop(socket: &Path, listener: &str, address: SocketAddr, period: Duration) -> Result<Duration> {
    let takes = AT_LEAST + period.mul_f64(fastrand::f64());
    let request = tokio::spawn(timed(address, format!("/delay/{}", takes.as_millis())));
    let gauge = format!("http.{listener}.downstream_cx_active");
    let path = format!("/stats?filter=^{gauge}$&type=Gauges");
    let mut ticks = tokio::time::interval(period);
    // The first tick is at once: the loop begins with a question, as the request may be over.
    tokio::time::sleep(AT_LEAST / 2).await;
    loop {
        ticks.tick().await;
        let (_, text) = admin::request(socket, Method::GET, &path).await?;
        let value = text.trim().rsplit(": ").next().unwrap_or_default();
        if value
            .parse::<u64>()
            .with_context(|| format!("{gauge} is {text:?}"))?
            == 0
        {
            break;
        }
    }
    let told = Instant::now();
    Ok(told.saturating_duration_since(request.await??))
}

/// An Envoy without Ebb: a listener for each name, all before one upstream.
fn bare(names: &[String], upstream: SocketAddr) -> Bootstrap {
    let address = |address: SocketAddr| json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } });
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = |name: &String| {
        json!({
            "name": name,
            "address": address(any),
            "filter_chains": [{ "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                    "stat_prefix": name,
                    "route_config": { "virtual_hosts": [{
                        "name": "all", "domains": ["*"],
                        "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "upstream" } }],
                    }] },
                    "http_filters": [{
                        "name": "envoy.filters.http.router",
                        "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
                    }],
                },
            }] }],
        })
    };
    let listeners: Vec<Value> = names.iter().map(listener).collect();
    Bootstrap::from_value(json!({
        "static_resources": {
            "listeners": listeners,
            "clusters": [{
                "name": "upstream",
                "type": "STATIC",
                "load_assignment": { "cluster_name": "upstream", "endpoints": [
                    { "lb_endpoints": [{ "endpoint": { "address": address(upstream) } }] }
                ] },
            }],
        },
    }))
}

impl Detection {
    /// As a section of Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let quiet = self.quiet_period;
        let mut table = Table::new(&["who waits", "drains", "p50, ms", "p99, ms", "max, ms"]);
        for way in &self.ways {
            table.row(&way.cells(1));
        }
        let over = self
            .ways
            .first()
            .and_then(|ebb| percentile(&ebb.times, 99.0))
            .map(|p99| p99 - quiet);
        let met = if over.is_some_and(|over| over <= 5.0) {
            "met"
        } else {
            "missed"
        };
        format!(
            "## Detection\n\nFrom the last byte of the last response to the answer. Ebb's times include its quiet period of \
             {quiet} ms, during which nothing may be in flight: what comes on top of it is {over} ms at the 99th percentile \
             (goal: 5 ms; {met}). The others ask Envoy for its open connections, as the loops of gateways do every second or \
             every five; they have no quiet period, and an idle client would hold them up for ever.\n\n{}",
            table.finish(),
            over = figure(over, 1),
        )
    }

    /// As a plot: the share of drains whose end was known within a time.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn plot(&self, file: &Path) -> Result<()> {
        let most = self
            .ways
            .iter()
            .filter_map(|way| percentile(&way.times, 100.0))
            .fold(100.0, f64::max);
        plot::draw(file, |area| {
            let mut chart = ChartBuilder::on(area)
                .caption("From the last request's end to the answer", ("sans-serif", 20))
                .margin(14)
                .x_label_area_size(44)
                .y_label_area_size(60)
                .build_cartesian_2d((10.0..most * 1.2).log_scale(), 0.0..100.0)
                .map_err(|error| plot::of_plot(&error))?;
            chart
                .configure_mesh()
                .x_desc("milliseconds (logarithmic)")
                .y_desc("% of drains")
                .x_label_formatter(&|x| format!("{x:.0}"))
                .y_label_formatter(&|y| format!("{y:.0}"))
                .light_line_style(TRANSPARENT)
                .draw()
                .map_err(|error| plot::of_plot(&error))?;
            for (way, colour) in self.ways.iter().zip([plot::EBB, plot::OTHER, plot::BAD]) {
                let mut times = way.times.clone();
                times.sort_by(f64::total_cmp);
                let all = times.len().max(1) as f64;
                let points = times
                    .iter()
                    .enumerate()
                    .map(|(i, time)| (*time, (i + 1) as f64 / all * 100.0));
                chart
                    .draw_series(LineSeries::new(points, colour.stroke_width(3)))
                    .map_err(|error| plot::of_plot(&error))?
                    .label(way.name.clone())
                    .legend(move |(x, y)| {
                        PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(3))
                    });
            }
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::LowerRight)
                .background_style(WHITE.mix(0.8))
                .border_style(BLACK.mix(0.3))
                .draw()
                .map_err(|error| plot::of_plot(&error))?;
            Ok(())
        })
    }
}
