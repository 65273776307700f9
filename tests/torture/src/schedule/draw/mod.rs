//! Drawing a schedule: the same seed always gives the same.

mod faults;

use ebb_e2e::bins::EnvoyVersion;
use fastrand::Rng;

use super::{
    ClientPlan, DrainPlan, Endpoint, EnvoyPlan, Evidence, Listener, Order, Pace, Policy, Protocol,
    RequestPlan, Round, Schedule, Scope, State, Stop, Via, WorldPlan,
};

/// When the first drain of a round is asked for: by then requests are in flight.
const FIRST_DRAIN: u64 = 700;
/// After which no client sends another.
const LAST_REQUEST: u64 = 1_800;
const NODES: [&str; 2] = ["edge-a", "edge-b"];

impl Schedule {
    /// A schedule of that many rounds.
    #[must_use]
    pub fn draw(seed: u64, rounds: usize) -> Self {
        let mut rng = Rng::with_seed(seed);
        let world = world(&mut rng);
        let rounds = (0..rounds).map(|_| round(&mut rng, &world)).collect();
        Self { seed, world, rounds }
    }
}

fn one_in(rng: &mut Rng, n: u32) -> bool {
    rng.u32(0..n) == 0
}

fn pick<T: Clone>(rng: &mut Rng, of: &[T]) -> Option<T> {
    rng.choice(of).cloned()
}

fn world(rng: &mut Rng) -> WorldPlan {
    let two = rng.u32(0..10) < 4;
    let shared = rng.bool();
    let with_admin = rng.u32(0..10) < 6;
    let version = if one_in(rng, 3) {
        EnvoyVersion::V1_37
    } else {
        EnvoyVersion::V1_40
    };
    let order = if one_in(rng, 4) { Order::Last } else { Order::First };
    let reconnect_max_ms = (!one_in(rng, 4)).then_some(500);
    let envoys = (0..=usize::from(two)).map(|number| EnvoyPlan {
        version,
        workers: rng.u32(1..=if two { 2 } else { 4 }),
        node: if number == 0 || shared { "edge-a" } else { "edge-b" },
        order,
        admin: with_admin && !(number == 1 && one_in(rng, 6)),
        reconnect_max_ms,
    });
    let envoys = envoys.collect();
    WorldPlan {
        envoys,
        state: match rng.u32(0..10) {
            0 => State::Memory,
            1..6 => State::Folder,
            _ => State::Disk,
        },
        relay: rng.bool(),
        trap: one_in(rng, 5),
    }
}

fn round(rng: &mut Rng, world: &WorldPlan) -> Round {
    let mut drains = vec![drain(rng, world, FIRST_DRAIN)];
    if one_in(rng, 4) {
        let at = FIRST_DRAIN + rng.u64(0..1_500);
        drains.push(drain(rng, world, at));
    }
    let clients = (0..rng.usize(3..=9)).map(|_| client(rng, world)).collect();
    let faults = match rng.u32(0..10) {
        0..2 => 0,
        2..8 => 1,
        _ => 2,
    };
    let mut round = Round {
        drains,
        clients,
        faults: (0..faults).map(|_| faults::one(rng, world)).collect(),
    };
    if rng.u32(0..8) == 0 {
        faults::back_just_before(rng, &mut round);
    }
    round.faults.sort_by_key(|fault| fault.at);
    round
}

fn drain(rng: &mut Rng, world: &WorldPlan, at: u64) -> DrainPlan {
    let two_nodes = world.envoys.iter().any(|envoy| envoy.node == NODES[1]);
    let node = if two_nodes && rng.bool() {
        NODES[1]
    } else {
        NODES[0]
    };
    let with_admin = world.envoys.iter().all(|envoy| envoy.admin);
    let listener = match rng.u32(0..12) {
        // Names that only an Envoy knows.
        0 if with_admin => Listener::Plain,
        1 if with_admin => Listener::Raw,
        2..4 => Listener::Internal,
        4..6 => Listener::Secure,
        _ => Listener::Ingress,
    };
    let scope = match rng.u32(0..12) {
        0..2 => Scope::All,
        2..5 => Scope::Node(node),
        5..9 => Scope::Listener(listener),
        9..11 => Scope::ListenerOf(node, listener),
        _ => Scope::Upstream(if rng.bool() { Endpoint::A } else { Endpoint::B }),
    };
    let policy = policy(rng, with_admin);
    let cancel_at = one_in(rng, 8).then(|| at + rng.u64(100..2_000));
    let is_whole = |envoy: &EnvoyPlan| match scope {
        Scope::All => true,
        Scope::Node(node) => envoy.node == node,
        _ => false,
    };
    let envoys = world.envoys.iter().enumerate();
    let whole: Vec<usize> = envoys
        .filter(|(_, envoy)| is_whole(envoy))
        .map(|(number, _)| number)
        .collect();
    let then = pick(rng, &whole).filter(|_| rng.bool()).map(|envoy| Stop {
        envoy,
        kill: rng.bool(),
    });
    DrainPlan {
        at,
        waits: !one_in(rng, 8),
        via: if rng.u32(0..10) < 6 {
            Via::CommandLine
        } else {
            Via::Grpc
        },
        scope,
        policy,
        cancel_at,
        then,
    }
}

