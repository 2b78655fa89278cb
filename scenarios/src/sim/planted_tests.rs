//! Every planted bug is found: by which profile, and within how many seeds.

use super::planted::{PlantedBug, plant};
use super::{FaultProfile, SimConfig, Violation, run};
use ft_protocol::planted as core;
use shared_mem::planted as pool;

/// A bug in the cores, in the simulator's drivers or in the pool.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bug {
    Core(core::PlantedBug),
    Driver(PlantedBug),
    Pool(pool::PlantedBug),
}

/// Plants a bug as long as it lives.
pub(super) struct Planted;

impl Planted {
    pub(super) fn new(bug: Bug) -> Self {
        match bug {
            Bug::Core(bug) => core::plant(Some(bug)),
            Bug::Driver(bug) => plant(Some(bug)),
            Bug::Pool(bug) => pool::plant(Some(bug)),
        }
        Self
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        core::plant(None);
        plant(None);
        pool::plant(None);
    }
}

pub(super) fn first_finding(bug: Bug, profile: FaultProfile, seeds: u64) -> Option<(u64, Violation)> {
    let _planted = Planted::new(bug);
    (0..seeds).find_map(|seed| Some((seed, run(&SimConfig { seed, hosts: 3, vms: 1, faults: profile }).violation?)))
}

