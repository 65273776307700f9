mod leaks;
mod ticks;

use std::collections::VecDeque;

use super::*;
use crate::counts::Kind;
use crate::identity::Process;
use ebb_proto::v1::{Directive, FilterCommand, FilterReport};
use prost::Message;

const START: Duration = Duration::from_secs(1000);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn config(listener: &str, more: &str) -> Config {
    let json = format!(r#"{{"listener":"{listener}","control_plane_cluster":"cp"{more}}}"#);
    Config::parse(json.as_bytes()).unwrap()
}

fn identity() -> Identity {
    Identity {
        node_id: "node".to_owned(),
        node_cluster: String::new(),
        epoch: 42,
    }
}

fn tick(root: u32, millis: u64) -> Action {
    Action::Tick {
        root,
        period: ms(millis),
    }
}

/// A VM as a host would run it: it ticks root contexts as they asked, and has a stream ready when one is opened.
struct Bench {
    vm: Vm,
    now: Duration,
    /// Per root context, its period and its next tick.
    timers: Vec<(u32, Duration, Duration)>,
    /// Reports, and the root context that owned the stream.
    sent: Vec<(u32, FilterReport)>,
    timer_calls: usize,
    next_token: u32,
}

impl Bench {
    fn new() -> Self {
        let timers = Vec::new();
        Self {
            vm: Vm::default(),
            now: START,
            timers,
            sent: Vec::new(),
            timer_calls: 0,
            next_token: 1,
        }
    }

    fn configure(&mut self, root: u32, listener: &str) -> Rc<Listener> {
        match &*self.plugin(root, config(listener, "")) {
            Plugin::Listener { listener, .. } => Rc::clone(listener),
            Plugin::Upstream(_) => panic!("no listener"),
        }
    }

    fn plugin(&mut self, root: u32, config: Config) -> Rc<Plugin> {
        let (plugin, actions) = self.vm.configure(root, config, identity(), 1, self.now);
        self.run(actions);
        plugin
    }

    fn remove(&mut self, root: u32) {
        let actions = self.vm.remove(root, self.now);
        self.run(actions);
    }

    fn crossed(&mut self, listener: &Rc<Listener>) {
        let crossings = Crossings {
            listener: Some(Rc::clone(listener)),
            ..Crossings::default()
        };
        self.report(&crossings);
    }

    /// As the host does.
    fn report(&mut self, crossings: &Crossings) {
        if self.vm.concerns(crossings) {
            let actions = self.vm.crossed(crossings, self.now);
            self.run(actions);
        }
    }

    fn command(&mut self, generation: u64, directives: Vec<Directive>) {
        let message = FilterCommand {
            generation,
            directives,
            ..FilterCommand::default()
        }
        .encode_to_vec();
        let token = self.next_token - 1;
        let actions = self.vm.handle(
            Event::Received {
                token,
                message: &message,
            },
            self.now,
        );
        self.run(actions);
    }

    fn drain(&mut self, generation: u64, listener: &str) {
        let lease = Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        });
        let listener = listener.to_owned();
        self.command(
            generation,
            vec![Directive {
                listener,
                lease,
                awaited: true,
                ..Directive::default()
            }],
        );
    }

    /// Lets time pass, with all ticks in it.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(timer) = self
            .timers
            .iter_mut()
            .filter(|timer| timer.2 <= end)
            .min_by_key(|timer| timer.2)
        {
            let root = timer.0;
            self.now = timer.2;
            timer.2 += timer.1;
            let actions = self.vm.tick(root, self.now);
            self.run(actions);
        }
        self.now = end;
    }

    /// In the order of the host: what follows from an action comes after those that are there already.
    fn run(&mut self, actions: Vec<Action>) {
        let mut todo = VecDeque::from(actions);
        while let Some(action) = todo.pop_front() {
            match action {
                Action::Tick { root, period } => {
                    self.timer_calls += 1;
                    self.timers.retain(|timer| timer.0 != root);
                    if period > Duration::ZERO {
                        self.timers.push((root, period, self.now + period));
                    }
                }
                Action::Stream {
                    effect: Effect::Open { .. },
                    ..
                } => {
                    let token = self.next_token;
                    self.next_token += 1;
                    todo.extend(self.vm.handle(
                        Event::Opened {
                            token,
                            process: Process {
                                number: 99,
                                vms: Vec::new(),
                            },
                        },
                        self.now,
                    ));
                }
                Action::Stream {
                    owner,
                    effect: Effect::Send { report, .. },
                } => self.sent.push((owner, *report)),
                Action::Stream { .. } | Action::Log { .. } => {}
            }
        }
    }

    fn ticking(&self) -> Vec<u32> {
        self.timers.iter().map(|timer| timer.0).collect()
    }

    fn names(&self) -> Vec<&str> {
        self.sent
            .last()
            .unwrap()
            .1
            .listeners
            .iter()
            .map(|counts| counts.name.as_str())
            .collect()
    }
}

