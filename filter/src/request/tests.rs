use std::cell::Cell;

use super::*;
use crate::counts::Counts;

const SERVING: bool = true;
const BODILESS: bool = true;

/// A host with these answers that counts how often it is asked.
#[derive(Default)]
struct Host {
    address: Option<&'static str>,
    content_type: Option<&'static str>,
    path: Option<&'static str>,
    port: Option<u32>,
    end_details: Option<&'static str>,
    probe: bool,
    hostcalls: Cell<u32>,
}

impl Host {
    fn of(address: &'static str) -> Self {
        Self {
            address: Some(address),
            ..Self::default()
        }
    }

    fn asked(&self) {
        self.hostcalls.set(self.hostcalls.get() + 1);
    }
}

impl Look for Host {
    fn upstream_address(&self) -> Option<String> {
        self.asked();
        self.address.map(str::to_owned)
    }

    fn content_type(&self) -> Option<Vec<u8>> {
        self.asked();
        self.content_type.map(Into::into)
    }

    fn path(&self) -> Option<Vec<u8>> {
        self.asked();
        self.path.map(Into::into)
    }

    fn port(&self) -> Option<u32> {
        self.asked();
        self.port
    }

    fn is_probe(&self) -> bool {
        self.asked();
        self.probe
    }

    fn end_details(&self) -> Option<Vec<u8>> {
        self.asked();
        self.end_details.map(Into::into)
    }
}

struct Bench {
    counts: Counts,
    listener: Rc<Listener>,
}

impl Bench {
    fn new() -> Self {
        let mut counts = Counts::default();
        let listener = counts.listeners.add("a");
        listener.note_port(None);
        Self { counts, listener }
    }

    fn request(&self, upstreams: bool, detect_grpc: bool) -> Request {
        let plugin = Plugin::Listener {
            listener: Rc::clone(&self.listener),
            upstreams: upstreams.then(|| Rc::clone(&self.counts.upstreams)),
            detect_grpc,
            blocker_paths: false,
        };
        Request::new(1, Rc::new(plugin))
    }

    fn attempt(&self) -> Request {
        Request::new(2, Rc::new(Plugin::Upstream(Rc::clone(&self.counts.upstreams))))
    }

    fn upstreams(&self) -> Vec<(String, u64)> {
        let counts = self.counts.upstreams.report().into_iter();
        counts.map(|counts| (counts.address, counts.in_flight)).collect()
    }

    fn in_flight(&self, address: &str) -> u64 {
        let found = self.upstreams().into_iter().find(|counts| counts.0 == address);
        found.map_or(0, |counts| counts.1)
    }
}

fn addresses(crossings: &Crossings) -> Vec<&str> {
    crossings.endpoints().map(|endpoint| endpoint.address()).collect()
}

#[test]
fn serving_as_usual_costs_no_hostcall() {
    let (bench, host) = (Bench::new(), Host::of("a:1"));
    for bodiless in [BODILESS, !BODILESS] {
        let mut request = bench.request(false, false);
        request.begin(SERVING, bodiless, &host);
        request.answered(SERVING, &host);
        request.end(SERVING, &host);
    }
    assert_eq!(host.hostcalls.get(), 0);
    assert!(bench.upstreams().is_empty());
}

#[test]
fn a_health_probe_is_told_from_a_request_while_something_drains() {
    let bench = Bench::new();
    for (serving, probe) in [(SERVING, true), (!SERVING, true), (!SERVING, false)] {
        let host = Host {
            probe,
            ..Host::default()
        };
        let mut request = bench.request(false, false);
        request.begin(serving, BODILESS, &host);
        // Where an upstream sends interim responses, headers come more than once.
        request.answered(serving, &host);
        request.answered(serving, &host);
        request.end(serving, &host);
    }
    let counts = bench.counts.listeners.report();
    let counts: Vec<(u64, u64)> = counts.iter().map(|one| (one.started, one.probes)).collect();
    assert_eq!(counts, [(3, 1)]);
}

#[test]
fn a_request_crosses_zero_when_it_is_the_first_or_the_last() {
    let (bench, host) = (Bench::new(), Host::default());
    let (mut first, mut second) = (bench.request(false, false), bench.request(false, false));
    assert!(first.begin(SERVING, BODILESS, &host).listener.is_some());
    assert!(second.begin(SERVING, BODILESS, &host).is_empty());
    assert!(first.end(SERVING, &host).is_empty());
    assert!(second.end(SERVING, &host).listener.is_some());
    assert!(second.end(SERVING, &host).is_empty(), "once");
}

