//! Journals and logs of the generations to come are made, and those of generations that are over are removed, beside the
//! controller's thread. Space is taken and given back by the page, which takes milliseconds; and it is wanted right behind a
//! takeover, while everybody waits for the first output of the new primary.

use super::applier::{Event, Journal};
use super::worker::Worker;
use crate::slice;
use crate::wake::WakingSender;
use ft_protocol::VmId;
use shared_mem::{Epoch, Generation, PoolError, VmPartition};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Journals and logs of one VM's generations, as files.
pub(super) struct Generations {
    parts: VmPartition,
    turn: Mutex<Turn>,
}

/// Whoever has it is the only one to make and remove these files.
pub(super) struct Turn {
    /// The generation whose journal and log are in use.
    pub(super) reigns: Generation,
    pub(super) life: Life,
}

impl Turn {
    /// Whether this generation is the next to come. By the time that it is asked it may reign already, or its VM be another one.
    pub(super) fn awaits(&self, generation: Generation) -> bool {
        self.life == Life::Runs && self.reigns.next() == generation
    }
}

/// What a VM still needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Life {
    Runs,
    /// No other generation will come.
    Ended,
    /// Its place may be another VM's.
    Deleted,
}

impl Generations {
    pub(super) fn new(parts: VmPartition, reigns: Generation) -> Self {
        Self { parts, turn: Mutex::new(Turn { reigns, life: Life::Runs }) }
    }

    /// Waits for what is being done to the files of this VM.
    pub(super) fn turn(&self) -> MutexGuard<'_, Turn> {
        // What is there is asked of the pool each time.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes journal and log of a generation to come, with their space; they are laid out when it is opened.
    fn reserve(&self, generation: Generation) -> Result<(), PoolError> {
        let turn = self.turn();
        if !turn.awaits(generation) {
            return Ok(());
        }
        self.parts.create_journal(generation, Epoch::ZERO)?;
        self.parts.reserve_log(generation)
    }

    /// Removes what generations before this one have left.
    fn remove_before(&self, generation: Generation, journals: &[Arc<Journal>]) -> Result<(), Failure> {
        let turn = self.turn();
        if turn.life == Life::Deleted {
            return Ok(());
        }
        // A host that was stopped may have it mapped for long: what others wait for does not wait for that.
        journals.iter().try_for_each(|over| release_slots_of(over))?;
        self.remove(&turn, |found| found < generation)
    }

    /// Removes files of the generations that are meant.
    pub(super) fn remove(&self, _turn: &Turn, meant: impl Fn(Generation) -> bool) -> Result<(), Failure> {
        for raw in self.parts.journal_generations()?.into_iter().filter(|raw| meant(*raw)) {
            self.parts.delete_journal(raw)?;
        }
        for raw in self.parts.log_generations()?.into_iter().filter(|raw| meant(*raw)) {
            self.parts.delete_log(raw)?;
        }
        Ok(())
    }
}

/// Gives back what all slots of a journal have beyond their reserved parts.
pub(super) fn release_slots_of(journal: &Journal) -> Result<(), Failure> {
    for slot in 0..u64::from(journal.reader.geometry().slots) {
        journal.reader.release_spill(Epoch::new(slot), &journal.spill)?;
    }
    Ok(())
}

/// What a takeover asks for can wait for so long, and its first output cannot: pages are taken and given back in the kernel, which lets
/// nobody else on that processor meanwhile.
const DELAY: Duration = Duration::from_millis(10);

enum Work {
    Reserve { vm: VmId, files: Arc<Generations>, generation: Generation },
    RemoveBefore { vm: VmId, files: Arc<Generations>, generation: Generation, journals: Vec<Arc<Journal>> },
}

/// Handle of the thread.
pub(super) struct GenerationKeeper {
    worker: Worker<(Instant, Work)>,
}

impl GenerationKeeper {
    pub(super) fn start(done: WakingSender<Event>) -> std::io::Result<Self> {
        let worker = Worker::start("generations".to_owned(), move |(due, work): (Instant, Work)| {
            slice::run_long();
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            match work {
                Work::Reserve { vm, files, generation } => {
                    let result = files.reserve(generation);
                    done.send(Event::Reserved {
                        vm,
                        generation: ft_protocol::Generation::new(generation.get()),
                        result,
                    });
                }
                Work::RemoveBefore { vm, files, generation, journals } => {
                    if let Err(error) = files.remove_before(generation, &journals) {
                        tracing::warn!("journals of {vm} before {generation} stay: {}", crate::chain(&*error));
                    }
                }
            }
        })?;
        Ok(Self { worker })
    }

    /// Reserves what a generation to come will need; the answer is [`Event::Reserved`].
    pub(super) fn reserve(&self, vm: VmId, files: Arc<Generations>, generation: Generation) {
        self.hand_on(Work::Reserve { vm, files, generation });
    }

    /// Removes what generations before this one have left; these are the journals that were still open.
    pub(super) fn remove_before(
        &self,
        vm: VmId,
        files: Arc<Generations>,
        generation: Generation,
        journals: Vec<Arc<Journal>>,
    ) {
        self.hand_on(Work::RemoveBefore { vm, files, generation, journals });
    }

    fn hand_on(&self, work: Work) {
        self.worker.hand_on((Instant::now() + DELAY, work));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::test_pool::World;
    use shared_mem::Access;

    const REIGNS: Generation = Generation::new(1);

    fn journals(files: &Generations) -> Vec<u64> {
        files.parts.journal_generations().unwrap().into_iter().map(Generation::get).collect()
    }

    #[test]
    fn journal_and_log_are_made_for_what_is_to_come_and_for_nothing_else() {
        let world = World::new();
        let files = Generations::new(world.parts.clone(), REIGNS);
        let next = REIGNS.next();
        // A takeover was faster: what it has laid out stays as it is.
        files.turn().reigns = next;
        files.reserve(next).unwrap();
        assert_eq!(journals(&files), [1]);
        files.reserve(next.next()).unwrap();
        assert_eq!(journals(&files), [1, 3]);
        assert!(files.parts.log(next.next(), Access::ReadOnly).is_ok());
        // Its guest has ended, and its directory is another VM's by now.
        for life in [Life::Ended, Life::Deleted] {
            files.turn().life = life;
            files.reserve(next.next().next()).unwrap();
            assert_eq!(journals(&files), [1, 3], "{life:?}");
        }
        files.remove_before(next, &[]).unwrap();
        assert_eq!(journals(&files), [1, 3]);
        files.turn().life = Life::Ended;
        files.remove_before(next, &[]).unwrap();
        assert_eq!(journals(&files), [3]);
    }

    #[test]
    fn whoever_uses_these_files_waits_for_what_is_being_done_to_them() {
        let world = World::new();
        let files = Arc::new(Generations::new(world.parts.clone(), REIGNS));
        let (wake, events) = crate::wake::channel().unwrap();
        let keeper = GenerationKeeper::start(wake).unwrap();
        let turn = files.turn();
        keeper.reserve(VmId::new(0), Arc::clone(&files), REIGNS.next());
        assert_eq!(journals(&files), [1]);
        drop(turn);
        // Lets it finish.
        drop(keeper);
        assert!(matches!(events.drain()[..], [Event::Reserved { result: Ok(()), .. }]));
        assert_eq!(journals(&files), [1, 2]);
    }
}