#[test]
fn the_first_to_tick_owns_the_stream_and_the_others_rest() {
    let mut bench = Bench::new();
    bench.configure(1, "a");
    bench.configure(2, "b");
    assert_eq!(bench.ticking(), [1, 2]);
    bench.pass(ms(2));
    assert_eq!(bench.ticking(), [1]);
    assert_eq!(bench.sent.len(), 1);
    assert_eq!(bench.sent[0].0, 1);
    assert_eq!(bench.names(), ["a", "b"]);
}

#[test]
fn a_later_listener_is_reported_at_once() {
    let mut bench = Bench::new();
    bench.configure(1, "a");
    bench.pass(ms(10));
    bench.configure(2, "b");
    assert_eq!(bench.names(), ["a", "b"]);
    assert_eq!(bench.ticking(), [1]);
}

#[test]
fn when_the_owner_goes_another_takes_over() {
    let mut bench = Bench::new();
    bench.configure(1, "a");
    bench.configure(2, "b");
    bench.pass(ms(10));
    bench.drain(1, "b");
    bench.remove(1);
    assert_eq!(
        bench.ticking(),
        [2],
        "the one that is gone must not tick for ever"
    );
    bench.pass(ms(2));
    let (owner, hello) = bench.sent.last().unwrap();
    assert_eq!(*owner, 2);
    assert!(hello.hello.is_some());
    assert!(bench.sent.iter().all(|(_, report)| !report.goodbye));
    assert_eq!(bench.names(), ["b"]);
    assert!(
        !bench.vm.is_serving(),
        "what the control plane has said last still holds"
    );
}

#[test]
fn a_vm_without_listeners_rests_until_there_is_one_again() {
    let mut bench = Bench::new();
    bench.configure(1, "a");
    bench.pass(ms(10));
    bench.remove(1);
    assert!(bench.ticking().is_empty());
    let (owner, last_words) = bench.sent.last().unwrap();
    assert_eq!((*owner, last_words.goodbye), (1, true));
    assert_eq!(bench.names(), ["a"], "its last counts are told too");
    bench.pass(ms(60_000));
    bench.configure(5, "a");
    let sent = bench.sent.len();
    bench.pass(ms(2));
    assert_eq!(bench.sent.len(), sent + 1);
    let (owner, hello) = bench.sent.last().unwrap();
    assert_eq!((*owner, hello.goodbye), (5, false));
}

#[test]
fn a_listener_that_is_removed_is_reported_until_its_last_request_ends() {
    let mut bench = Bench::new();
    bench.configure(1, "a");
    let listener = bench.configure(2, "b");
    bench.pass(ms(10));
    let request = listener.begin(7, Kind::Unknown);
    bench.remove(2);
    bench.pass(ms(6000));
    assert_eq!(bench.names(), ["a", "b"]);
    drop(request);
    assert!(listener.is_gone());
    bench.crossed(&listener);
    assert_eq!(bench.names(), ["a"]);
}

