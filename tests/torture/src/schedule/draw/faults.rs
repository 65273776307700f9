//! Drawing what goes wrong.

use fastrand::Rng;

use super::{FIRST_DRAIN, pick};
use crate::schedule::{Claim, Fault, FaultPlan, Harmless, Round, State, WorldPlan};

/// Has the control plane go away before everything else, and be back when the first drain is asked for: filters come back one
/// by one, and what they hold has to be waited for.
pub(super) fn back_just_before(rng: &mut Rng, round: &mut Round) {
    let away = rng.u64(100..4_000);
    let fault = if rng.bool() {
        Fault::ControlKilled(away)
    } else {
        Fault::ControlTerminated(away)
    };
    let shift = (away + 100).saturating_sub(FIRST_DRAIN);
    for drain in &mut round.drains {
        drain.at += shift;
        drain.waits = true;
        drain.cancel_at = drain.cancel_at.map(|at| at + shift);
    }
    for client in &mut round.clients {
        client.requests.iter_mut().for_each(|request| request.at += shift);
    }
    round.faults.iter_mut().for_each(|fault| fault.at += shift);
    let at = (FIRST_DRAIN + shift).saturating_sub(away + 100);
    round.faults.push(FaultPlan { at, fault });
}

/// A fault that this world can have.
pub(super) fn one(rng: &mut Rng, world: &WorldPlan) -> FaultPlan {
    let envoy = rng.usize(0..world.envoys.len());
    let length = rng.u64(50..2_000);
    let mut kinds = vec![
        Fault::ControlKilled(length),
        Fault::ControlTerminated(length),
        Fault::ControlPaused(length),
        Fault::EnvoyPaused(envoy, length),
        Fault::EnvoyKilled(envoy),
        Fault::EnvoyTerminated(envoy),
        Fault::ClockStep(rng.i64(-7_200..7_200)),
        Fault::Stranger(claim(rng), length),
        Fault::Stranger(claim(rng), length),
        Fault::ControlSignalled(
            pick(rng, &[Harmless::Hup, Harmless::Usr1, Harmless::Usr2]).unwrap_or(Harmless::Hup),
        ),
        Fault::IdleConnections(rng.usize(1..400), length),
        Fault::Watchers(rng.usize(1..200), length),
    ];
    if world.state != State::Memory {
        kinds.push(Fault::StateBroken(rng.u64(0..400)));
    }
    if world.relay {
        kinds.extend([
            Fault::StreamsCut(envoy, 0),
            Fault::StreamsCut(envoy, length),
            Fault::StreamsCut(envoy, length),
            Fault::StreamsSilent(envoy, length),
            Fault::StreamsSilent(envoy, length),
        ]);
    }
    if world.trap {
        kinds.extend([Fault::VmTrapped(envoy); 4]);
    }
    if world.state == State::Disk {
        kinds.extend([
            Fault::DiskFull(length),
            Fault::DiskReadOnly(length),
            Fault::DiskHangs(length),
        ]);
    }
    let fault = pick(rng, &kinds).unwrap_or(Fault::ControlKilled(length));
    let at = rng.u64(300..1_800);
    FaultPlan { at, fault }
}

fn claim(rng: &mut Rng) -> Claim {
    const CLAIMS: [Claim; 7] = [
        Claim::EpochFromElsewhere,
        Claim::Epoch,
        Claim::Goodbye,
        Claim::AnswersUnasked,
        Claim::HugeCounts,
        Claim::Nonsense,
        Claim::FreshNames,
    ];
    pick(rng, &CLAIMS).unwrap_or(Claim::Nonsense)
}