#[test]
fn what_never_became_a_request_counts_nowhere() {
    let (bench, host) = (Bench::new(), Host::of("a:1"));
    let mut request = bench.request(true, true);
    assert!(
        request.answered(SERVING, &host).is_empty(),
        "an answer to no request"
    );
    assert!(request.end(SERVING, &host).is_empty());
    assert_eq!((bench.listener.in_flight(), host.hostcalls.get()), (0, 0));
}

#[test]
fn with_upstreams_a_request_moves_to_its_endpoint_by_one_hostcall() {
    let (bench, host) = (Bench::new(), Host::of("a:1"));
    let mut request = bench.request(true, false);
    assert_eq!(addresses(&request.begin(SERVING, !BODILESS, &host)), [""]);
    assert_eq!(bench.upstreams(), [(String::new(), 1)]);
    assert_eq!(addresses(&request.answered(SERVING, &host)), ["", "a:1"]);
    assert_eq!((bench.in_flight(""), bench.in_flight("a:1")), (0, 1));
    assert_eq!(addresses(&request.end(SERVING, &host)), ["a:1"]);
    assert_eq!(bench.in_flight("a:1"), 0);
    assert_eq!(host.hostcalls.get(), 1);
}

#[test]
fn an_answer_of_envoys_own_stays_without_an_endpoint() {
    let (bench, host) = (Bench::new(), Host::default());
    let mut request = bench.request(true, false);
    request.begin(SERVING, BODILESS, &host);
    assert!(request.answered(SERVING, &host).is_empty());
    assert_eq!(bench.in_flight(""), 1);
    assert_eq!(addresses(&request.end(SERVING, &host)), [""]);
}

#[test]
fn an_attempt_of_a_cluster_counts_from_its_first_byte() {
    let (bench, host) = (Bench::new(), Host::default());
    let mut first = bench.attempt();
    assert_eq!(
        addresses(&first.begin(SERVING, BODILESS, &Host::of("a:1"))),
        ["a:1"]
    );
    assert!(
        first.begin(SERVING, BODILESS, &Host::of("a:1")).is_empty(),
        "once"
    );
    assert_eq!(addresses(&first.end(SERVING, &host)), ["a:1"]);
    // The next try is a context of its own.
    let mut second = bench.attempt();
    second.begin(SERVING, BODILESS, &Host::of("b:1"));
    let silent = Host::default();
    assert!(second.answered(SERVING, &silent).is_empty());
    assert_eq!(silent.hostcalls.get(), 0);
    assert_eq!((bench.in_flight("a:1"), bench.in_flight("b:1")), (0, 1));
    second.end(SERVING, &host);
    assert_eq!(bench.in_flight("b:1"), 0);
    assert_eq!(bench.listener.in_flight(), 0);
}

#[test]
fn while_clusters_count_attempts_listeners_do_not() {
    let (bench, host) = (Bench::new(), Host::of("a:1"));
    let mut before = bench.request(true, false);
    before.begin(SERVING, BODILESS, &host);
    bench.counts.upstreams.add_filter();
    let mut during = bench.request(true, false);
    during.begin(SERVING, BODILESS, &host);
    assert_eq!(bench.in_flight(""), 1, "only the one from before");
    during.answered(SERVING, &host);
    assert_eq!(host.hostcalls.get(), 0);
    before.answered(SERVING, &host);
    assert_eq!((bench.in_flight(""), bench.in_flight("a:1")), (0, 1));
    bench.counts.upstreams.remove_filter();
    let mut after = bench.request(true, false);
    after.begin(SERVING, BODILESS, &host);
    assert_eq!(bench.in_flight(""), 1);
}

#[test]
fn grpc_is_told_where_it_is_worth_a_hostcall() {
    let (bench, host) = (
        Bench::new(),
        Host {
            content_type: Some("application/grpc"),
            ..Host::default()
        },
    );
    let kind = |detect_grpc, serving, bodiless| {
        host.hostcalls.set(0);
        let mut request = bench.request(false, detect_grpc);
        request.begin(serving, bodiless, &host);
        let kind = bench.listener.oldest(1)[0].kind;
        request.answered(SERVING, &host);
        request.end(SERVING, &host);
        (kind, host.hostcalls.get())
    };
    assert_eq!(kind(false, SERVING, !BODILESS), (Kind::Unknown, 0));
    assert_eq!(kind(true, SERVING, !BODILESS), (Kind::Grpc, 1));
    assert_eq!(kind(true, SERVING, BODILESS), (Kind::Unknown, 0));
    // While something drains the port is looked at as well.
    assert_eq!(kind(false, !SERVING, !BODILESS), (Kind::Grpc, 2));
    assert_eq!(kind(false, !SERVING, BODILESS), (Kind::Unknown, 1));
}

