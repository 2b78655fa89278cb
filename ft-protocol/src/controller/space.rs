//! VMs that stand still because the pool has no space: told to watchers, and shown for as long as it lasts.

use super::{Controller, Generation, Turn, VmId};
use crate::activity::Doing;
use crate::controller::vm::Vm;
use crate::ids::Epoch;
use crate::time::Time;
use crate::timeline::{Happening, Shortage, Wanted};

/// A shortage of the VM's reigning generation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    generation: Generation,
    shortage: Shortage,
    since: Time,
}

impl Controller {
    /// The VM waits for space. What it said before, it says again to each new connection.
    pub(super) fn out_of_space(&mut self, turn: &mut Turn<'_>, vm: VmId, generation: Generation, shortage: Shortage) {
        let Some(entry) = self.vms.get_mut(&vm).filter(|entry| entry.generation == generation) else { return };
        let said = entry.waiting.filter(|said| said.generation == generation);
        let news = said.is_none_or(|said| said.shortage.wanted != shortage.wanted);
        let since = said.map_or(turn.now, |said| said.since);
        entry.waiting = Some(Waiting { generation, shortage, since });
        if news {
            self.tell(turn, Happening::PoolFull { vm, generation, shortage });
        }
    }

    /// What it waited for is there.
    pub(super) fn space_again(&mut self, turn: &mut Turn<'_>, vm: VmId, generation: Generation) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let Some(waiting) = entry.waiting.take_if(|waiting| waiting.generation == generation) else { return };
        self.tell(turn, Happening::SpaceAgain { vm, generation, waited: turn.now.since(waiting.since) });
    }

    /// An epoch is committed: no record up to it waits any more.
    pub(super) fn record_written(&mut self, turn: &mut Turn<'_>, vm: VmId, generation: Generation, epoch: Epoch) {
        let waits_for = |vm: &Vm| match vm.waiting?.shortage.wanted {
            Wanted::Record(epoch) => Some(epoch),
            Wanted::Journal => None,
        };
        if self.vms.get(&vm).and_then(waits_for).is_some_and(|wanted| wanted <= epoch) {
            self.space_again(turn, vm, generation);
        }
    }

    /// Whether a generation could not be opened for want of space, which was told.
    pub(super) fn lacks_space(&self, vm: VmId, generation: Generation) -> bool {
        let waiting = self.vms.get(&vm).and_then(|entry| entry.waiting);
        waiting.is_some_and(|waiting| waiting.generation == generation)
    }
}

impl Vm {
    /// What the guest waits for, in one line.
    pub(super) fn waits(&self) -> Option<String> {
        if let Some(waiting) = self.waiting.filter(|waiting| waiting.generation == self.generation) {
            return Some(waiting.shortage.to_string());
        }
        if self.console_full {
            return Some(match self.readers.len() {
                0 => "its console is full, and nobody reads it: `ftvm console` does".to_owned(),
                _ => "its console is full: its reader is slow".to_owned(),
            });
        }
        let blocked = self.doing() == Some(Doing::Blocked);
        blocked.then(|| format!("its journal is full until epoch {} is applied", self.applied.next().get()))
    }
}
