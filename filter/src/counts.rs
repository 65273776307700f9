//! The counters of the listeners of one VM.
//!
//! A request is in flight from its headers until Envoy destroys it, whichever way it ends. So it holds an
//! [`InFlight`], and dropping that is the only way to count down: nothing can leak.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use ebb_proto::v1::ListenerCounts;

use crate::upstreams::Upstreams;

/// Everything that a VM counts.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests, by listener.
    pub listeners: Listeners,
    /// Attempts, by upstream endpoint.
    pub upstreams: Rc<Upstreams>,
}

/// What is kept of a request in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Id of its HTTP context.
    pub context: u32,
    /// What was seen when its headers arrived.
    pub kind: Kind,
    /// Its path, where that is switched on; else empty, which costs nothing.
    pub path: Box<str>,
}

/// What was seen of a request in flight when its headers arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing was looked at.
    Unknown,
    /// gRPC.
    Grpc,
}

/// The most ports that are kept of a listener: one that listens on more is rare.
const MOST_PORTS: usize = 16;

/// The counters of one listener in one VM.
#[derive(Debug, Default)]
pub struct Listener {
    name: String,
    /// Root contexts that carry this name: two for a moment when Envoy replaces a listener.
    roots: Cell<u32>,
    in_flight: Cell<u64>,
    started: Cell<u64>,
    marked: Cell<u64>,
    cut: Cell<u64>,
    probes: Cell<u64>,
    /// `None` = not looked at yet.
    ports: RefCell<Option<Vec<u32>>>,
    carry: Cell<f64>,
    /// The requests in flight by their number. (Ids of contexts start over some day, numbers do not.)
    live: RefCell<BTreeMap<u64, Seen>>,
}

impl Listener {
    /// The name from the plugin configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.get()
    }

    /// Counts a request from now until the guard is dropped. `context` is the id of its HTTP context.
    pub fn begin(self: &Rc<Self>, context: u32, kind: Kind) -> InFlight {
        self.begin_with(Seen {
            context,
            kind,
            path: Box::default(),
        })
    }

    /// As [`Listener::begin`], with all that is to be kept of it.
    pub fn begin_with(self: &Rc<Self>, seen: Seen) -> InFlight {
        let number = self.started.get().saturating_add(1);
        self.in_flight.set(self.in_flight.get().saturating_add(1));
        self.started.set(number);
        // Nothing is called while it is borrowed, so it is free. The count does not depend on it.
        if let Ok(mut live) = self.live.try_borrow_mut() {
            live.insert(number, seen);
        }
        InFlight {
            listener: Rc::clone(self),
            number,
        }
    }

    /// The `most` oldest requests in flight, the oldest first.
    pub fn oldest(&self, most: usize) -> Vec<Seen> {
        self.live
            .try_borrow()
            .map_or_else(|_| Vec::new(), |live| live.values().take(most).cloned().collect())
    }

    /// Counts a response that was marked for the closer.
    pub fn count_mark(&self) {
        self.marked.set(self.marked.get().saturating_add(1));
    }

    /// Counts a request that Envoy cut.
    pub fn count_cut(&self) {
        self.cut.set(self.cut.get().saturating_add(1));
    }

    /// Counts a request that was a health probe.
    pub fn count_probe(&self) {
        self.probes.set(self.probes.get().saturating_add(1));
    }

    /// Whether the port of none of its connections has been looked at.
    pub fn knows_no_port(&self) -> bool {
        self.ports.try_borrow().is_ok_and(|ports| ports.is_none())
    }

    /// Notes the local port of one of its connections, up to 16 of them; `None` = Envoy does not tell.
    pub fn note_port(&self, port: Option<u32>) {
        let Ok(mut ports) = self.ports.try_borrow_mut() else {
            return;
        };
        let ports = ports.get_or_insert_default();
        if ports.len() < MOST_PORTS {
            ports.extend(port.filter(|port| !ports.contains(port)));
        }
    }

    /// What is left over from earlier decisions of a ramp, see [`crate::closing`].
    pub fn carry(&self) -> &Cell<f64> {
        &self.carry
    }

    /// Whether it has neither a root context nor a request left, and nothing to tell: as Envoy exits it takes one root context
    /// after the other, and what it cut on the first must be in the last report.
    pub fn is_gone(&self) -> bool {
        self.roots.get() == 0 && self.in_flight.get() == 0 && self.cut.get() == 0
    }
}

/// A request in flight; dropped when Envoy destroys it.
#[derive(Debug)]
pub struct InFlight {
    listener: Rc<Listener>,
    number: u64,
}

impl InFlight {
    /// Where the request is in flight.
    pub fn listener(&self) -> &Rc<Listener> {
        &self.listener
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let listener = &self.listener;
        listener.in_flight.set(listener.in_flight.get().saturating_sub(1));
        if let Ok(mut live) = listener.live.try_borrow_mut() {
            live.remove(&self.number);
        }
    }
}

/// All listeners of a VM, in the order in which they were configured.
#[derive(Debug, Default)]
pub struct Listeners(Vec<Rc<Listener>>);

