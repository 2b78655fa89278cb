//! Records that an earlier controller has begun to apply, and that are damaged while this one lives, before it comes to them.

use super::applier::{Event, Job};
use super::partition::Partition;
use crate::inspect::test_pool::{World, geometry, state};
use crate::wake::{self, WakingReceiver};
use ft_protocol::controller::{ApplyOutcome, VmRecord};
use ft_protocol::{Epoch, Generation, VmId};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shared_mem::{Access, CommitWord, Kept, LogPosition, Mapping, Offset, PoolWrite as _};
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;

const GENERATION: Generation = Generation::FIRST;
/// The one that was begun: two are applied, four committed.
const BEGUN: u64 = 3;

/// A VM whose controller died in the middle of a record, with or without a copy of it, and the controller after it.
struct Reopened {
    world: World,
    partition: Partition,
    events: WakingReceiver<Event>,
}

impl Reopened {
    fn new(kept: Kept) -> Self {
        let world = World::new();
        world.parts.create_log(shared_mem::Generation::new(1), LogPosition::ZERO).unwrap();
        assert_eq!(world.begin(BEGUN, kept), kept);
        let (wake, events) = wake::channel().unwrap();
        let record: VmRecord = state(1, None).vms.remove(0);
        let (partition, found) = Partition::reopen(world.pool.as_ref().unwrap(), &record, &wake).unwrap();
        assert_eq!((found.applied, found.word.unwrap().epoch), (Epoch::new(BEGUN - 1), Epoch::new(4)));
        Self { world, partition, events }
    }

    fn damage_record(&self) {
        let slot = geometry().journal.slot_at(shared_mem::Epoch::new(BEGUN));
        self.world.flip("vm-0/journal.1", slot.get() + 4096 + 5);
    }

    fn apply(&self, epoch: u64) -> ApplyOutcome {
        let journal = self.partition.journal(GENERATION).unwrap();
        let epoch = Epoch::new(epoch);
        self.partition.apply(Job { generation: GENERATION, journal, epoch, console_floor: None, recording: None });
        poll(&mut [PollFd::new(self.events.event().as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
        match self.events.drain().remove(0) {
            Event::Applied { vm, generation, outcome } if (vm, generation) == (VmId::new(0), GENERATION) => outcome,
            _ => panic!("the answer is about something else"),
        }
    }
}

/// Image and disk may hold a part of it, and nothing else is left of it: neither that epoch nor the one before is there.
#[test]
fn a_record_that_was_begun_without_a_copy_and_is_damaged_later_costs_its_vm() {
    let reopened = Reopened::new(Kept::No);
    reopened.damage_record();
    let outcome = reopened.apply(BEGUN);
    let ApplyOutcome::Damaged { reason } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("a controller died while it applied 3"), "{reason}");
    // Nothing else was lost: repaired, it goes on.
    reopened.damage_record();
    for epoch in [BEGUN, BEGUN + 1] {
        assert!(matches!(reopened.apply(epoch), ApplyOutcome::Done { .. }), "{epoch}");
    }
}

#[test]
fn a_record_that_was_begun_with_a_copy_and_is_damaged_later_is_applied() {
    let reopened = Reopened::new(Kept::Yes);
    reopened.damage_record();
    assert!(matches!(reopened.apply(BEGUN), ApplyOutcome::Done { .. }));
}

/// A generation that is sealed meanwhile does not end before what was begun, whatever its word says: the damage would not be
/// found.
#[test]
fn no_seal_goes_back_to_before_what_was_begun() {
    for kept in [Kept::Yes, Kept::No] {
        let mut reopened = Reopened::new(kept);
        let journal = reopened.world.parts.journal(shared_mem::Generation::new(1), Access::ReadWrite).unwrap();
        let back = CommitWord::open(shared_mem::Epoch::new(BEGUN - 1)).encode();
        Mapping::read_write(&journal).unwrap().store_u64(Offset::new(64), back, Ordering::Release).unwrap();
        reopened.damage_record();
        assert_eq!(reopened.partition.seal(GENERATION).unwrap(), Epoch::new(BEGUN));
        let outcome = reopened.apply(BEGUN);
        match kept {
            Kept::Yes => assert!(matches!(outcome, ApplyOutcome::Done { .. }), "{outcome:?}"),
            Kept::No => assert!(matches!(outcome, ApplyOutcome::Damaged { .. }), "{outcome:?}"),
        }
    }
}
