//! The attempts in flight towards upstream endpoints, in one VM.
//!
//! An attempt is one try of Envoy to get an answer to a request. It holds an [`Attempt`], and dropping that is the
//! only way to count down. Who knows an attempt, and from when on, depends on the plugin: see [`crate::request`].

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use ebb_proto::v1::UpstreamCounts;

/// Above this many endpoints, those with nothing in flight are forgotten: endpoints come and go for as long as a VM
/// lives, and a report has to stay small.
const MOST_KNOWN: usize = 1000;

/// The counters of one endpoint in one VM.
#[derive(Debug, Default)]
pub struct Endpoint {
    /// Empty = attempts whose endpoint is not known yet.
    address: String,
    in_flight: Cell<u64>,
    started: Cell<u64>,
    cut: Cell<u64>,
    /// Whether it had an attempt since the stream opened.
    recent: Cell<bool>,
}

impl Endpoint {
    /// As Envoy gives it, such as `127.0.0.1:8081`; empty = attempts whose endpoint is not known yet.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Attempts in flight.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.get()
    }

    /// Counts an attempt of a request that Envoy cut.
    pub fn count_cut(&self) {
        self.cut.set(self.cut.get().saturating_add(1));
    }

    fn begin(self: &Rc<Self>) -> Attempt {
        self.in_flight.set(self.in_flight.get().saturating_add(1));
        self.started.set(self.started.get().saturating_add(1));
        self.recent.set(true);
        Attempt(Rc::clone(self))
    }

    fn counts(&self) -> Option<UpstreamCounts> {
        // Were what it cut told only now and then, it would look as if it had just been cut.
        let tells = self.recent.get() || self.in_flight.get() > 0 || self.cut.get() > 0;
        tells.then(|| UpstreamCounts {
            address: self.address.clone(),
            in_flight: self.in_flight.get(),
            started: self.started.get(),
            cut: self.cut.get(),
        })
    }
}

/// An attempt in flight.
#[derive(Debug)]
pub struct Attempt(Rc<Endpoint>);

impl Attempt {
    /// Where the attempt is in flight.
    pub fn endpoint(&self) -> &Rc<Endpoint> {
        &self.0
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get().saturating_sub(1));
    }
}

/// All upstream endpoints of a VM.
#[derive(Debug, Default)]
pub struct Upstreams {
    unassigned: Rc<Endpoint>,
    known: RefCell<BTreeMap<String, Rc<Endpoint>>>,
    /// Root contexts in the filter chains of clusters.
    filters: Cell<u32>,
    /// Root contexts in listeners that count no attempts.
    blind: Cell<u32>,
}

impl Upstreams {
    /// Counts an attempt whose endpoint is not known, until the guard is dropped.
    pub fn begin_unassigned(&self) -> Attempt {
        self.unassigned.begin()
    }

    /// Counts an attempt towards an endpoint, until the guard is dropped.
    pub fn begin(&self, address: &str) -> Attempt {
        if address.is_empty() {
            return self.begin_unassigned();
        }
        // Nothing is called while it is borrowed, so it is free.
        let Ok(mut known) = self.known.try_borrow_mut() else {
            return self.begin_unassigned();
        };
        if let Some(endpoint) = known.get(address) {
            return endpoint.begin();
        }
        if known.len() >= MOST_KNOWN {
            known.retain(|_, endpoint| endpoint.in_flight.get() > 0);
        }
        let endpoint = Rc::new(Endpoint {
            address: address.to_owned(),
            ..Endpoint::default()
        });
        known.insert(address.to_owned(), Rc::clone(&endpoint));
        endpoint.begin()
    }

    /// Adds a root context in the filter chain of a cluster.
    pub fn add_filter(&self) {
        self.filters.set(self.filters.get().saturating_add(1));
    }

    /// Takes such a root context away.
    pub fn remove_filter(&self) {
        self.filters.set(self.filters.get().saturating_sub(1));
    }