#[test]
fn a_path_is_kept_only_if_that_is_switched_on_and_without_its_query() {
    let bench = Bench::new();
    let host = Host {
        path: Some("/shop/7?token=secret"),
        ..Host::default()
    };
    let kept = |blocker_paths| {
        let plugin = Plugin::Listener {
            listener: Rc::clone(&bench.listener),
            upstreams: None,
            detect_grpc: false,
            blocker_paths,
        };
        let mut request = Request::new(1, Rc::new(plugin));
        host.hostcalls.set(0);
        request.begin(SERVING, BODILESS, &host);
        let path = bench.listener.oldest(1)[0].path.clone();
        (path, host.hostcalls.get())
    };
    assert_eq!(kept(false), ("".into(), 0));
    assert_eq!(kept(true), ("/shop/7".into(), 1));
}

#[test]
fn a_request_that_envoy_cuts_while_it_drains_is_counted_as_cut() {
    let bench = Bench::new();
    let cut_after = |end_details, serving| {
        let host = Host {
            end_details,
            ..Host::default()
        };
        let mut request = bench.request(false, false);
        request.begin(SERVING, BODILESS, &host);
        request.answered(SERVING, &host);
        request.end(serving, &host);
        bench.counts.listeners.report()[0].cut
    };
    let by_envoy =
        Some("downstream_local_disconnect(purging_socket_that_have_not_progressed_to_connections)");
    assert_eq!(cut_after(by_envoy, SERVING), 0, "nobody asks");
    assert_eq!(cut_after(Some("via_upstream"), !SERVING), 0);
    assert_eq!(
        cut_after(Some("downstream_remote_disconnect"), !SERVING),
        0,
        "the client left"
    );
    assert_eq!(cut_after(None, !SERVING), 0);
    assert_eq!(cut_after(by_envoy, !SERVING), 1);
    let host = Host {
        end_details: by_envoy,
        ..Host::default()
    };
    let mut unanswered = bench.request(false, false);
    unanswered.begin(SERVING, BODILESS, &host);
    unanswered.end(SERVING, &host);
    assert_eq!(
        bench.counts.listeners.report()[0].cut,
        2,
        "without an answer it is looked at"
    );
    let mut never = bench.request(false, false);
    never.end(!SERVING, &host);
    assert_eq!(
        bench.counts.listeners.report()[0].cut,
        2,
        "what never was a request is not cut"
    );
}

#[test]
fn an_attempt_of_a_request_that_envoy_cuts_is_counted_as_cut_where_it_is() {
    let bench = Bench::new();
    let cut = || {
        let counts = bench.counts.upstreams.report().into_iter();
        let cut = counts.map(|counts| (counts.address, counts.cut));
        cut.filter(|(_, cut)| *cut > 0).collect::<Vec<_>>()
    };
    let mut host = Host::of("b:1");
    let mut whole = bench.attempt();
    whole.begin(!SERVING, BODILESS, &host);
    host.end_details = Some("via_upstream");
    whole.end(!SERVING, &host);
    assert_eq!(cut(), []);
    host.end_details = Some("downstream_local_disconnect");
    let mut of_a_cluster = bench.attempt();
    of_a_cluster.begin(!SERVING, BODILESS, &host);
    of_a_cluster.end(!SERVING, &host);
    assert_eq!(cut(), [("b:1".to_owned(), 1)]);
    bench.counts.upstreams.stream_opens();
    assert_eq!(cut(), [("b:1".to_owned(), 1)], "it is told again");
    let mut unanswered = bench.request(true, false);
    unanswered.begin(!SERVING, BODILESS, &host);
    unanswered.end(!SERVING, &host);
    assert_eq!(cut(), [(String::new(), 1), ("b:1".to_owned(), 1)]);
}

#[test]
fn ports_are_looked_at_once_and_while_something_drains() {
    let mut counts = Counts::default();
    let listener = counts.listeners.add("a");
    let seen = |port, serving| {
        let host = Host {
            port: Some(port),
            ..Host::default()
        };
        let plugin = Plugin::Listener {
            listener: Rc::clone(&listener),
            upstreams: None,
            detect_grpc: false,
            blocker_paths: false,
        };
        Request::new(1, Rc::new(plugin)).begin(serving, BODILESS, &host);
        (host.hostcalls.get(), listener_ports(&counts))
    };
    assert_eq!(seen(80, SERVING), (1, vec![80]));
    assert_eq!(seen(81, SERVING), (0, vec![80]));
    assert_eq!(seen(81, !SERVING), (1, vec![80, 81]));
    for port in 100..200 {
        seen(port, !SERVING);
    }
    assert_eq!(listener_ports(&counts).len(), 16);
}

fn listener_ports(counts: &Counts) -> Vec<u32> {
    counts.listeners.report()[0].ports.clone()
}
