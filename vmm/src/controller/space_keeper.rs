//! Keeps space of the pool for the largest commit record that a VM can have.
//!
//! What a guest dirties in an epoch can be all of its memory, whatever the epoch's length; its record then needs more than
//! its slot has reserved, and stands still until there is space. So the pool always has as much, for one record at a time:
//! while it has plenty, nothing has to be done for that; when it is short, the space is held, in the reserve, which only the
//! controller takes from. A record that finds no space is given it: into its own slot, so that no other can take it. When
//! it is applied, the space is free again, and held again. Who waits holds nothing that others wait for. So among
//! the VMs that wait one always gets on, whatever the others do, and no VM is admitted for which that would not hold.
//!
//! Large amounts are taken by a thread of its own: the controller's has more urgent work.

use super::applier::Journal;
use super::worker::Worker;
use ft_protocol::{Epoch, VmId};
use shared_mem::journal::SpillError;
use shared_mem::{PoolError, SpaceReserve};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

/// Space is held while the pool has less than so many times what must be there ...
const HELD_BELOW: u64 = 2;
/// ... and given back when it has this much without it.
const GIVEN_BACK_FROM: u64 = 4;
const _: () = assert!(GIVEN_BACK_FROM > HELD_BELOW + 1, "what is given back must not be taken again at once");

/// Sees to it that the pool has space for one record. Without one on a device, where nothing can lack.
pub(super) struct SpaceKeeper {
    kept: Option<Kept>,
}

struct Kept {
    reserve: Arc<Reserve>,
    worker: Worker<Ask>,
}

struct Reserve {
    space: SpaceReserve,
    /// Whose turn it is to change what is held; it can be asked about at any time.
    turn: Mutex<()>,
    /// A record is being given space, which may take long.
    giving: AtomicBool,
    /// Somebody waits for his turn: what is held can grow later.
    lending: AtomicBool,
    /// VMs that are to be given space, and have not been yet.
    asked: Mutex<BTreeSet<VmId>>,
    /// What must be there.
    wanted: AtomicU64,
}

enum Ask {
    /// Hold as much as must be held.
    Look,
    /// Space for a record that has found none.
    Give { vm: VmId, journal: Arc<Journal>, epoch: Epoch, needed: u64 },
}

impl SpaceKeeper {
    pub(super) fn start(space: Option<SpaceReserve>) -> std::io::Result<Self> {
        let Some(space) = space else { return Ok(Self { kept: None }) };
        let asked = Mutex::new(BTreeSet::new());
        let (giving, lending) = (AtomicBool::new(false), AtomicBool::new(false));
        let turn = Mutex::new(());
        let reserve = Arc::new(Reserve { space, turn, giving, lending, asked, wanted: AtomicU64::new(0) });
        let asked = Arc::clone(&reserve);
        let worker = Worker::start("space".to_owned(), move |ask| match ask {
            Ask::Look => asked.hold(),
            Ask::Give { vm, journal, epoch, needed } => {
                asked.give(vm, &journal, epoch, needed);
                // From here on it may ask for its next record.
                asked.asked().remove(&vm);
                asked.hold();
            }
        })?;
        Ok(Self { kept: Some(Kept { reserve, worker }) })
    }

    /// Says how much must be there from now on.
    pub(super) fn want(&self, bytes: u64) {
        if let Some(kept) = &self.kept {
            kept.reserve.wanted.store(bytes, Ordering::Relaxed);
            self.look();
        }
    }

    /// Whether so much can be there beside what else is to be taken from the pool.
    ///
    /// # Errors
    /// When it cannot, with what is missing.
    pub(super) fn check(&self, bytes: u64, beside: u64) -> Result<(), PoolError> {
        self.check_behind(0, bytes, beside)
    }

