//! One HTTP context from its first callback to its last: what it counts, and where.
//!
//! | plugin | counts a request | counts an attempt |
//! |---|---|---|
//! | in a listener | from request headers to the end | - |
//! | in a listener, with `upstreams` | the same | from request headers on without an endpoint, from response headers on towards the one that they came from |
//! | in a cluster | - | every try of every request, from its first byte on towards its endpoint |
//!
//! While there are plugins in clusters, those in listeners count no attempts: nothing counts twice. An attempt in a
//! cluster ends before Envoy makes the next one, so between two tries of a request there is a gap as long as the
//! back-off of the route.

use std::rc::Rc;

use crate::blockers;
use crate::counts::{InFlight, Kind, Listener, Seen};
use crate::upstreams::{Attempt, Endpoint, Upstreams};

/// What a root context counts.
#[derive(Debug)]
pub enum Plugin {
    /// In the filter chain of a listener.
    Listener {
        /// Where it counts requests.
        listener: Rc<Listener>,
        /// Where it counts attempts; `None` = it does not.
        upstreams: Option<Rc<Upstreams>>,
        /// Whether it tells gRPC from other requests also while nothing drains.
        detect_grpc: bool,
        /// Whether it keeps the path of a request while that is in flight.
        blocker_paths: bool,
    },
    /// In the filter chain of a cluster.
    Upstream(Rc<Upstreams>),
}

/// How a request ends whose connection Envoy closes by itself before the response is complete, as it does with all of them
/// when it exits. (A client that leaves: `downstream_remote_disconnect`.)
const CLOSED_BY_ENVOY: &[u8] = b"downstream_local_disconnect";

/// What the host can tell about the stream at hand. Every answer costs a hostcall.
pub trait Look {
    /// The endpoint of the current attempt, once it is chosen.
    fn upstream_address(&self) -> Option<String>;
    /// The `content-type` of the request; only while its headers arrive.
    fn content_type(&self) -> Option<Vec<u8>>;
    /// The path of the request, with its query; only while its headers arrive.
    fn path(&self) -> Option<Vec<u8>>;
    /// The local port of its connection.
    fn port(&self) -> Option<u32>;
    /// Whether Envoy's `health_check` filter takes the request for a health probe; only while its response headers arrive.
    fn is_probe(&self) -> bool;
    /// How it ended, in Envoy's words (`response.code_details`); only where it ends.
    fn end_details(&self) -> Option<Vec<u8>>;
}

/// What has reached zero or left it.
#[derive(Debug, Default)]
pub struct Crossings {
    /// The requests of a listener.
    pub listener: Option<Rc<Listener>>,
    /// The attempts towards the endpoint that this one has left.
    pub left: Option<Rc<Endpoint>>,
    /// The attempts towards the endpoint that this one has come to.
    pub joined: Option<Rc<Endpoint>>,
}

impl Crossings {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.listener.is_none() && self.left.is_none() && self.joined.is_none()
    }

    /// The endpoints among them.
    pub fn endpoints(&self) -> impl Iterator<Item = &Rc<Endpoint>> {
        self.left.iter().chain(&self.joined)
    }
}

/// One HTTP stream, or one attempt of it. Envoy makes it for everything that arrives, also for what never becomes a
/// request.
#[derive(Debug)]
pub struct Request {
    context: u32,
    plugin: Rc<Plugin>,
    in_flight: Option<InFlight>,
    attempt: Option<Attempt>,
    /// Whether its response headers have come.
    answered: bool,
}

impl Request {
    /// A stream that has just appeared, and counts nowhere yet. `context` is the id of its HTTP context.
    pub fn new(context: u32, plugin: Rc<Plugin>) -> Self {
        Self {
            context,
            plugin,
            in_flight: None,
            attempt: None,
            answered: false,
        }
    }

    /// The listener that it came in on.
    pub fn listener(&self) -> Option<&Rc<Listener>> {
        match &*self.plugin {
            Plugin::Listener { listener, .. } => Some(listener),
            Plugin::Upstream(_) => None,
        }
    }

