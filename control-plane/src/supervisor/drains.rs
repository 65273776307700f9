//! The drains of a shutdown, run by the control plane's own engine.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use ebb_proto::v1::{self, Phase};
use tokio::sync::watch;

use super::{
    arrivals,
    cut::{Follow, Following, Left, Remains},
    machine::DrainOutcome,
    succession::RunRecord,
};
use crate::{
    core::{
        drains::StartRequest,
        policy::{MAX_KEY, OnTimeout, Policy, PolicyOverrides, Tcp},
        reading::sum,
        record::OF_A_SHUTDOWN,
    },
    engine::{Engine, Gone},
};

/// A drain ends this much before its bound, so that its own account of what is left comes in time.
const ANSWER_WITHIN: Duration = Duration::from_millis(20);

/// Between two lines in the log on what a drain waits for. Should this process be killed, the last of them tells.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// How long it may take to keep something.
const KEEP_WITHIN: Duration = Duration::from_secs(1);

/// Drains for the supervisor.
#[derive(Clone, Debug)]
pub struct Drains {
    engine: Engine,
    /// As it is configured, or the default.
    policy: Policy,
    /// The `node.id` of each proxy of this supervisor, as far as it is known.
    own: Vec<watch::Receiver<Option<String>>>,
}

/// What to drain, and how long.
#[derive(Clone, Debug)]
pub struct DrainRequest {
    /// The process that serves the listeners; for people.
    pub process: String,
    /// Its `node.id`; unknown = every node that is attached.
    pub node: Option<String>,
    /// Names; empty = all.
    pub listeners: Vec<String>,
    /// How long they go on serving as usual first.
    pub announce: Duration,
    /// How long nothing may be in flight and nothing arrive.
    pub quiet_period: Duration,
    /// Bound over all of it.
    pub timeout: Duration,
    /// Whether its listeners can be closed when it ends.
    pub closable: bool,
}

impl Drains {
    /// On this engine, by this policy.
    #[must_use]
    pub fn new(engine: Engine, policy: Policy) -> Self {
        let own = Vec::new();
        Self { engine, policy, own }
    }

    /// The same for a supervisor with these proxies.
    #[must_use]
    pub fn of(self, own: Vec<watch::Receiver<Option<String>>>) -> Self {
        Self { own, ..self }
    }

    /// How long nothing may be in flight and nothing arrive before a drain is done.
    #[must_use]
    pub fn quiet_period(&self) -> Duration {
        self.policy.quiet_period
    }

    /// What raw TCP sessions mean to a stop.
    #[must_use]
    pub fn tcp(&self) -> Tcp {
        self.policy.tcp
    }

    /// Runs a drain to its end, and says meanwhile what is left. Dropping the future leaves it running: its listeners go on
    /// closing, and what is left is still said.
    ///
    /// # Errors
    /// It cannot be started, in words: nothing is known of these listeners.
    pub async fn run(&self, request: DrainRequest, left: &Left) -> Result<DrainOutcome, String> {
        let (id, request_id) = fresh_ids(&request.process);
        let start = StartRequest {
            request_id,
            id: id.clone(),
            scope: v1::Scope {
                nodes: request.node.iter().cloned().collect(),
                listeners: request.listeners.clone(),
                upstreams: Vec::new(),
            }
            .into(),
            overrides: policy(&request, &self.policy),
            of_a_stop: true,
        };
        let gone = |Gone| Gone.to_string();
        let started = self.engine.start_drain(start).await.map_err(gone)?;
        started.map_err(|error| error.to_string())?;
        let Some(views) = self.engine.watch_drain(id).await.map_err(gone)? else {
            return Err("the drain is not known any more".to_owned());
        };
        let following = tokio::spawn(follow(views.clone(), request.process, left.follows()));
        tokio::select! {
            ended = following => ended.ok().flatten().ok_or_else(|| gone(Gone)),
            () = arrivals::none_stays(&self.engine, views, request.quiet_period), if request.closable => {
                Ok(DrainOutcome::NoneStays)
            }
        }
    }