    /// As [`check`](Self::check), of what there will be when a VM has taken so much.
    ///
    /// # Errors
    /// As there; or when there is not as much to be taken.
    pub(super) fn check_behind(&self, taken: u64, bytes: u64, beside: u64) -> Result<(), PoolError> {
        let Some(kept) = &self.kept else { return Ok(()) };
        let total = kept.reserve.space.total();
        let lacks = PoolError::NoSpace { what: "what it has of its own", needed: taken, available: total };
        let available = total.checked_sub(taken).ok_or(lacks)?;
        let needed = bytes.saturating_add(beside);
        if needed <= available {
            return Ok(());
        }
        Err(PoolError::NoSpace {
            what: "space for the largest commit record, which must always be there,",
            needed,
            available,
        })
    }

    /// As [`check`](Self::check), for what is wanted already.
    pub(super) fn check_beside(&self, bytes: u64) -> Result<(), PoolError> {
        let wanted = self.kept.as_ref().map_or(0, |kept| kept.reserve.wanted());
        self.check(wanted, bytes)
    }

    /// Looks whether space must be held, or need not be any more. Cheap; done often.
    pub(super) fn look(&self) {
        let Some(kept) = &self.kept else { return };
        // Whoever has it looks when he is done.
        let Some(turn) = kept.reserve.try_turn() else { return };
        let wants = Want::of(&kept.reserve.space, kept.reserve.wanted());
        drop(turn);
        if wants != Want::Nothing {
            kept.worker.hand_on(Ask::Look);
        }
    }

    /// Gives space to a record that has not found so many bytes.
    pub(super) fn give(&self, vm: VmId, journal: Arc<Journal>, epoch: Epoch, needed: u64) {
        if let Some(kept) = &self.kept
            && kept.reserve.asked().insert(vm)
        {
            kept.worker.hand_on(Ask::Give { vm, journal, epoch, needed });
        }
    }

    /// Lends so much of what is held to something that gives as much back: the journal of a generation, after which that of
    /// the one before goes. `None`: what is held is just being moved, which may be a lot, and the caller has more urgent work
    /// than to wait for that: he comes again.
    pub(super) fn lend<T>(&self, bytes: u64, make: impl FnOnce() -> T) -> Option<T> {
        let Some(kept) = &self.kept else { return Some(make()) };
        let turn = kept.reserve.turn_unless_given()?;
        told(kept.reserve.space.give_up(bytes));
        let made = Some(make());
        drop(turn);
        self.look();
        made
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Nothing,
    Hold,
    GiveBack,
}

impl Want {
    fn of(space: &SpaceReserve, wanted: u64) -> Self {
        // What cannot be asked is told when it is used.
        let (held, available) = (space.held().unwrap_or(0), space.available().unwrap_or(0));
        let wanted = space.in_pages(wanted);
        if held > wanted || (held > 0 && available >= wanted.saturating_mul(GIVEN_BACK_FROM)) {
            Self::GiveBack
        } else if held < wanted && available > 0 && available < wanted.saturating_mul(HELD_BELOW) {
            Self::Hold
        } else {
            Self::Nothing
        }
    }
}

trait Total {
    /// What is held, and what the pool has left.
    fn total(&self) -> u64;
}

/// Between two looks whether it is one's turn.
const TURN_INTERVAL: Duration = Duration::from_micros(100);

/// How often what the pool has is asked for anew while it is on the move.
const LOOKS: usize = 4;

impl Total for SpaceReserve {
    fn total(&self) -> u64 {
        let mut total = 0;
        for _ in 0..LOOKS {
            let before = self.held().unwrap_or(0);
            total = before.saturating_add(self.available().unwrap_or(0));
            if self.held().is_ok_and(|held| held == before) {
                break;
            }
        }
        total
    }
}

impl Reserve {
    /// For the thread that has nothing more urgent to do.
    fn turn(&self) -> MutexGuard<'_, ()> {
        // What is held is asked of the file each time.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_turn(&self) -> Option<MutexGuard<'_, ()>> {
        match self.turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Waits for one step of holding space at most. `None` while a record is given space.
    fn turn_unless_given(&self) -> Option<MutexGuard<'_, ()>> {
        self.lending.store(true, Ordering::SeqCst);
        let turn = loop {
            match self.try_turn() {
                None if self.giving.load(Ordering::SeqCst) => break None,
                None => std::thread::sleep(TURN_INTERVAL),
                turn => break turn,
            }
        };
        self.lending.store(false, Ordering::SeqCst);
        turn
    }

