//! Console output on its way from a record log to the console ring: the controller's own code, over the simulated pool.

use super::controller::protocol_epoch;
use super::world::World;
use ft_protocol::controller::Input;
use ft_protocol::ids::{Generation, VmId};
use shared_mem::console::ConsoleRing;
use shared_mem::control::ControlBlock;
use std::convert::Infallible;
use vmm::controller::LogDrain;

/// A VM's log, as the controller reads it.
#[derive(Default)]
pub(crate) struct Drain {
    pub(crate) log: LogDrain,
    /// What is to be read, up to which place of its readers.
    pub(crate) job: Option<(Generation, Option<u64>)>,
}

impl World {
    /// Moves all there is.
    pub(crate) fn drain_log(&mut self, vm: VmId) {
        let cache = self.controller.actor.cache.clone();
        let drain = &mut self.controller.drains[usize::from(vm.get())];
        let Some((generation, floor)) = drain.job.take() else { return };
        let partition = self.pool.partition(vm).expect("the core drains only logs of VMs that exist");
        let open = partition.journal(generation).is_some_and(|journal| !journal.reserved);
        assert!(open, "the core drains only open generations");
        let Some(log) = partition.log(generation, &cache) else { return };
        let (Ok(control), Ok(console)) = (
            ControlBlock::open(partition.control.through(&cache)),
            ConsoleRing::open(partition.console.through(&cache)),
        ) else {
            return;
        };
        let Ok(applied) = control.applied() else { return };
        let Ok(()) = drain.log.read_log_of(generation, || Ok::<_, Infallible>(partition.logged_to(&cache, applied)));
        let outcome = drain.log.outcome(&log, floor, &console);
        if cache.is_dead() {
            // It dies of it, and answers nobody.
            return;
        }
        let epoch = protocol_epoch(applied);
        self.tell(|| format!("controller moves the log of {vm} {generation} behind {epoch}: {outcome:?}"));
        self.controller_input(Input::LogDrained { vm, generation, outcome });
    }
}
