//! The controller's work on the pool beside the application of records: storing the cluster state, opening and sealing
//! generations, and reading what an earlier life left.

use super::controller::{made_result, open_journal, pool_epoch, protocol_epoch};
use super::fault::Point;
use super::planted::{PlantedBug, planted};
use super::planted_controller::seal_word;
use super::pool::{Pool, cluster_store};
use super::queue::Event;
use super::violation::Violation;
use super::weather::PAGE_SIZE;
use super::world::World;
use ft_protocol::Epoch;
use ft_protocol::controller::{ClusterState, Controller, Input, Left, LeftWord, Recovered, Word};
use ft_protocol::ids::{Generation, VmId};
use ft_protocol::timeline::{Shortage, Wanted};
use shared_mem::ApplyLimit;
use shared_mem::commit_word::CommitWordError;
use shared_mem::console::ConsoleRing;
use shared_mem::control::ControlBlock;
use shared_mem::lossy::LossyCache;
use shared_mem::numbers;

impl World {
    pub(crate) fn persist(&mut self, state: &ClusterState) {
        let store = cluster_store(self.pool.cluster.through(&self.controller.actor.cache));
        if store.store(&state.encode()).is_ok() {
            self.reached(Point::StatePersisted);
        }
    }

    pub(crate) fn open_generation(&mut self, vm: VmId, generation: Generation, base: Epoch) {
        let full = self.pool.full;
        let cache = self.controller.actor.cache.clone();
        let Some(partition) = self.pool.partition_mut(vm) else { return };
        let space = partition.journal(generation).is_some() || !full;
        let made = space && partition.open_journal(&cache, generation, pool_epoch(base)).is_ok();
        if made {
            let control = ControlBlock::open(partition.control.through(&cache));
            let number = numbers::Generation::new(generation.get());
            if control.and_then(|control| control.set_generation(number)).is_err() {
                return;
            }
            self.check_opened(vm, base);
            self.reached(Point::GenerationOpened);
            self.open_wrongly(vm, generation, base);
        }
        let shortage = Shortage { wanted: Wanted::Journal, needed: PAGE_SIZE, available: 0 };
        let no_space = (!space).then_some(Input::NoSpace { vm, generation, shortage });
        let opened = Input::GenerationOpened { vm, generation, result: made_result(made) };
        self.controller_answers(no_space.into_iter().chain([opened]).collect());
    }

    pub(crate) fn seal(&mut self, vm: VmId, generation: Generation) {
        let cache = self.controller.actor.cache.clone();
        let Some(partition) = self.pool.partition(vm) else { return };
        let Ok(control) = ControlBlock::open(partition.control.through(&cache)) else { return };
        let (Ok(applied), Some(redo)) = (control.applied(), partition.redo(&cache)) else { return };
        let journal = open_journal(partition, generation, &cache);
        let begun = partition.journal(generation).is_some_and(|journal| !journal.reserved);
        if let Some(log) = partition.log(generation, &cache).filter(|_| !planted(PlantedBug::LogNotSealed)) {
            // Where it ends, its copy will say.
            let _end = log.seal();
        }
        let closed = journal.as_ref().map(|journal| (journal, seal_word(journal, partition, &cache)));
        let number = numbers::Generation::new(generation.get());
        let limit = &self.controller.limits[usize::from(vm.get())];
        let end = limit.seal(number, |begun| redo.end_of(number, closed, (applied, begun), &partition.limits));
        if let Ok(epoch) = end {
            let final_epoch = protocol_epoch(epoch);
            self.check_sealed(vm, generation, final_epoch, begun);
            self.reached(Point::WordSealed);
            self.controller_answer(Input::Sealed { vm, generation, final_epoch });
        }
    }

