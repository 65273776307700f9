//! Whatever filters say on their streams, and Envoys on their admin endpoints, in any order, beside drains, restarts and the time.

use std::collections::{BTreeMap, BTreeSet};

use ebb::core::{
    Event,
    admins::{Reading, Requests},
    drains::StartRequest,
    fleet::StreamId,
    outstanding::{Outstanding, Unsent},
    policy::PolicyOverrides,
    record::Kept,
};
use ebb_proto::v1::FilterReport;

use super::{input::Input, watched::Watched};

/// The most streams that are open at once.
const STREAMS: usize = 8;

/// The most drains that are started.
const DRAINS: usize = 12;

/// The most that is done in one run.
const STEPS: usize = 400;

/// Does what these bytes say.
pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut world = World {
        core: Watched::new(Kept::default()),
        streams: Vec::new(),
        last: 0,
        drains: 0,
    };
    for _ in 0..STEPS {
        if input.is_over() {
            break;
        }
        world.step(&mut input);
    }
    world.core.show();
    world.core.restart();
    world.core.show();
}

struct World {
    core: Watched,
    streams: Vec<StreamId>,
    last: u64,
    drains: usize,
}

impl World {
    fn step(&mut self, input: &mut Input<'_>) {
        let stream = self.streams.get(input.below(STREAMS)).copied();
        match (input.byte() % 16, stream) {
            (0..3, _) => self.attach(input),
            (3..6, Some(stream)) => {
                let report = said(input);
                self.core.handle(Event::Reported { stream, report });
            }
            (6, Some(stream)) => {
                self.streams.retain(|other| *other != stream);
                self.core.handle(Event::Detached { stream });
            }
            (7..9, _) => self.core.wait(input.span()),
            (9, _) => self.start(input),
            (10, _) => {
                let id = input.below(DRAINS).to_string();
                let effects = self.core.core.cancel(&id, self.core.now).unwrap_or_default();
                self.core.carry_out(effects);
            }
            (11, _) => self.of_admin(input),
            (12, _) => self.answer(input),
            (13, _) => self.ask(input),
            (14, _) => match input.byte() % 3 {
                0 => self.core.handle(Event::ProcessEnded {
                    process: u64::from(input.byte() % 3),
                }),
                1 => {
                    let node = input.name();
                    if let Ok((_, effects)) = self.core.core.forget(&node, self.core.now) {
                        self.core.carry_out(effects);
                    }
                }
                _ => {
                    self.streams.clear();
                    self.core.restart();
                }
            },
            _ => self.core.show(),
        }
    }

    fn attach(&mut self, input: &mut Input<'_>) {
        if self.streams.len() >= STREAMS {
            return;
        }
        self.last += 1;
        let stream = StreamId(self.last);
        let mut report = said(input);
        let hello = report.hello.take().unwrap_or_else(|| input.hello());
        self.streams.push(stream);
        self.core.handle(Event::Attached {
            stream,
            hello,
            peer: input.peer(),
            report,
        });
    }

    fn start(&mut self, input: &mut Input<'_>) {
        let Ok(overrides) = PolicyOverrides::from_proto(&input.policy()) else {
            return;
        };
        if self.drains >= DRAINS {
            return;
        }
        let request = StartRequest {
            id: self.drains.to_string(),
            request_id: input.name(),
            scope: input.scope().into(),
            overrides,
            of_a_stop: input.flag(),
        };
        if let Ok((_, effects)) = self.core.core.start(request, self.core.now) {
            self.drains += 1;
            self.core.carry_out(effects);
        }
        self.core.wait(std::time::Duration::ZERO);
    }

    /// An admin endpoint is there, or is not.
    fn of_admin(&mut self, input: &mut Input<'_>) {
        let address = ["unix:/a", "unix:/b"][input.below(2)].to_owned();
        let result = if input.flag() { Ok(()) } else { Err(input.name()) };
        let answers = result.is_ok();
        let heard = address.clone();
        self.core.handle(Event::AdminHeard {
            address: heard,
            result,
        });
        if answers {
            let started = self.core.now.wall.checked_sub(input.span());
            self.core.handle(Event::AdminFound {
                address,
                node: input.name(),
                started: started.unwrap_or(self.core.now.wall),
            });
        }
    }

    /// An Envoy answers what it was asked, or what it was not.
    fn answer(&mut self, input: &mut Input<'_>) {
        let invented = |input: &mut Input<'_>| (input.name(), input.number());
        match input.byte() % 3 {
            0 => {
                let (node, ask) = self.core.asked.pop().unwrap_or_else(|| invented(input));
                let reading = if input.byte() > 200 {
                    Err(input.name())
                } else {
                    Ok(reading(input))
                };
                self.core.handle(Event::AdminAnswered { node, ask, reading });
            }
            1 => {
                let (node, ask) = self.core.looks.pop().unwrap_or_else(|| invented(input));
                let outstanding = Outstanding {
                    tcp: input.option(Input::number),
                    unsent: input.option(|input| Unsent {
                        buffered: input.number(),
                        queued: input.number(),
                        clients: input.number(),
                    }),
                    upstream: input.option(Input::number),
                };
                self.core.handle(Event::OutstandingTold {
                    node,
                    ask,
                    outstanding,
                });
            }
            _ => self.core.handle(Event::LeverDone {
                node: input.name(),
                close: input.flag(),
                result: if input.flag() { Ok(()) } else { Err(input.name()) },
            }),
        }
    }

    /// Somebody asks.
    fn ask(&mut self, input: &mut Input<'_>) {
        let id = input.option(|input| input.below(DRAINS).to_string());
        let (core, now) = (&mut self.core.core, self.core.now);
        let (ask, effects) = match input.byte() % 4 {
            0 => core.query(now),
            1 => core.query_names(now),
            2 => core.query_drain(id.as_deref().unwrap_or_default(), now),
            _ => match core.ask_blockers(id.as_deref(), input.number() as u32, now) {
                Some(asked) => asked,
                None => return,
            },
        };
        self.core.carry_out(effects);
        if input.flag() {
            self.core
                .core
                .snapshot(Some(ask), None, now)
                .nodes()
                .for_each(drop);
            drop(self.core.core.take_blockers(ask));
        }
    }
}

/// A report as it comes off the wire, or one of our making.
fn said(input: &mut Input<'_>) -> FilterReport {
    if input.byte() > 200 {
        return input.message().unwrap_or_default();
    }
    input.report()
}

fn reading(input: &mut Input<'_>) -> Reading {
    let by_name = |input: &mut Input<'_>| -> BTreeMap<String, Requests> {
        let counts = input.some(3, |input| {
            let requests = Requests {
                in_flight: input.number(),
                begun: input.option(Input::number),
            };
            (input.name(), requests)
        });
        counts.into_iter().collect()
    };
    Reading {
        listeners: by_name(input),
        upstreams: input.option(by_name),
        sessions: input.option(|input| input.some(2, Input::name).into_iter().collect::<BTreeSet<_>>()),
    }
}