fn policy(rng: &mut Rng, with_admin: bool) -> Policy {
    let timeout = match rng.u32(0..12) {
        0 => 0,
        1..4 => rng.u64(300..1_500),
        _ => rng.u64(3_000..6_000),
    };
    let evidence = match rng.u32(0..8) {
        0 => Evidence::Filter,
        1 if with_admin => Evidence::Admin,
        _ => Evidence::Auto,
    };
    let quiet = match rng.u32(0..6) {
        0 => 0,
        1..4 => 50,
        4 => 200,
        _ => rng.u64(0..600),
    };
    let announce = if one_in(rng, 5) { rng.u64(1..600) } else { 0 };
    Policy {
        // One that cannot hold both is refused.
        timeout: if timeout == 0 {
            0
        } else {
            timeout.max(announce + quiet + 50)
        },
        quiet,
        announce,
        ramp: if one_in(rng, 5) { rng.u64(1..1_000) } else { 0 },
        evidence,
        abort: one_in(rng, 4),
    }
}

fn client(rng: &mut Rng, world: &WorldPlan) -> ClientPlan {
    let listener = match rng.u32(0..20) {
        0..9 => Listener::Ingress,
        9..12 => Listener::Internal,
        12..15 => Listener::Secure,
        15..17 => Listener::Plain,
        _ => Listener::Raw,
    };
    let protocol = match rng.u32(0..10) {
        0..5 => Protocol::Http1,
        5..8 => Protocol::Http2(65_535),
        _ => Protocol::Http2(4 << 20),
    };
    let slow = one_in(rng, 4);
    let pace = if slow {
        Pace::Slow(4_096, rng.u64(5..30))
    } else {
        Pace::Fast
    };
    let mut requests = Vec::new();
    // By when a client is done, if nothing keeps it: drains of a few seconds can end.
    let mut at = rng.u64(0..650);
    while at < LAST_REQUEST && requests.len() < if slow { 1 } else { 4 } {
        let long = one_in(rng, 3);
        let authz_ms = if one_in(rng, 4) { rng.u64(50..1_200) } else { 0 };
        let hold_ms = rng.u64(
            0..if slow {
                900
            } else if long {
                2_000
            } else {
                400
            },
        );
        requests.push(RequestPlan {
            at,
            authz_ms,
            hold_ms,
            // Read at 4 kB every 5 to 30 ms, the large ones take up to two seconds.
            bytes: if slow {
                rng.usize(20_000..300_000)
            } else {
                rng.usize(0..20_000)
            },
            endpoint: if one_in(rng, 3) { Endpoint::B } else { Endpoint::A },
        });
        at += authz_ms + hold_ms + rng.u64(0..500);
    }
    ClientPlan {
        requests,
        envoy: rng.usize(0..world.envoys.len()),
        listener,
        protocol,
        pace,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::schedule::Fault;

    #[test]
    fn a_seed_gives_one_schedule_and_another_seed_another() {
        assert_eq!(Schedule::draw(7, 4), Schedule::draw(7, 4));
        assert_ne!(Schedule::draw(7, 4).rounds, Schedule::draw(8, 4).rounds);
        assert!(!Schedule::draw(7, 4).to_string().is_empty());
    }

    #[test]
    fn a_hundred_schedules_have_every_kind_of_fault_scope_and_world() {
        let schedules: Vec<Schedule> = (0..100).map(|seed| Schedule::draw(seed, 5)).collect();
        let rounds = || schedules.iter().flat_map(|schedule| &schedule.rounds);
        let kinds: HashSet<usize> = rounds()
            .flat_map(|round| &round.faults)
            .map(|plan| plan.fault.kind())
            .collect();
        assert_eq!(kinds.len(), Fault::KINDS.len(), "{kinds:?}");
        let drains = || rounds().flat_map(|round| &round.drains);
        let scopes: HashSet<_> = drains()
            .map(|drain| std::mem::discriminant(&drain.scope))
            .collect();
        assert_eq!(scopes.len(), 5);
        for evidence in [Evidence::Auto, Evidence::Filter, Evidence::Admin] {
            assert!(
                drains().any(|drain| drain.policy.evidence == evidence),
                "{evidence:?}"
            );
        }
        assert!(drains().any(|drain| drain.then.is_some()));
        assert!(drains().any(|drain| drain.cancel_at.is_some()));
        let shared = |world: &WorldPlan| matches!(&*world.envoys, [a, b] if a.node == b.node);
        assert!(schedules.iter().any(|schedule| shared(&schedule.world)));
        for order in [Order::First, Order::Last] {
            let mut envoys = schedules.iter().flat_map(|schedule| &schedule.world.envoys);
            assert!(envoys.any(|envoy| envoy.order == order), "{order:?}");
        }
    }
}