    /// Releases the drains of the shutdown that has ended. Those of a run that died were released before this one served.
    pub async fn release(&self) {
        let Ok(drains) = self.engine.drains().await else {
            return;
        };
        let ours = drains
            .into_iter()
            .filter(|drain| drain.request_id.starts_with(OF_A_SHUTDOWN));
        for drain in ours.filter(|drain| drain.holding || !is_over(drain)) {
            // Gone is released as well.
            let _ = self.engine.cancel(drain.id).await;
        }
    }

    /// Keeps what a successor of this run has to know, or nothing once it is over. A disk that hangs holds up no shutdown.
    pub async fn keep_run(&self, run: Option<RunRecord>) {
        let kept = tokio::time::timeout(KEEP_WITHIN, self.engine.keep_run(run)).await;
        if kept.is_err() {
            tracing::error!("what a successor has to know is not kept within {KEEP_WITHIN:?}; going on");
        }
    }

    /// The nodes of which a filter is attached.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn attached(&self) -> Result<BTreeSet<String>, Gone> {
        let is_live = |reporter: &v1::Reporter| reporter.state() == v1::ReporterState::Live;
        let nodes = self.engine.nodes().await?.into_iter();
        let attached = nodes.filter(|node| node.reporters.iter().any(is_live));
        Ok(attached.map(|node| node.id).collect())
    }

    /// Whether a drain of these listeners could be started.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn check(&self, nodes: Vec<String>, listeners: Vec<String>) -> Result<(), String> {
        let scope = v1::Scope {
            nodes,
            listeners,
            upstreams: Vec::new(),
        };
        match self.engine.check(scope.into()).await {
            Ok(checked) => checked.map_err(|error| error.to_string()),
            Err(Gone) => Ok(()),
        }
    }

    /// A process that is a proxy has ended, and so has what was in flight in it.
    pub async fn process_ended(&self, pid: u32) {
        // Gone needs no word of it.
        let _ = self.engine.process_ended(pid).await;
    }

    /// Which drain keeps this from serving as usual, in words.
    pub async fn closing(&self) -> Option<String> {
        let drains = self.engine.drains().await.ok()?;
        let own: Vec<Option<String>> = self.own.iter().map(|node| node.borrow().clone()).collect();
        let drain = drains
            .into_iter()
            .find(|drain| (drain.holding || !is_over(drain)) && concerns(drain, &own))?;
        let listeners = drain.scope.map(|scope| scope.listeners).unwrap_or_default();
        let what = if listeners.is_empty() {
            "every listener".to_owned()
        } else {
            listeners.join(", ")
        };
        Some(format!("drain {} of {what}", drain.id))
    }

    /// Requests in flight of a node, or of every Envoy that is attached, as the filters tell it.
    ///
    /// # Errors
    /// It is not known, in words: a reporter is unknown, or none is attached.
    pub async fn in_flight(&self, node: Option<&str>) -> Result<u64, String> {
        let mut nodes = self.engine.nodes().await.map_err(|gone| gone.to_string())?;
        nodes.retain(|one| node.is_none_or(|node| one.id == node));
        if nodes.is_empty() {
            return Err("no filter of it is attached".to_owned());
        }
        let live = |reporter: &&v1::Reporter| reporter.state() == v1::ReporterState::Live;
        for node in &nodes {
            if let Some(reporter) = node.reporters.iter().find(|reporter| !live(reporter)) {
                return Err(format!(
                    "reporter {} of {} unknown ({})",
                    reporter.id, node.id, reporter.reason
                ));
            }
        }
        let listeners = nodes.iter().flat_map(|node| &node.listeners);
        Ok(sum(listeners.map(|listener| listener.in_flight)))
    }
}