    /// Whether filters of clusters count the attempts, so that those of listeners must not.
    pub fn has_filters(&self) -> bool {
        self.filters.get() > 0
    }

    /// Adds a root context in a listener that counts no attempts.
    pub fn add_blind(&self) {
        self.blind.set(self.blind.get().saturating_add(1));
    }

    /// Takes such a root context away.
    pub fn remove_blind(&self) {
        self.blind.set(self.blind.get().saturating_sub(1));
    }

    /// Whether the attempts of all requests are counted: by filters of clusters, or by those of every listener.
    pub fn counts_all(&self) -> bool {
        self.has_filters() || self.blind.get() == 0
    }

    /// A stream opens: from now on, endpoints are reported if they have an attempt in flight or get one.
    pub fn stream_opens(&self) {
        self.unassigned.recent.set(false);
        if let Ok(known) = self.known.try_borrow() {
            known.values().for_each(|endpoint| endpoint.recent.set(false));
        }
    }

    /// The counters as they are reported, sorted by address.
    pub fn report(&self) -> Vec<UpstreamCounts> {
        let mut counts: Vec<_> = self.unassigned.counts().into_iter().collect();
        if let Ok(known) = self.known.try_borrow() {
            counts.extend(known.values().filter_map(|endpoint| endpoint.counts()));
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(upstreams: &Upstreams) -> Vec<(String, u64, u64)> {
        let counts = upstreams.report().into_iter();
        counts
            .map(|counts| (counts.address, counts.in_flight, counts.started))
            .collect()
    }

    fn count(address: &str, in_flight: u64, started: u64) -> (String, u64, u64) {
        (address.to_owned(), in_flight, started)
    }

    #[test]
    fn an_attempt_counts_until_it_is_dropped() {
        let upstreams = Upstreams::default();
        assert!(counted(&upstreams).is_empty(), "nothing was tried");
        let first = upstreams.begin("b:1");
        let second = upstreams.begin("b:1");
        let other = upstreams.begin("a:1");
        assert_eq!(counted(&upstreams), [count("a:1", 1, 1), count("b:1", 2, 2)]);
        drop((first, other));
        assert_eq!(counted(&upstreams), [count("a:1", 0, 1), count("b:1", 1, 2)]);
        drop(second);
        assert_eq!(counted(&upstreams), [count("a:1", 0, 1), count("b:1", 0, 2)]);
    }

    #[test]
    fn an_attempt_without_an_address_may_be_any() {
        let upstreams = Upstreams::default();
        let _one = upstreams.begin_unassigned();
        let _two = upstreams.begin("");
        let _three = upstreams.begin("a:1");
        assert_eq!(counted(&upstreams), [count("", 2, 2), count("a:1", 1, 1)]);
    }

    #[test]
    fn a_new_stream_hears_of_what_is_in_flight_and_of_what_comes() {
        let upstreams = Upstreams::default();
        drop(upstreams.begin("idle:1"));
        drop(upstreams.begin_unassigned());
        let _held = upstreams.begin("held:1");
        upstreams.stream_opens();
        assert_eq!(counted(&upstreams), [count("held:1", 1, 1)]);
        drop(upstreams.begin("idle:1"));
        assert_eq!(
            counted(&upstreams),
            [count("held:1", 1, 1), count("idle:1", 0, 2)]
        );
    }

    #[test]
    fn endpoints_that_come_and_go_are_forgotten_and_those_in_flight_are_not() {
        let upstreams = Upstreams::default();
        let _held = upstreams.begin("held:1");
        for number in 0..10 * MOST_KNOWN {
            drop(upstreams.begin(&format!("10.0.0.1:{number}")));
            assert!(upstreams.report().len() <= MOST_KNOWN);
        }
        assert!(counted(&upstreams).contains(&count("held:1", 1, 1)));
    }
}