    /// Its request headers have arrived. `serving`: nothing drains; `bodiless`: nothing follows them.
    pub fn begin(&mut self, serving: bool, bodiless: bool, look: &impl Look) -> Crossings {
        let mut crossings = Crossings::default();
        match &*self.plugin {
            Plugin::Listener {
                listener,
                upstreams,
                detect_grpc,
                blocker_paths,
            } if self.in_flight.is_none() => {
                // A request of gRPC has a body.
                let looks = !bodiless && (*detect_grpc || !serving);
                let grpc = looks && look.content_type().is_some_and(|kind| blockers::is_grpc(&kind));
                let kind = if grpc { Kind::Grpc } else { Kind::Unknown };
                let path = blocker_paths.then(|| look.path().unwrap_or_default());
                self.in_flight = Some(listener.begin_with(Seen {
                    context: self.context,
                    kind,
                    path: path.map(|path| blockers::shown_path(&path)).unwrap_or_default(),
                }));
                crossings.listener = (listener.in_flight() == 1).then(|| Rc::clone(listener));
                if !serving || listener.knows_no_port() {
                    listener.note_port(look.port());
                }
                if let Some(upstreams) = upstreams.as_ref().filter(|upstreams| !upstreams.has_filters()) {
                    self.count(upstreams.begin_unassigned(), &mut crossings);
                }
            }
            Plugin::Upstream(upstreams) if self.attempt.is_none() => {
                let address = look.upstream_address().unwrap_or_default();
                self.count(upstreams.begin(&address), &mut crossings);
            }
            Plugin::Listener { .. } | Plugin::Upstream(_) => {}
        }
        crossings
    }

    /// Its response headers have come. An answer of Envoy's own comes from no endpoint. `serving`: nothing drains. Whether it
    /// was a probe is looked at while something drains: only then does it matter who still comes.
    pub fn answered(&mut self, serving: bool, look: &impl Look) -> Crossings {
        let first = !std::mem::replace(&mut self.answered, true);
        if let Some(in_flight) = self.in_flight.as_ref().filter(|_| first && !serving)
            && look.is_probe()
        {
            in_flight.listener().count_probe();
        }
        let mut crossings = Crossings::default();
        if let (
            Plugin::Listener {
                upstreams: Some(upstreams),
                ..
            },
            Some(_),
        ) = (&*self.plugin, &self.attempt)
            && let Some(address) = look.upstream_address()
        {
            self.count(upstreams.begin(&address), &mut crossings);
        }
        crossings
    }

    /// Envoy has destroyed it. `serving`: nothing drains. How it ended is looked at while something drains, and where it
    /// ends without an answer, which is rare: a drain may have begun of which this VM has not heard yet.
    pub fn end(&mut self, serving: bool, look: &impl Look) -> Crossings {
        let mut crossings = Crossings::default();
        if self.was_cut(serving, look) {
            if let Some(in_flight) = &self.in_flight {
                in_flight.listener().count_cut();
            }
            if let Some(attempt) = &self.attempt {
                attempt.endpoint().count_cut();
            }
        }
        if let Some(in_flight) = self.in_flight.take() {
            let listener = Rc::clone(in_flight.listener());
            drop(in_flight);
            crossings.listener = (listener.in_flight() == 0).then_some(listener);
        }
        self.leave(&mut crossings);
        crossings
    }

    fn was_cut(&self, serving: bool, look: &impl Look) -> bool {
        (self.in_flight.is_some() || self.attempt.is_some())
            && (!serving || !self.answered)
            && look
                .end_details()
                .is_some_and(|details| details.starts_with(CLOSED_BY_ENVOY))
    }

    /// Counts there and no longer where it did; never nowhere in between.
    fn count(&mut self, attempt: Attempt, crossings: &mut Crossings) {
        let joined = attempt.endpoint();
        crossings.joined = (joined.in_flight() == 1).then(|| Rc::clone(joined));
        self.leave(crossings);
        self.attempt = Some(attempt);
    }

    fn leave(&mut self, crossings: &mut Crossings) {
        if let Some(attempt) = self.attempt.take() {
            let endpoint = Rc::clone(attempt.endpoint());
            drop(attempt);
            crossings.left = (endpoint.in_flight() == 0).then_some(endpoint);
        }
    }
}

#[cfg(test)]
mod tests;