/// Follows a drain to its end; `None` = nobody tells of it any more.
async fn follow(
    mut views: watch::Receiver<v1::Drain>,
    process: String,
    left: Following,
) -> Option<DrainOutcome> {
    let mut follow = Follow::default();
    let mut log_at = Instant::now();
    loop {
        let view = views.borrow_and_update().clone();
        let remains = follow.next(&view);
        let ended = outcome(&view, &remains);
        let text = remains.text();
        left.set(match ended {
            Some(DrainOutcome::Drained) => Remains::default(),
            _ => remains,
        });
        if ended.is_some() {
            return ended;
        }
        if !text.is_empty() && Instant::now() >= log_at {
            tracing::info!(process, "waiting for its requests to end: {text}");
            log_at = Instant::now() + LOG_EVERY;
        }
        views.changed().await.ok()?;
    }
}

/// The id of a new drain, and its request id. Drains are kept over many shutdowns, and one that took the request id of
/// another would join it: so both are as good as unique. A request id has a bound, which the name of a process has not.
fn fresh_ids(process: &str) -> (String, String) {
    let unique = format!("{:032x}", fastrand::u128(..));
    (
        format!("shutdown-{process}-{unique}"),
        format!("{OF_A_SHUTDOWN}{unique}"),
    )
}

/// A shutdown always proceeds, and takes what time is left.
fn policy(request: &DrainRequest, configured: &Policy) -> PolicyOverrides {
    let timeout = request.timeout.saturating_sub(ANSWER_WITHIN).min(MAX_KEY);
    // Where less time is left than was planned, the announcement and what comes after it still have to fit.
    PolicyOverrides {
        announce: Some(request.announce.min(timeout / 2)),
        quiet_period: Some(request.quiet_period.min(timeout / 4)),
        linger: Some(configured.linger.min(timeout / 4)),
        flush: Some(configured.flush.min(timeout / 4)),
        idle: Some(configured.idle.min(timeout / 4)),
        timeout: Some(timeout),
        on_timeout: Some(OnTimeout::Proceed),
        ..PolicyOverrides::default()
    }
}

/// Whether a drain closes anything of the proxies with these names; where none is known, any drain may.
fn concerns(drain: &v1::Drain, own: &[Option<String>]) -> bool {
    let Some(scope) = &drain.scope else {
        return true;
    };
    let is_own = |node: &String| own.iter().any(|own| own.as_ref() == Some(node));
    let may_be_own = own.is_empty() || own.contains(&None);
    scope.upstreams.is_empty() && (scope.nodes.is_empty() || may_be_own || scope.nodes.iter().any(is_own))
}

pub(super) fn is_over(drain: &v1::Drain) -> bool {
    outcome(drain, &Remains::default()).is_some()
}

/// How a drain has ended with this left; `None` = it has not.
fn outcome(drain: &v1::Drain, remains: &Remains) -> Option<DrainOutcome> {
    match drain.phase() {
        Phase::Drained => Some(DrainOutcome::Drained),
        Phase::TimedOut => Some(DrainOutcome::TimedOut(timed_out(drain, remains))),
        Phase::Cancelled => Some(DrainOutcome::Cancelled),
        Phase::Cut => Some(DrainOutcome::Cut(drain.cut)),
        Phase::Unspecified | Phase::Announced | Phase::Draining | Phase::Quiet => None,
    }
}

