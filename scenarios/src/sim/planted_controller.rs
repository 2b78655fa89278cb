//! What the controller's driver does when one of its bugs is planted. Without the switch nothing of it is ever done.

use super::controller::{index_of, pool_epoch};
use super::net::Message;
use super::planted::{PlantedBug, planted};
use super::pool::{Descriptor, Partition};
use super::world::World;
use ft_protocol::Epoch;
use ft_protocol::ids::{Generation, LinkId, VmId};
use ft_protocol::wire::{Access, Grant, Part, ToHost};
use shared_mem::commit_word::CommitWordError;
use shared_mem::control::ControlBlock;
use shared_mem::journal::JournalReader;
use shared_mem::lossy::{LossyCache, LossyMemory};
use shared_mem::numbers;

/// Grants that give more than is due.
pub(crate) fn plant_grants(message: &ToHost, grants: &mut Vec<Grant>) {
    match message {
        ToHost::Promote(_) if planted(PlantedBug::GrantImageWrite) => {
            for grant in grants.iter_mut().filter(|grant| matches!(grant.part, Part::Image(_))) {
                grant.access = Access::ReadWrite;
            }
        }
        ToHost::Standby(order) if planted(PlantedBug::GrantJournalToStandby) => {
            let part = Part::Journal(order.vm, order.generation);
            grants.push(Grant { part, access: Access::ReadWrite });
        }
        _ => {}
    }
}

/// Seals, or does what only looks like it.
pub(crate) fn seal_word(
    journal: &JournalReader<LossyMemory>,
    partition: &Partition,
    cache: &LossyCache,
) -> Result<numbers::Epoch, CommitWordError> {
    if planted(PlantedBug::SealNothing) || planted(PlantedBug::SealLate) {
        return Ok(journal.word()?.epoch);
    }
    let epoch = journal.seal()?;
    if planted(PlantedBug::SealAnswersApplied) {
        let control = ControlBlock::open(partition.control.through(cache));
        return Ok(control.and_then(|control| control.applied()).unwrap_or(epoch));
    }
    Ok(epoch)
}

impl World {
    /// Whether the cluster state at hand is stored only after the new primary was told.
    pub(crate) fn persist_waits(&self) -> bool {
        use ft_protocol::controller::Action;
        let opens = |action: &Action| matches!(action, Action::OpenGeneration { .. });
        planted(PlantedBug::PersistAfterPromotion) && self.controller.actions.iter().any(opens)
    }

    /// The cluster state that should have been stored before.
    pub(crate) fn persist_late(&mut self) {
        if let Some(state) = self.controller.late_state.take() {
            self.persist(&state);
        }
    }

    /// What a planted bug does once a generation is open.
    pub(crate) fn open_wrongly(&mut self, vm: VmId, generation: Generation, base: Epoch) {
        let cache = self.controller.actor.cache.clone();
        let earlier = Generation::new(generation.get() - 1);
        let Some(partition) = self.pool.partition_mut(vm) else { return };
        if planted(PlantedBug::SealLate)
            && let Some(journal) = super::controller::open_journal(partition, earlier, &cache)
        {
            // Too late: what it says is not listened to any more.
            let _final_epoch = journal.seal();
        }
        if planted(PlantedBug::KeepGeneration)
            && let Some(memory) = partition.journal(earlier).map(|journal| journal.memory.clone())
        {
            let number = numbers::Generation::new(generation.get());
            let geometry = partition.geometry;
            let laid_out = shared_mem::journal::format_journal(&memory, number, &geometry, pool_epoch(base));
            if let Some(journal) = partition.journals.iter_mut().find(|journal| journal.generation == generation)
                && laid_out.is_ok()
            {
                journal.memory = memory;
            }
        }
    }

    /// Tells a second host to become primary, too.
    pub(crate) fn promote_another(&mut self, told: LinkId, message: &ToHost, grants: &[Grant]) {
        let told = index_of(told);
        let another = self.hosts.iter().position(|host| host.link.is_some_and(|link| link != told));
        let Some((host, link)) = another.and_then(|host| Some((host, self.hosts[host].link?))) else { return };
        self.check_grants(host, message, grants);
        let descriptors: Vec<Descriptor> = grants.iter().filter_map(|grant| self.pool.open(*grant)).collect();
        self.send(link, false, Message::ToHost(message.clone(), descriptors));
    }
}
