mod drains;
mod ends;

use super::*;
use ebb_proto::v1::{Directive, FilterHello};

const TOKEN: u32 = 7;
const START: Duration = Duration::from_secs(1000);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn wire(duration: Duration) -> Option<prost_types::Duration> {
    Some(prost_types::Duration::try_from(duration).unwrap())
}

/// A session with a clock of its own, two listeners, and all that it has logged.
/// An Envoy process of two VMs, this one among them.
fn process() -> Process {
    Process {
        number: 99,
        vms: vec![7, 8],
    }
}

struct Bench {
    session: Session,
    counts: Counts,
    now: Duration,
    logged: Vec<(Level, String)>,
}

impl Bench {
    fn new() -> Self {
        let json = br#"{"listener":"a","control_plane_cluster":"cp"}"#;
        let config = crate::config::Config::parse(json).unwrap().link;
        let identity = Identity {
            node_id: "node".to_owned(),
            node_cluster: "cluster".to_owned(),
            epoch: 42,
        };
        let mut counts = Counts::default();
        counts.listeners.add("a");
        counts.listeners.add("b");
        Self {
            session: Session::new(identity, config, 1),
            counts,
            now: START,
            logged: Vec::new(),
        }
    }

    /// With an open stream and a first, empty command of generation 1.
    fn attached() -> Self {
        let mut bench = Self::new();
        bench.open(TOKEN);
        bench.command(TOKEN, 1, Vec::new());
        bench
    }

    /// Handles an event; log lines are put aside.
    fn handle(&mut self, event: Event<'_>) -> Vec<Effect> {
        let mut effects = self.session.handle(event, self.now, &self.counts);
        effects.retain(|effect| match effect {
            Effect::Log { level, text } => {
                self.logged.push((*level, text.clone()));
                false
            }
            _ => true,
        });
        effects
    }

    /// Ticks at the next deadline.
    fn tick_when_due(&mut self) -> Vec<Effect> {
        self.now = self.now.max(self.session.next_deadline().expect("a deadline"));
        self.handle(Event::Tick)
    }

    fn open(&mut self, token: u32) -> FilterReport {
        assert!(matches!(self.tick_when_due()[..], [Effect::Open { .. }]));
        sent(
            self.handle(Event::Opened {
                token,
                process: process(),
            }),
            token,
        )
    }

    fn receive(&mut self, token: u32, command: &FilterCommand) -> Vec<Effect> {
        self.handle(Event::Received {
            token,
            message: &command.encode_to_vec(),
        })
    }

    fn command(&mut self, token: u32, generation: u64, directives: Vec<Directive>) -> Vec<Effect> {
        self.receive(
            token,
            &FilterCommand {
                generation,
                directives,
                ..FilterCommand::default()
            },
        )
    }

    fn crossed(&mut self, listener: &str) -> Vec<Effect> {
        let crossings = Crossings {
            listener: Some(self.counts.listeners.add(listener)),
            ..Crossings::default()
        };
        self.handle(Event::Crossed(&crossings))
    }

    fn closes(&self, listener: &str) -> bool {
        self.session
            .directives()
            .decide(listener, &std::cell::Cell::new(0.0), self.now)
    }

    fn warnings(&self) -> usize {
        self.logged
            .iter()
            .filter(|(level, _)| *level == Level::Warn)
            .count()
    }
}

fn sent(effects: Vec<Effect>, token: u32) -> FilterReport {
    match <[Effect; 1]>::try_from(effects) {
        Ok(
            [
                Effect::Send {
                    token: on, report, ..
                },
            ],
        ) if on == token => *report,
        other => panic!("not one report on {token}: {other:?}"),
    }
}

fn drain_of(listener: &str, lease: Duration) -> Directive {
    Directive {
        listener: listener.to_owned(),
        lease: wire(lease),
        awaited: true,
        ..Directive::default()
    }
}