/// In words, what a drain that ended in the state of this view had left.
fn timed_out(drain: &v1::Drain, remains: &Remains) -> String {
    let text = remains.text();
    if !text.is_empty() {
        return text;
    }
    let nothing = "nothing was left";
    let why = drain.warnings.iter().find(|warning| warning.starts_with(nothing));
    why.cloned().unwrap_or_else(|| {
        format!("{nothing}, but it was not yet quiet for long enough: make drain.quiet_period shorter, or the time for it longer")
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::core::drains::MAX_REQUEST_ID;

    #[test]
    fn drains_of_others_and_towards_upstreams_do_not_concern_this_supervisor() {
        let drain = |nodes: &[&str], upstreams: &[&str]| {
            let names = |all: &[&str]| all.iter().map(|&name| name.to_owned()).collect();
            v1::Drain {
                scope: Some(v1::Scope {
                    nodes: names(nodes),
                    upstreams: names(upstreams),
                    ..v1::Scope::default()
                }),
                ..v1::Drain::default()
            }
        };
        let own = [Some("edge".to_owned()), Some("inner".to_owned())];
        assert!(concerns(&drain(&[], &[]), &own));
        assert!(concerns(&drain(&["other", "inner"], &[]), &own));
        assert!(!concerns(&drain(&["other"], &[]), &own));
        assert!(!concerns(&drain(&[], &["127.0.0.1:80"]), &own));
        assert!(concerns(&drain(&["other"], &[]), &[own[0].clone(), None]));
        assert!(concerns(&drain(&["other"], &[]), &[]));
    }

    #[test]
    fn no_drain_takes_the_id_of_another() {
        let ids: HashSet<_> = (0..100_000).map(|_| fresh_ids("router")).collect();
        assert_eq!(ids.len(), 100_000);
        let (id, request_id) = fresh_ids(&"x".repeat(200));
        assert!(id.starts_with("shutdown-xxx") && request_id.starts_with(OF_A_SHUTDOWN));
        assert!(request_id.len() <= MAX_REQUEST_ID, "{request_id}");
    }

    #[test]
    fn a_shutdown_always_fits_what_time_is_left() {
        let long = Duration::from_secs(20);
        let configured = Policy {
            linger: long,
            flush: long,
            idle: long,
            ..Policy::default()
        };
        for timeout in [25, 400, 1_000, 30_000] {
            let request = DrainRequest {
                process: "router".to_owned(),
                node: None,
                listeners: Vec::new(),
                announce: long,
                quiet_period: long,
                timeout: Duration::from_millis(timeout),
                closable: true,
            };
            let policy = configured.with(&policy(&request, &configured));
            assert!(policy.is_ok(), "{timeout} ms: {policy:?}");
        }
    }

    #[test]
    fn a_drain_that_timed_out_says_what_was_left() {
        let listener = |name: &str, in_flight| v1::DrainListener {
            node: "edge".to_owned(),
            name: name.to_owned(),
            in_flight,
            ..v1::DrainListener::default()
        };
        let mut drain = v1::Drain {
            phase: Phase::TimedOut.into(),
            in_flight: 2,
            listeners: vec![listener("ingress", 2), listener("internal", 0)],
            ..v1::Drain::default()
        };
        let text = |drain: &v1::Drain| {
            let remains = Follow::default().next(drain);
            outcome(drain, &remains).expect("ended").to_string()
        };
        assert_eq!(text(&drain), "drain timed out: 2 in flight on ingress of edge");
        drain.unknown_reporters.push(v1::UnknownReporter {
            node: "edge".to_owned(),
            reporter: "00a1".to_owned(),
            reason: "silent for 2s".to_owned(),
        });
        assert_eq!(
            text(&drain),
            "drain timed out: 2 in flight on ingress of edge, reporter 00a1 of edge unknown (silent for 2s)"
        );
        drain.listeners.clear();
        drain.unknown_reporters.clear();
        assert_eq!(text(&drain), "drain timed out: 2 in flight by Envoy's own count");
        drain.in_flight = 0;
        drain.outstanding = Some(v1::Outstanding {
            tcp_sessions: Some(2),
            unsent_bytes: Some(37_000),
            unsent_clients: Some(1),
            ..v1::Outstanding::default()
        });
        assert_eq!(
            text(&drain),
            "drain timed out: 2 TCP sessions, 37 kB towards 1 client"
        );
        drain.outstanding = None;
        assert_eq!(
            text(&drain),
            "drain timed out: nothing was left, but it was not yet quiet for long enough: make drain.quiet_period shorter, or the \
             time for it longer"
        );
        drain.warnings = vec![
            "other".to_owned(),
            "nothing was left, but requests kept arriving".to_owned(),
        ];
        assert_eq!(
            text(&drain),
            "drain timed out: nothing was left, but requests kept arriving"
        );
    }
}