impl Listeners {
    /// Adds a root context of that name. Equal names share their counters.
    pub fn add(&mut self, name: &str) -> Rc<Listener> {
        let listener = match self.0.iter().find(|listener| listener.name == name) {
            Some(listener) => Rc::clone(listener),
            None => {
                let listener = Rc::new(Listener {
                    name: name.to_owned(),
                    ..Listener::default()
                });
                self.0.push(Rc::clone(&listener));
                listener
            }
        };
        listener.roots.set(listener.roots.get().saturating_add(1));
        listener
    }

    /// Takes a root context away. The listener itself stays until nothing is in flight in it.
    pub fn remove(&mut self, listener: &Listener) {
        listener.roots.set(listener.roots.get().saturating_sub(1));
    }

    /// Forgets listeners that have neither a root context nor a request; says whether there were any.
    pub fn prune(&mut self) -> bool {
        let before = self.0.len();
        self.0.retain(|listener| !listener.is_gone());
        self.0.len() != before
    }

    /// All of them, in the order in which they were configured.
    pub fn iter(&self) -> impl Iterator<Item = &Rc<Listener>> {
        self.0.iter()
    }

    /// The counters as they are reported.
    pub fn report(&self) -> Vec<ListenerCounts> {
        let counts = |listener: &Rc<Listener>| ListenerCounts {
            name: listener.name.clone(),
            in_flight: listener.in_flight.get(),
            started: listener.started.get(),
            marked: listener.marked.get(),
            cut: listener.cut.get(),
            probes: listener.probes.get(),
            ports: listener
                .ports
                .try_borrow()
                .ok()
                .and_then(|ports| ports.clone())
                .unwrap_or_default(),
        };
        self.0.iter().map(counts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_flight(listeners: &Listeners) -> Vec<(String, u64, u64)> {
        listeners
            .report()
            .into_iter()
            .map(|counts| (counts.name, counts.in_flight, counts.started))
            .collect()
    }

    #[test]
    fn a_request_counts_until_it_is_dropped() {
        let mut listeners = Listeners::default();
        let listener = listeners.add("a");
        let first = listener.begin(1, Kind::Unknown);
        let second = listener.begin(2, Kind::Unknown);
        assert_eq!(in_flight(&listeners), [("a".to_owned(), 2, 2)]);
        drop(first);
        assert_eq!(in_flight(&listeners), [("a".to_owned(), 1, 2)]);
        drop(second);
        assert_eq!(in_flight(&listeners), [("a".to_owned(), 0, 2)]);
    }

    #[test]
    fn a_replaced_listener_keeps_its_counters() {
        let mut listeners = Listeners::default();
        let old = listeners.add("a");
        let request = old.begin(1, Kind::Unknown);
        let new = listeners.add("a");
        listeners.remove(&old);
        assert!(!listeners.prune());
        let _second = new.begin(2, Kind::Unknown);
        assert_eq!(in_flight(&listeners), [("a".to_owned(), 2, 2)]);
        drop(request);
        assert_eq!(in_flight(&listeners), [("a".to_owned(), 1, 2)]);
    }

    #[test]
    fn a_removed_listener_stays_until_its_last_request_ends() {
        let mut listeners = Listeners::default();
        let listener = listeners.add("a");
        let _other = listeners.add("b");
        let request = listener.begin(1, Kind::Unknown);
        listeners.remove(&listener);
        assert!(!listeners.prune());
        assert_eq!(listeners.report().len(), 2);
        drop(request);
        assert!(listeners.prune());
        assert_eq!(in_flight(&listeners), [("b".to_owned(), 0, 0)]);
    }

    #[test]
    fn what_was_cut_is_told_though_its_listener_is_removed() {
        let mut listeners = Listeners::default();
        let listener = listeners.add("a");
        listener.count_cut();
        listeners.remove(&listener);
        assert!(!listeners.prune());
        assert_eq!(listeners.report()[0].cut, 1);
    }

    #[test]
    fn marks_are_counted() {
        let mut listeners = Listeners::default();
        let listener = listeners.add("a");
        listener.count_mark();
        listener.count_mark();
        assert_eq!(listeners.report()[0].marked, 2);
    }
    #[test]
    fn the_oldest_are_those_that_came_first_and_are_still_there() {
        let mut listeners = Listeners::default();
        let listener = listeners.add("a");
        let oldest = |most| -> Vec<(u32, Kind)> {
            let found = listener.oldest(most).into_iter();
            found.map(|seen| (seen.context, seen.kind)).collect()
        };
        assert!(oldest(10).is_empty());
        let ended = listener.begin(u32::MAX - 1, Kind::Unknown);
        let _old = listener.begin(u32::MAX, Kind::Grpc);
        let _new = listener.begin(0, Kind::Unknown);
        let _newest = listener.begin(1, Kind::Unknown);
        assert_eq!(oldest(2), [(u32::MAX - 1, Kind::Unknown), (u32::MAX, Kind::Grpc)]);
        drop(ended);
        assert_eq!(oldest(2), [(u32::MAX, Kind::Grpc), (0, Kind::Unknown)]);
        assert_eq!(listener.oldest(100).len(), 3);
        assert!(listener.oldest(0).is_empty());
    }
}