#[test]
fn the_first_tick_opens_and_the_first_report_says_hello() {
    let mut bench = Bench::new();
    let effects = bench.handle(Event::Tick);
    let grpc_service = crate::grpc_service::serialize("cp").unwrap();
    assert_eq!(
        effects,
        [Effect::Open {
            grpc_service,
            epoch: 42
        }]
    );
    assert_eq!(
        bench.session.next_deadline(),
        None,
        "only the host's answer is awaited"
    );
    let report = sent(
        bench.handle(Event::Opened {
            token: TOKEN,
            process: process(),
        }),
        TOKEN,
    );
    let hello = FilterHello {
        node_id: "node".to_owned(),
        node_cluster: "cluster".to_owned(),
        process: 99,
        epoch: 42,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        report_interval: wire(ms(5000)),
        drain_report_interval: wire(ms(500)),
        vms: vec![7, 8],
    };
    assert_eq!(report.hello, Some(hello));
    assert_eq!((report.generation, report.answers), (0, 0));
    let names: Vec<String> = report.listeners.into_iter().map(|counts| counts.name).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn heartbeats_keep_their_interval_and_say_no_second_hello() {
    let mut bench = Bench::attached();
    for _ in 0..3 {
        assert_eq!(bench.session.next_deadline(), Some(bench.now + ms(5000)));
        bench.now += ms(4999);
        assert!(bench.handle(Event::Tick).is_empty(), "too early");
        let report = sent(bench.tick_when_due(), TOKEN);
        assert_eq!((report.hello, report.generation), (None, 1));
    }
}

#[test]
fn an_ask_is_answered_at_once_with_its_number_from_then_on() {
    let mut bench = Bench::attached();
    let ask = FilterCommand {
        generation: 1,
        ask: 17,
        ..FilterCommand::default()
    };
    assert_eq!(sent(bench.receive(TOKEN, &ask), TOKEN).answers, 17);
    assert_eq!(sent(bench.tick_when_due(), TOKEN).answers, 17);
}

#[test]
fn a_changed_set_of_listeners_is_reported_at_once() {
    let mut bench = Bench::attached();
    bench.counts.listeners.add("c");
    assert_eq!(
        sent(bench.handle(Event::ListenersChanged), TOKEN).listeners.len(),
        3
    );
}

#[test]
fn without_a_stream_nothing_is_sent() {
    let mut bench = Bench::new();
    assert!(bench.handle(Event::ListenersChanged).is_empty());
    assert!(bench.crossed("a").is_empty());
    bench.handle(Event::Tick);
    assert!(bench.handle(Event::ListenersChanged).is_empty());
    assert!(
        bench.handle(Event::Tick).is_empty(),
        "the host's answer is still awaited"
    );
}

#[test]
fn reconnects_back_off_up_to_their_bound_and_only_the_first_failure_is_logged() {
    let mut bench = Bench::new();
    let mut last = Duration::ZERO;
    for attempt in 0..12 {
        assert!(matches!(bench.tick_when_due()[..], [Effect::Open { .. }]));
        bench.handle(Event::Opened {
            token: attempt,
            process: process(),
        });
        bench.handle(Event::Closed {
            token: attempt,
            status: 14,
        });
        last = bench.session.next_deadline().unwrap() - bench.now;
        assert!((ms(100)..=ms(5000)).contains(&last), "{last:?}");
    }
    assert!(last >= ms(2500), "{last:?}");
    assert_eq!(bench.warnings(), 1, "{:?}", bench.logged);
    bench.open(50);
    bench.command(50, 1, Vec::new());
    assert_eq!(
        bench.logged.last().unwrap().0,
        Level::Info,
        "that it is back is worth a line"
    );
    bench.now += ms(5000);
    bench.handle(Event::Closed {
        token: 50,
        status: 14,
    });
    assert!(
        bench.session.next_deadline().unwrap() - bench.now <= ms(200),
        "it starts over"
    );
}

#[test]
fn a_control_plane_that_answers_and_fails_is_not_called_on_without_a_pause() {
    let mut bench = Bench::new();
    for token in 0..12 {
        bench.open(token);
        bench.command(token, 1, Vec::new());
        bench.handle(Event::Closed { token, status: 13 });
    }
    assert!(bench.session.next_deadline().unwrap() - bench.now >= ms(2500));
}

#[test]
fn an_unknown_cluster_is_said_once_and_tried_again() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        assert!(matches!(bench.tick_when_due()[..], [Effect::Open { .. }]));
        assert!(bench.handle(Event::OpenFailed).is_empty());
    }
    let [(level, text)] = &bench.logged[..] else {
        panic!("{:?}", bench.logged)
    };
    assert_eq!(*level, Level::Error);
    assert!(text.contains("`cp`"), "{text}");
}

#[test]
fn a_command_that_cannot_be_read_resets_the_stream() {
    let mut bench = Bench::attached();
    bench.command(TOKEN, 2, vec![drain_of("a", ms(60_000))]);
    let effects = bench.handle(Event::Received {
        token: TOKEN,
        message: &[0xff],
    });
    assert_eq!(effects, [Effect::Cancel { token: TOKEN }]);
    assert!(bench.closes("a"), "the last good word holds");
    assert!(bench.session.next_deadline().unwrap() > bench.now);
}

#[test]
fn a_stream_on_which_nothing_can_be_sent_is_given_up() {
    let mut bench = Bench::attached();
    assert_eq!(
        bench.handle(Event::SendFailed { token: TOKEN }),
        [Effect::Cancel { token: TOKEN }]
    );
    assert!(bench.handle(Event::SendFailed { token: TOKEN }).is_empty());
    assert!(matches!(bench.tick_when_due()[..], [Effect::Open { .. }]));
}

#[test]
fn events_of_an_earlier_stream_change_nothing() {
    let mut bench = Bench::attached();
    bench.handle(Event::Closed {
        token: TOKEN,
        status: 14,
    });
    bench.open(8);
    bench.command(8, 1, Vec::new());
    assert!(
        bench
            .command(TOKEN, 2, vec![drain_of("a", ms(60_000))])
            .is_empty()
    );
    assert!(!bench.closes("a"));
    assert!(bench.handle(Event::SendFailed { token: TOKEN }).is_empty());
    assert_eq!(
        bench.handle(Event::Closed {
            token: TOKEN,
            status: 0
        }),
        [Effect::Close { token: TOKEN }]
    );
    sent(bench.tick_when_due(), 8);
}

#[test]
fn when_its_owner_is_gone_the_next_tick_opens_anew() {
    let mut bench = Bench::attached();
    bench.command(TOKEN, 2, vec![drain_of("a", ms(60_000))]);
    assert!(bench.handle(Event::OwnerGone).is_empty());
    assert!(bench.closes("a"));
    assert!(bench.open(8).hello.is_some());
    assert_eq!(bench.warnings(), 0);
}
