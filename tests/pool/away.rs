//! While there is no controller, nobody applies records: the primary goes on until its journal is full, and then waits for the
//! next controller, which loses none of them.

use crate::golden::{Golden, TooShort, long_enough};
use crate::run::{Plan, Run};
use crate::support::{await_some, kvm};
use shared_mem::{Access, CommitWord, ControlBlock, Mapping, Offset, Pool, VmSlot};

/// Where the commit word lies (docs/pool-layout.md).
const WORD_AT: Offset = Offset::new(64);
/// How often a full journal is looked at, for more than it holds.
const LOOKS: u32 = 50;

/// How many epochs are committed whose slots are not free yet.
fn ahead(run: &Run) -> u64 {
    let view = Pool::inspect(&run.place.pool()).expect("the pool is there");
    let parts = view.open_vm(VmSlot::new(0)).expect("the guest's part");
    let control = parts.control(Access::ReadOnly).expect("its control block");
    let control = ControlBlock::open(Mapping::read_only(&control).expect("it can be mapped")).expect("it is sound");
    let generation = control.generation().expect("it is sound");
    let journal = parts.journal(generation, Access::ReadOnly).expect("its journal");
    let journal = Mapping::read_only(&journal).expect("it can be mapped");
    let word = CommitWord::load(&journal, WORD_AT).expect("it is sound");
    word.epoch.get() - control.freed().expect("it is sound").get()
}

#[test]
fn a_primary_without_a_controller_fills_its_journal_and_waits() {
    let Some(_machine) = kvm() else { return };
    let run = long_enough(&Golden::torture(300_000_000), fills_its_journal);
    assert_eq!((run.deaths, run.finish()), (0, 0), "no host had to die for it");
}

fn fills_its_journal(golden: &Golden) -> Result<Run, TooShort> {
    let mut run = Run::start(golden, &Plan { hosts: &[("a", None), ("b", None)], ..Plan::default() });
    run.await_protection()?;
    let slots = u64::from(golden.spec("guest").journal.slots);
    for _ in 0..3 {
        run.restart_controller(|run| {
            await_some("a full journal", || (ahead(run) == slots).then_some(()));
            for _ in 0..LOOKS {
                assert_eq!(ahead(run), slots, "no more than there are slots, and nobody frees one");
            }
        });
        run.has_moved();
        run.await_or_end("something new on the console", |run| run.has_moved() && !run.has_ended())?;
    }
    Ok(run)
}