fn all_are_found(bugs: impl IntoIterator<Item = (Bug, FaultProfile, u64)>) {
    let mut missed = Vec::new();
    for (bug, profile, seeds) in bugs {
        match first_finding(bug, profile, seeds) {
            Some((seed, violation)) => println!("{bug:?}: {profile}, {} of {seeds} seeds: {violation}", seed + 1),
            None => missed.push((bug, profile, seeds)),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
fn bugs_of_the_cores_are_found() {
    use FaultProfile::{Crash, Hang, None as Calm, Planned, Replay, Swarm};
    use core::PlantedBug as C;
    let bugs = [
        (C::GateOpensEarly, Swarm, 5),
        (C::FencedReleases, Swarm, 200),
        (C::DeadHostFit, Swarm, 300),
        (C::SamePlace, Swarm, 100),
        (C::TimeoutTrusted, Swarm, 20),
        (C::PromoteUndrained, Swarm, 50),
        (C::GenerationKept, Swarm, 50),
        (C::PromoteUnpersisted, Swarm, 50),
        (C::StallIgnored, Hang, 50),
        (C::IdleAccused, Calm, 50),
        (C::FailedPromotionForgotten, Planned, 3_000),
        (C::HostAwaited, Planned, 1_500),
        (C::DomainsIgnored, Calm, 50),
        (C::FormatIgnored, Planned, 20),
        (C::GenerationsReused, Planned, 50),
        (C::DeletedUnsealed, Planned, 200),
        (C::FailbackBlind, Crash, 200),
        (C::SwitchoverForgotten, Planned, 500),
        (C::WaitersForgotten, Planned, 1_500),
        (C::RefusersAsked, Replay, 1_000),
    ];
    all_are_found(bugs.map(|(bug, profile, seeds)| (Bug::Core(bug), profile, seeds)));
}

#[test]
fn bugs_of_the_drivers_are_found() {
    use FaultProfile::{Client, None as Calm, Planned, Swarm};
    use PlantedBug as D;
    let bugs = [
        (D::ReleaseBeforePublish, Swarm, 5),
        (D::ZombieReleases, Swarm, 100),
        (D::ReleaseReversed, Swarm, 5),
        (D::CheckThenStore, Swarm, 100),
        (D::IgnoreRefusal, Swarm, 50),
        (D::ForgetDevicePages, Swarm, 5),
        (D::ClearDirtyLate, Swarm, 5),
        (D::DropPendingConsole, Swarm, 5),
        (D::StaleRegisters, Swarm, 5),
        (D::ForgetEnd, Swarm, 5),
        (D::ReuseSlotEarly, Swarm, 50),
        (D::ForgetWake, Swarm, 5),
        (D::ReadyTooEarly, Swarm, 5),
        (D::ForgetStandby, Swarm, 5),
        (D::SealNothing, Swarm, 20),
        (D::SealLate, Swarm, 100),
        (D::SealAnswersApplied, Swarm, 50),
        (D::PromoteBeforeDrained, Swarm, 50),
        (D::KeepGeneration, Swarm, 20),
        (D::PersistAfterPromotion, Swarm, 500),
        (D::ForgetPersist, Swarm, 5),
        (D::TwoTakeovers, Swarm, 5),
        (D::BelieveDoorbell, Swarm, 50),
        (D::ForgetFreed, Swarm, 100),
        (D::OverrunReaders, Client, 60),
        (D::ForgetJournal, Swarm, 50),
        (D::GrantImageWrite, Swarm, 5),
        (D::GrantJournalToStandby, Planned, 5),
        (D::KeepRoles, Calm, 5),
        (D::ForgetFence, Swarm, 20),
        (D::NeverYield, Planned, 100),
        (D::ClaimMemory, Calm, 500),
        (D::ClaimAbilities, Calm, 500),
    ];
    all_are_found(bugs.map(|(bug, profile, seeds)| (Bug::Driver(bug), profile, seeds)));
}

#[test]
fn bugs_of_the_pool_are_found() {
    use FaultProfile::{Crash, Pool as PoolFaults, Swarm};
    use pool::PlantedBug as P;
    let bugs = [
        (P::RecordBodyFlush, Swarm, 5),
        (P::RecordHeaderFlush, Swarm, 5),
        (P::PublishFlush, Swarm, 5),
        (P::PublishFence, Swarm, 5),
        (P::PublishUnconditional, Swarm, 50),
        (P::SealFlush, Swarm, 500),
        (P::RecordFence, Crash, 100),
        (P::RecordBodyCrc, PoolFaults, 100),
        (P::ApplyPageFlush, Swarm, 50),
        (P::ApplyStateFlush, Swarm, 50),
        (P::ApplyStateInPlace, Crash, 20_000),
        (P::ApplyConsoleDataFlush, Crash, 50),
        (P::ApplyConsoleTailFlush, Swarm, 50),
        (P::ApplyConsoleNotIdempotent, Crash, 20_000),
        (P::AppliedFirst, Swarm, 50),
        (P::AppliedFlush, Swarm, 5),
        (P::GenerationFlush, Swarm, 100),
        (P::RedoIgnored, PoolFaults, 2_000),
        (P::RedoForgottenAtSeal, PoolFaults, 2_000),
        (P::BegunForgottenAtSeal, PoolFaults, 2_000),
        (P::BegunPastEnd, PoolFaults, 2_000),
        (P::BlobDataFlush, Swarm, 50),
        (P::BlobInPlace, Crash, 500),
    ];
    all_are_found(bugs.map(|(bug, profile, seeds)| (Bug::Pool(bug), profile, seeds)));
}

/// Bugs that take a record log, or a secondary that follows.
#[test]
fn bugs_of_replay_and_lockstep_are_found() {
    use FaultProfile::{Lockstep, Replay};
    let bugs = [
        (Bug::Driver(PlantedBug::LogNotSealed), Replay, 400),
        (Bug::Driver(PlantedBug::OutputBeforeLog), Replay, 20),
        (Bug::Driver(PlantedBug::LogNotCarried), Replay, 20),
        (Bug::Driver(PlantedBug::SaidAgain), Replay, 20),
        (Bug::Core(core::PlantedBug::InputEarly), Replay, 100),
        (Bug::Core(core::PlantedBug::FollowerNotAwaited), Lockstep, 1_000),
        (Bug::Core(core::PlantedBug::FollowerRunsOn), Lockstep, 400),
        (Bug::Core(core::PlantedBug::MarkPassedEarly), Lockstep, 1_000),
        (Bug::Core(core::PlantedBug::HalfExitComplete), Lockstep, 1_000),
        (Bug::Driver(PlantedBug::RestOfExitForgotten), Replay, 1_000),
        (Bug::Driver(PlantedBug::DeliveredBehindEnd), Lockstep, 1_000),
        (Bug::Driver(PlantedBug::StopsAmidExit), Replay, 1_000),
        (Bug::Pool(pool::PlantedBug::LogTailFlush), Replay, 100),
        (Bug::Pool(pool::PlantedBug::LogEntryFlush), Replay, 100),
    ];
    all_are_found(bugs);
}
