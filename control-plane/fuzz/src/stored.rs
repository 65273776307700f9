//! Whatever is in the durable store: it is resumed as far as it makes sense, and never ends the control plane.

use std::time::{Duration, Instant, SystemTime};

use ebb::{
    core::{
        Event,
        fleet::{LocalRecord, ReporterRecord, StreamId},
        record::{Kept, MemberRecord, Record},
        report::ReportRecord,
    },
    supervisor::succession::{self, Effect, ProcessRecord, RunRecord, ShutdownRecord, Succession, Survivor},
};
use ebb_proto::v1;

use super::{input::Input, watched::Watched};

/// The most records of a kind.
const MANY: usize = 6;

/// Resumes what these bytes say.
pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let now = SystemTime::now();
    let mut kept = Kept {
        drains: input.some(MANY, |input| drain(input, now)),
        levers: input.some(2, Input::name),
        reporters: input.some(MANY, reporter),
    };
    if input.flag() {
        // As a run finds it whose predecessor died.
        for record in &mut kept.drains {
            record.release(now);
        }
    }
    succeed(&mut input, now);
    let mut core = Watched::new(kept);
    core.show();
    for round in 0..4 {
        core.wait(input.span());
        core.handle(Event::AdminFound {
            address: "unix:/a".to_owned(),
            node: input.name(),
            started: core.now.wall,
        });
        let stream = StreamId(round + 1);
        core.handle(Event::Attached {
            stream,
            hello: input.hello(),
            peer: input.peer(),
            report: input.report(),
        });
        core.show();
        let id = core.drains().first().map(|drain| drain.id.clone());
        if let Some(id) = id.filter(|_| input.flag()) {
            let effects = core.core.cancel(&id, core.now).unwrap_or_default();
            core.carry_out(effects);
        }
        let request = ebb::core::drains::StartRequest {
            id: format!("new-{round}"),
            ..Default::default()
        };
        if let Ok((_, effects)) = core.core.start(request, core.now) {
            core.carry_out(effects);
        }
        if input.flag() {
            core.restart();
        }
    }
    core.wait(Duration::from_secs(2 * 24 * 3600));
}

fn drain(input: &mut Input<'_>, now: SystemTime) -> Record {
    if input.byte() > 200 {
        return input.message().unwrap_or_default();
    }
    Record {
        drain: input.option(|input| v1::Drain {
            id: input.name(),
            request_id: match input.byte() % 4 {
                0 => format!("ebb-shutdown/{}", input.name()),
                _ => input.name(),
            },
            scope: input.option(Input::scope),
            policy: match input.byte() {
                0..200 => Some(v1::Policy::default()),
                _ => Some(input.policy()),
            },
            phase: i32::from(input.byte() % 9),
            started_at: input.wire_time(now),
            elapsed: input.wire_span(),
            in_flight: input.number(),
            cut: input.number(),
            holding: input.flag(),
            evidence: i32::from(input.byte() % 6),
            lever: i32::from(input.byte() % 4),
            warnings: input.some(2, Input::name),
            listeners: input.some(2, |input| v1::DrainListener {
                node: input.name(),
                name: input.name(),
                in_flight: input.number(),
                requests_during_drain: input.number(),
                marked_during_drain: input.number(),
            }),
            ..v1::Drain::default()
        }),
        closing_after: input.wire_span(),
        sequence: input.number(),
        members: input.some(4, |input| MemberRecord {
            epoch: u64::from(input.byte() % 8),
            node: input.name(),
            process: u64::from(input.byte() % 3),
        }),
        own_nodes: input.some(2, Input::name),
        report: input.option(|input| ReportRecord {
            timeline: input.some(12, |input| v1::Sample {
                at: input.wire_span(),
                in_flight: input.number(),
                unknown_reporters: input.number() as u32,
                phase: i32::from(input.byte() % 9),
            }),
            requests_finished: input.number(),
            connections_told: input.number(),
            last: input.option(|input| v1::LastRequest {
                node: input.name(),
                listener: input.name(),
                at: input.wire_span(),
            }),
            idle_connections_told: input.number(),
        }),
    }
}

fn reporter(input: &mut Input<'_>) -> ReporterRecord {
    if input.byte() > 200 {
        return input.message().unwrap_or_default();
    }
    ReporterRecord {
        epoch: u64::from(input.byte() % 8),
        node: input.name(),
        cluster: input.name(),
        process: u64::from(input.byte() % 3),
        listeners: input.some(2, Input::name),
        counts_upstreams: input.flag(),
        local: input.option(|input| LocalRecord {
            pid: input.number() as u32,
            group: input.number() as u32,
            started: input.number(),
            place: input.name(),
            is_envoy: input.flag(),
        }),
        host: input.name(),
    }
}

/// What a run left, and how its successor stops it.
fn succeed(input: &mut Input<'_>, now: SystemTime) {
    let run = if input.byte() > 200 {
        input.message().unwrap_or_default()
    } else {
        RunRecord {
            boot: input.name(),
            id: input.name(),
            processes: input.some(4, process),
            shutdown: input.option(|input| ShutdownRecord {
                began: input.wire_time(now),
                deadline: input.wire_time(now),
                why: input.name(),
            }),
        }
    };
    if let Some(shutdown) = &run.shutdown {
        assert!(!shutdown.cut_short(now).is_empty());
    }
    let shutdown = run.shutdown.as_ref();
    let until = shutdown.map(|shutdown| Instant::now() + shutdown.left(now));
    let survivors: Vec<Survivor> = run.processes.iter().map(Survivor::new).collect();
    let many = survivors.len();
    let mut now = Instant::now();
    let mut succession = Succession::new(survivors, until);
    let mut events = vec![succession::Event::Tick];
    for _ in 0..20 * (many + 1) {
        let Some(event) = events.pop() else {
            let Some(at) = succession.next_deadline() else {
                return;
            };
            now = now.max(at);
            events.push(succession::Event::Tick);
            continue;
        };
        for effect in succession.handle(event, now) {
            match effect {
                Effect::Drain(index) if input.flag() => events.push(succession::Event::Quiet(index)),
                Effect::Signal(index, _) if input.flag() => events.push(succession::Event::Gone(index)),
                Effect::Kill(index) => events.push(succession::Event::Gone(index)),
                Effect::Drain(_) | Effect::Signal(..) => {}
            }
        }
    }
}

fn process(input: &mut Input<'_>) -> ProcessRecord {
    ProcessRecord {
        name: input.name(),
        pid: input.number() as u32,
        started: input.number(),
        depends_on: input.some(2, Input::name),
        stop_signal: input.number() as i32,
        stop_timeout: input.wire_span(),
        admin: input.name(),
        drain_timeout: input.wire_span(),
    }
}
