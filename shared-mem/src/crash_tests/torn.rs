//! The controller dies at any event, and the record that it was applying is damaged in the journal before the next one
//! comes: image and disk are whole all the same.

use std::sync::atomic::Ordering;

use super::survivors::{Choice, choices};
use super::world::{Controller, EPOCHS, GENERATION, GEOMETRY, Held, LIMITS, Primary, Stop, World, hold, violation};
use crate::commit_word::CommitWord;
use crate::journal::{AllReserved, JournalWriter};
use crate::mem::{PoolRead, PoolWrite};
use crate::numbers::{Epoch, Offset, PAGE_BYTES, PAGE_SIZE, PageIndex};

/// What becomes of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    /// Its whole slot is overwritten.
    Garbage,
    /// One bit of a page.
    Flip,
    /// A fenced writer puts a sound record of the same epoch there.
    OtherRecord,
    /// The commit word says that the epoch was never committed.
    WordBack,
}

const DAMAGES: [Damage; 4] = [Damage::Garbage, Damage::Flip, Damage::OtherRecord, Damage::WordBack];

impl Damage {
    fn inflict(self, world: &World, epoch: Epoch) -> Held {
        let journal = &world.journal;
        let slot = GEOMETRY.slot_at(epoch);
        match self {
            Self::Garbage => {
                let garbage = vec![0xa5; usize::try_from(GEOMETRY.slot_bytes).map_err(violation)?];
                journal.write(slot, &garbage).map_err(violation)
            }
            Self::Flip => {
                let at = slot.plus(PAGE_SIZE + 1000);
                let mut byte = [0];
                journal.read(at, &mut byte).map_err(violation)?;
                journal.write(at, &[byte[0] ^ 4]).map_err(violation)
            }
            Self::OtherRecord => {
                let zombie = JournalWriter::new(journal, AllReserved, GENERATION, GEOMETRY).map_err(violation)?;
                let mut record = zombie.begin(epoch, epoch).map_err(violation)?;
                record.push_page_bytes(PageIndex::new(3), &[0x5a; PAGE_BYTES]).map_err(violation)?;
                record.finish(&super::world::state_of(epoch.get())).map_err(violation)?;
                Ok(())
            }
            Self::WordBack => {
                let word = CommitWord::open(epoch.previous().unwrap_or_default()).encode();
                journal.store_u64(Offset::new(64), word, Ordering::Release).map_err(violation)
            }
        }
    }
}

fn run_together(primary: &mut Primary, controller: &Controller) -> Held {
    while primary.run()? == Stop::SlotsFull && !controller.cache.is_dead() {
        controller.poll()?;
    }
    controller.poll()
}

fn case(fresh: &World, at: u64, choice: Choice) -> Held<u64> {
    let world = fresh.fork();
    let (mut primary, controller) = (Primary::new(&world), Controller::new(&world));
    controller.cache.die_after(at);
    run_together(&mut primary, &controller)?;
    let events = controller.cache.events();
    controller.cache.crash(&mut *choice.survivors());
    let next_life = controller_after(&world)?;
    let applied = next_life.applied()?;
    let next = Epoch::new(applied + 1);
    if applied == EPOCHS {
        return Ok(events);
    }
    if !next_life.redo.holds(GENERATION, next, &LIMITS, &mut Vec::new()).map_err(violation)? {
        // Nothing was begun: whatever the journal says now, image and disk are those of the applied epoch.
        next_life.check_history(applied)?;
        return Ok(events);
    }
    for damage in DAMAGES {
        let world = world.fork();
        damage.inflict(&world, next)?;
        goes_on(&controller_after(&world)?, next)?;
    }
    Ok(events)
}

/// The record is applied from its copy.
fn goes_on(controller: &Controller, next: Epoch) -> Held {
    let applied = next.previous().unwrap_or_default();
    let closed = Some((&controller.journal, controller.journal.seal()));
    let end = controller.redo.end_of(GENERATION, closed, (applied, Epoch::ZERO), &LIMITS).map_err(violation)?;
    hold(end >= next, || format!("the generation ends at {end}, epoch {next} is begun"))?;
    controller.apply_up_to(next.get())?;
    controller.check_history(next.get())
}

fn controller_after(world: &World) -> Held<Controller> {
    let controller = Controller::new(world);
    controller.check_whole()?;
    Ok(controller)
}

/// Every crash point of the controller; returns how many cases there were.
pub(super) fn crashes() -> Held<usize> {
    let fresh = World::new();
    let events = case(&fresh, u64::MAX, Choice::None)?;
    let mut cases = 0;
    for at in 0..=events {
        for choice in choices(at) {
            case(&fresh, at, choice)?;
            cases += 1;
        }
    }
    Ok(cases)
}

#[test]
fn a_record_that_is_half_applied_survives_its_journal() {
    let cases = crashes().unwrap();
    assert!(cases > 2_000, "{cases} cases");
}