    fn asked(&self) -> MutexGuard<'_, BTreeSet<VmId>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wanted(&self) -> u64 {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Brings what is held to what must be held, as far as there is space; others get in between the steps.
    fn hold(&self) {
        loop {
            if self.lending.load(Ordering::SeqCst) {
                // Whoever has his turn looks when he is done.
                return;
            }
            let (_turn, space) = (self.turn(), &self.space);
            let wanted = space.in_pages(self.wanted());
            match Want::of(space, wanted) {
                Want::Nothing => return,
                Want::GiveBack => {
                    // Asked for again when the pool is short again.
                    let keep = if space.held().is_ok_and(|held| held > wanted) { wanted } else { 0 };
                    told(space.give_back(keep));
                    return;
                }
                Want::Hold => match space.take(wanted) {
                    Ok(false) => {}
                    // The rest is taken when it comes back.
                    Ok(true) | Err(SpillError::NoSpace { .. }) => return,
                    Err(error) => return told(Err(error)),
                },
            }
        }
    }

    /// Moves space into the slot of a record: all that a record there can need; what this one needs, if others who do not
    /// belong to the pool have left no more than that.
    ///
    /// Never takes any away there: by now its writer may have found space by itself, and have published what is in it.
    fn give(&self, vm: VmId, journal: &Journal, epoch: Epoch, needed: u64) {
        let (at, most) = journal.reader.geometry().spill_range(shared_mem::Epoch::new(epoch.get()));
        self.giving.store(true, Ordering::SeqCst);
        let given = {
            let _turn = self.turn();
            let awaited = journal.reader.word().is_ok_and(|word| !word.sealed && word.epoch.get() < epoch.get());
            let total = self.space.total();
            let len = if total < most { needed.min(most) } else { most };
            // Asked beforehand: the kernel takes all that there is from others before it says no.
            if !awaited {
                Ok(false)
            } else if total < len {
                Err(SpillError::NoSpace { needed: len, available: total })
            } else {
                let lacks = len.saturating_sub(self.space.available().unwrap_or(0));
                self.space.give_up(lacks).and_then(|()| journal.spill.offer(at, len)).map(|()| true)
            }
        };
        self.giving.store(false, Ordering::SeqCst);
        match given {
            Ok(true) => tracing::debug!("{vm} has space for the commit record of epoch {epoch}"),
            Ok(false) => {}
            // Tried again while it waits: what others have taken meanwhile they give back.
            Err(error) => tracing::debug!("{vm} gets no space for the commit record of epoch {epoch}: {error}"),
        }
    }
}

fn told(result: Result<(), SpillError>) {
    if let Err(error) = result {
        tracing::warn!("space of the pool cannot be kept for commit records: {}", crate::chain(&error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_mem::{Pool, PoolConfig};

    /// Moving space takes as long as there is much of it; the controller has other VMs to look after meanwhile.
    #[test]
    fn nobody_waits_for_whoever_moves_space() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let config = PoolConfig { vm_slots: 1, host_slots: 1, cluster_bytes: 4096 };
        let pool = Pool::create(&dir.path().join("pool"), &config).unwrap();
        let keeper = SpaceKeeper::start(pool.space_reserve().unwrap()).unwrap();
        assert_eq!(keeper.lend(0, || 7), Some(7));
        let reserve = Arc::clone(&keeper.kept.as_ref().unwrap().reserve);
        let turn = reserve.turn();
        reserve.giving.store(true, Ordering::SeqCst);
        // All of these come back at once, while a record is given space.
        assert_eq!(keeper.lend(0, || 7), None);
        assert!(keeper.check(4096, 0).is_ok());
        assert!(matches!(keeper.check(u64::MAX, 0), Err(PoolError::NoSpace { .. })));
        keeper.want(4096);
        keeper.look();
        drop(turn);
        reserve.giving.store(false, Ordering::SeqCst);
        assert_eq!(keeper.lend(0, || 7), Some(7));
    }
}
