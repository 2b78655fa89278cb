//! The checkers that look at the pool after every event that stored anything in it.

use super::check::index;
use super::guest::Registers;
use super::inject::WORD_AT;
use super::violation::Violation;
use super::weather::{CONSOLE_RING_BYTES, PAGE_SIZE};
use super::world::World;
use ft_protocol::ids::{Epoch, VmId};
use shared_mem::console::ConsoleRing;
use shared_mem::control::ControlBlock;
use shared_mem::mem::PoolRead;
use shared_mem::numbers::{self, ConsolePosition, Offset};
use shared_mem::state_area::StateArea;
use std::sync::atomic::Ordering;

impl World {
    /// Looks at the pool, if anything was stored in it since the last look.
    pub(crate) fn check(&mut self) {
        let hosts: u64 = self.hosts.iter().map(|host| host.actor.cache.events() + u64::from(host.actor.life)).sum();
        let controller = &self.controller.actor;
        let accesses = hosts + controller.cache.events() + (u64::from(controller.life) << 32);
        if accesses == self.checker.accesses || self.violation.is_some() {
            return;
        }
        self.checker.accesses = accesses;
        for vm in self.vms() {
            self.check_reigns(vm);
            self.check_applied(vm);
            self.check_ring(vm);
        }
    }

    /// At most one generation is open (I2).
    fn check_reigns(&mut self, vm: VmId) {
        let Some(partition) = self.pool.partition(vm) else { return };
        // Most events leave all words as they are. What else lies in a journal can only end its reign, never begin one.
        let words = partition.journals.iter().filter(|journal| !journal.reserved).map(|journal| {
            let memory = journal.memory.through(&self.checker.auditor);
            (journal.generation, memory.load_u64(WORD_AT, Ordering::Relaxed).ok())
        });
        let seen = &mut self.checker.vms[usize::from(vm.get())].words;
        if words.clone().eq(seen.iter().copied()) {
            return;
        }
        seen.clear();
        seen.extend(words);
        // Under a damaged word nobody can publish: as good as sealed.
        let mut count = 0;
        for journal in partition.journals.iter().filter(|journal| !journal.reserved) {
            let memory = journal.memory.through(&self.checker.auditor);
            let number = numbers::Generation::new(journal.generation.get());
            let reader = shared_mem::journal::JournalReader::new(memory, number, partition.geometry);
            let sealed = reader.ok().and_then(|reader| reader.peek_word().ok()).is_none_or(|word| word.sealed);
            count += usize::from(!sealed);
        }
        if count > 1 {
            self.violate(Violation::ManyReigns { vm, count });
        }
    }

    /// The stable image and the machine state are those of the true history at the applied epoch (I5).
    fn check_applied(&mut self, vm: VmId) {
        let auditor = &self.checker.auditor;
        let Some(partition) = self.pool.partition(vm) else { return };
        let changes = Some(partition.control.changes());
        if std::mem::replace(&mut self.checker.vms[usize::from(vm.get())].control_changes, changes) == changes {
            return;
        }
        let Ok(control) = ControlBlock::open(partition.control.through(auditor)) else { return };
        let Ok(applied) = control.applied() else { return };
        let epoch = Epoch::new(applied.get());
        let (image, state) = (partition.image.through(auditor), partition.state.through(auditor));
        let opened = partition.journals.iter().rfind(|journal| !journal.reserved);
        let generation = opened.map(|journal| journal.generation);
        let facts = &mut self.checker.vms[usize::from(vm.get())];
        if applied.get() == facts.applied {
            return;
        }
        let committed = facts.last_committed();
        let forward = applied.get() == facts.applied + 1;
        let covered = epoch <= committed || generation.is_some_and(|generation| self.commit(vm, generation, epoch));
        let facts = &mut self.checker.vms[usize::from(vm.get())];
        if !forward || !covered {
            return self.violate(Violation::WrongRecovery { vm, found: epoch, committed });
        }
        facts.applied = applied.get();
        facts.damaged.retain(|damaged| *damaged > epoch);
        let expected = facts.committed.get(index(epoch.get())).copied();
        let found = StateArea::new(state).read(applied).ok().and_then(|bytes| Registers::decode(&bytes));
        let truth = &self.truths[usize::from(vm.get())];
        let true_registers = expected.and_then(|registers| truth.at(registers.ticks()));
        if found.is_none() || found != expected || found.map(Registers::at_exit) != true_registers {
            return self.violate(Violation::WrongState { vm, epoch, found, expected: true_registers });
        }
        facts.oracle.advance_to(found.map_or(0, |registers| registers.ticks()), &truth.history);
        let mut content = [0; 4096];
        for page in 0..truth.program.pages {
            let read = image.read(Offset::new(page * PAGE_SIZE), &mut content);
            if read.is_err() || facts.oracle.page(page) != content {
                return self.violate(Violation::WrongPage { vm, epoch, page });
            }
        }
    }

    /// What is in the console ring is out: it must be true (I4), and the pool must be able to rebuild it (I1).
    fn check_ring(&mut self, vm: VmId) {
        let Some(partition) = self.pool.partition(vm) else { return };
        let changes = Some(partition.console.changes());
        if std::mem::replace(&mut self.checker.vms[usize::from(vm.get())].console_changes, changes) == changes {
            return;
        }
        let Ok(ring) = ConsoleRing::open(partition.console.through(&self.checker.auditor)) else { return };
        let Ok(tail) = ring.tail() else { return };
        let shown = self.checker.vms[usize::from(vm.get())].shown;
        let tail = tail.get();
        if tail == shown {
            return;
        }
        let mut bytes = [0; 4096];
        const { assert!(CONSOLE_RING_BYTES <= 4096) };
        let wanted = index(tail.saturating_sub(shown)).min(bytes.len());
        if tail < shown || ring.read(ConsolePosition::new(shown), &mut bytes[..wanted]) != Ok(wanted) {
            return self.violate(Violation::WrongConsole { vm, position: shown });
        }
        self.checker.facts(vm).shown = tail;
        self.check_console(vm, shown, &bytes[..wanted]);
        self.check_rebuildable(vm, |_, rebuildable| {
            (rebuildable < tail).then_some(Violation::LeakedConsole { vm, shown: tail, rebuildable })
        });
    }
}
