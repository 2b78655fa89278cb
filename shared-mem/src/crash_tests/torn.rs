//! The controller dies at any event, and the record that it was applying is damaged in the journal before the next one
//! comes: image and disk are whole all the same. Where there was no space for a copy they are not, and the next one knows.

use std::sync::atomic::Ordering;

use super::survivors::{Choice, choices};
use super::world::{
    Controller, CopySpace, EPOCHS, GENERATION, GEOMETRY, Held, LIMITS, Primary, Stop, World, hold, violation,
};
use crate::commit_word::CommitWord;
use crate::journal::{AllReserved, JournalWriter, LoadError};
use crate::mem::{PoolRead, PoolWrite};
use crate::numbers::{Epoch, Offset, PAGE_BYTES, PAGE_SIZE, PageIndex};
use crate::redo::load_to_apply;

/// What becomes of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
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
    pub(super) fn inflict(self, world: &World, epoch: Epoch) -> Held {
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

fn case(fresh: &World, at: u64, choice: Choice, space: CopySpace) -> Held<u64> {
    let world = fresh.fork();
    let (mut primary, controller) = (Primary::new(&world), Controller::with(&world, space));
    controller.cache.die_after(at);
    run_together(&mut primary, &controller)?;
    let events = controller.cache.events();
    controller.cache.crash(&mut *choice.survivors());
    let next_life = controller_after(&world, space)?;
    let applied = next_life.applied()?;
    let next = Epoch::new(applied + 1);
    if applied == EPOCHS {
        return Ok(events);
    }
    if !next_life.redo.is_begun(GENERATION, next, &LIMITS).map_err(violation)? {
        // Nothing was begun: whatever the journal says now, image and disk are those of the applied epoch.
        next_life.check_history(applied)?;
        return Ok(events);
    }
    let is_whole = next_life.redo.holds(GENERATION, next, &LIMITS, &mut Vec::new()).map_err(violation)?;
    hold(is_whole == (space == CopySpace::Plenty), || format!("epoch {next} is begun, its copy whole: {is_whole}"))?;
    for damage in DAMAGES {
        let world = world.fork();
        damage.inflict(&world, next)?;
        let controller = controller_after(&world, space)?;
        match (space, damage) {
            (CopySpace::Plenty, _) | (CopySpace::HeaderOnly, Damage::WordBack) => goes_on(&controller, next)?,
            (CopySpace::HeaderOnly, _) => is_given_up(&controller, next, damage)?,
        }
    }
    Ok(events)
}

/// No record is left that makes image and disk whole.
fn is_given_up(controller: &Controller, next: Epoch, damage: Damage) -> Held {
    let mut buffer = Vec::new();
    let found = load_to_apply(&controller.journal, &controller.redo, next, &LIMITS, &mut buffer);
    hold(matches!(found, Err(LoadError::Record { .. })), || format!("{damage:?}: epoch {next} would be applied"))?;
    check_end(controller, next)
}

/// The record is applied: from its copy, or where there is none, from the journal.
fn goes_on(controller: &Controller, next: Epoch) -> Held {
    check_end(controller, next)?;
    controller.apply_up_to(next.get())?;
    controller.check_history(next.get())
}

/// The generation does not end before what was begun.
fn check_end(controller: &Controller, begun: Epoch) -> Held {
    let applied = begun.previous().unwrap_or_default();
    let closed = Some((&controller.journal, controller.journal.seal()));
    let end = controller.redo.end_of(GENERATION, closed, (applied, Epoch::ZERO), &LIMITS).map_err(violation)?;
    hold(end >= begun, || format!("the generation ends at {end}, epoch {begun} is begun"))
}

fn controller_after(world: &World, space: CopySpace) -> Held<Controller> {
    let controller = Controller::with(world, space);
    controller.check_whole()?;
    Ok(controller)
}

/// Every crash point of the controller; returns how many cases there were.
pub(super) fn crashes() -> Held<usize> {
    let fresh = World::new();
    let mut cases = 0;
    for space in [CopySpace::Plenty, CopySpace::HeaderOnly] {
        let events = case(&fresh, u64::MAX, Choice::None, space)?;
        for at in 0..=events {
            for choice in choices(at) {
                case(&fresh, at, choice, space)?;
                cases += 1;
            }
        }
    }
    Ok(cases)
}

#[test]
fn a_record_that_is_half_applied_survives_its_journal_or_is_known_to_be_lost() {
    let cases = crashes().unwrap();
    assert!(cases > 4_000, "{cases} cases");
}