    /// A new life of the controller, over what the pool holds.
    pub(crate) fn recover_controller(&mut self) {
        let cache = self.controller.actor.cache.clone();
        self.controller.inbox.clear();
        self.controller.actions.clear();
        self.controller.watched.clear();
        self.controller.jobs.fill_with(|| None);
        self.controller.drains.fill_with(super::drain::Drain::default);
        self.controller.late_state = None;
        self.controller.told_dead.clear();
        self.controller.limits.fill_with(ApplyLimit::default);
        let state = match cluster_store(self.pool.cluster.through(&cache)).load() {
            Ok(Some(bytes)) => ClusterState::decode(&bytes).map_err(|error| error.to_string()),
            Ok(None) => Ok(ClusterState::default()),
            Err(error) => Err(error.to_string()),
        };
        let state = match state {
            Ok(state) => state,
            Err(why) => return self.violate(Violation::ControllerLost { why }),
        };
        for vm in self.vms() {
            // An earlier life died before it gave the part back.
            let forgotten = state.vms.iter().all(|record| record.vm != vm);
            if forgotten && self.pool.partition(vm).is_some() {
                self.bury_vm(vm);
            }
        }
        let recovered = match recover_partitions(&mut self.pool, &state, &cache) {
            Ok(recovered) => recovered,
            Err(why) => return self.violate(Violation::ControllerLost { why }),
        };
        let now = self.controller.actor.clock(self.now_ns);
        let config = self.controller.config;
        let mut actions = Vec::new();
        self.controller.core = Controller::recover(config, state, &recovered, now, &mut actions);
        self.controller.actions.extend(actions);
        self.reached(Point::ControllerRecovered);
        self.schedule_now(Event::ControllerTick);
        self.wake_controller();
    }
}

/// Reads what the pool says of each VM; parts of VMs that are not in the cluster state were never finished and go.
fn recover_partitions(pool: &mut Pool, state: &ClusterState, cache: &LossyCache) -> Result<Vec<Recovered>, String> {
    for (index, partition) in pool.partitions.iter_mut().enumerate() {
        if !state.vms.iter().any(|record| usize::from(record.vm.get()) == index) {
            *partition = None;
        }
    }
    let mut recovered = Vec::new();
    for record in &state.vms {
        let partition = pool.partition(record.vm).ok_or_else(|| format!("{} has no partition", record.vm))?;
        let control = ControlBlock::open(partition.control.through(cache)).map_err(|error| error.to_string())?;
        control.mend().map_err(|error| error.to_string())?;
        let opened = match control.generation().map_err(|error| error.to_string())?.get() {
            _ if planted(PlantedBug::ForgetJournal) => Generation::new(0),
            opened => Generation::new(opened),
        };
        let journal = open_journal(partition, record.generation, cache);
        let word = match journal.map(|journal| journal.word()) {
            None => LeftWord::Missing,
            Some(Ok(word)) => LeftWord::Whole(Word { epoch: protocol_epoch(word.epoch), sealed: word.sealed }),
            Some(Err(CommitWordError::Word(_))) => LeftWord::Damaged,
            Some(Err(error)) => return Err(error.to_string()),
        };
        let applied = control.applied().map_err(|error| error.to_string())?;
        let number = numbers::Generation::new(record.generation.get());
        let redo = partition.redo(cache).ok_or("the copies of records are out of reach")?;
        let reached = redo.reached(number, applied, &partition.limits);
        let reached = reached.map_err(|error| error.to_string())?;
        if !planted(PlantedBug::ForgetFreed) {
            control.set_freed(applied).map_err(|error| error.to_string())?;
        }
        let console = ConsoleRing::open(partition.console.through(cache)).map_err(|error| error.to_string())?;
        let left = Left {
            opened,
            word,
            applied: protocol_epoch(applied),
            reached: protocol_epoch(reached),
            console_end: console.tail().map_err(|error| error.to_string())?.get(),
            console_ring_bytes: console.ring_bytes(),
        };
        recovered.push(Recovered::of(record, left));
    }
    Ok(recovered)
}