#[test]
fn a_replaced_root_context_keeps_the_counters() {
    let mut bench = Bench::new();
    let old = bench.configure(1, "a");
    bench.pass(ms(10));
    let _request = old.begin(7, Kind::Unknown);
    let new = bench.configure(2, "a");
    bench.remove(1);
    bench.pass(ms(2));
    assert!(Rc::ptr_eq(&old, &new));
    let counts = &bench.sent.last().unwrap().1.listeners;
    assert_eq!((counts.len(), counts[0].in_flight, counts[0].started), (1, 1, 1));
}

#[test]
fn a_root_context_may_be_configured_again() {
    let mut bench = Bench::new();
    bench.configure(1, "a");
    bench.pass(ms(10));
    bench.configure(1, "b");
    bench.pass(ms(6000));
    assert_eq!(
        bench.names(),
        ["a", "b"],
        "nothing forgets a listener but an event"
    );
    bench.remove(1);
    assert!(bench.vm.roots.is_empty());
}

#[test]
fn listeners_that_disagree_about_the_link_are_told_so() {
    let mut bench = Bench::new();
    bench.configure(1, "a");
    let other = config("b", r#","report_interval":"1s""#);
    let (_, actions) = bench.vm.configure(2, other.clone(), identity(), 1, bench.now);
    assert!(
        matches!(&actions[0], Action::Log { level: Level::Warn, text } if text.contains("`b`")),
        "{actions:?}"
    );
    bench.run(actions);
    bench.pass(ms(10));
    bench.remove(1);
    bench.pass(ms(10));
    assert_eq!(
        *bench.vm.session.unwrap().config(),
        other.link,
        "a new owner brings its own"
    );
}

#[test]
fn marks_are_counted_for_exactly_the_listener_that_drains() {
    let mut bench = Bench::new();
    let (a, b) = (bench.configure(1, "a"), bench.configure(2, "b"));
    bench.pass(ms(10));
    assert!(bench.vm.is_serving());
    assert!(!bench.vm.closes(&a, bench.now));
    bench.drain(1, "a");
    assert!(!bench.vm.is_serving());
    assert!(bench.vm.closes(&a, bench.now) && !bench.vm.closes(&b, bench.now));
    bench.crossed(&a);
    let marked: Vec<u64> = bench
        .sent
        .last()
        .unwrap()
        .1
        .listeners
        .iter()
        .map(|counts| counts.marked)
        .collect();
    assert_eq!(marked, [1, 0]);
    bench.command(2, Vec::new());
    assert!(bench.vm.is_serving());
}

#[test]
fn what_is_not_there_is_no_harm() {
    let mut vm = Vm::default();
    assert_eq!(vm.remove(9, START), [tick(9, 0)]);
    assert!(vm.handle(Event::Closed { token: 1, status: 0 }, START).is_empty());
    assert!(vm.is_serving());
    assert!(vm.tick(9, START).is_empty());
}

#[test]
fn a_vm_says_whether_it_counts_the_attempts_of_all_requests() {
    let mut bench = Bench::new();
    bench.plugin(1, config("a", r#","upstreams":true"#));
    bench.pass(ms(2));
    let says = |bench: &Bench| bench.sent.last().unwrap().1.counts_upstreams;
    assert!(says(&bench));
    bench.plugin(2, config("b", ""));
    assert!(!says(&bench), "one listener counts and one does not");
    let in_cluster = Config::parse(br#"{"role":"upstream","control_plane_cluster":"cp"}"#).unwrap();
    bench.plugin(3, in_cluster.clone());
    assert!(says(&bench), "clusters count for all listeners");
    bench.plugin(3, in_cluster);
    bench.remove(3);
    bench.pass(ms(6000));
    assert!(!says(&bench), "with the next report");
    bench.plugin(2, config("b", r#","upstreams":true"#));
    assert!(says(&bench), "configured again");
    bench.plugin(2, config("b", ""));
    bench.remove(2);
    bench.pass(ms(6000));
    assert!(says(&bench));
}
