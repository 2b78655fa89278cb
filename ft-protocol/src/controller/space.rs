//! VMs that stand still because the pool has no space: told to watchers, and shown for as long as it lasts.

use super::{Action, Controller, Generation, Turn, VmId};
use crate::activity::Doing;
use crate::controller::vm::{Phase, Vm};
use crate::ids::Epoch;
use crate::time::{Span, Time};
use crate::timeline::{Happening, Shortage, Wanted};

/// How long a record waits for space before that is told: mostly it is given what the pool keeps for it at once.
pub(super) const PATIENCE: Span = Span::from_ms(500);

/// How often space is asked for that was not to be had.
pub(super) const ASKED_EVERY: Span = Span::from_ms(500);

/// A shortage of the VM's reigning generation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    generation: Generation,
    shortage: Shortage,
    since: Time,
    /// Watchers know.
    told: bool,
    /// When space was asked for last.
    asked: Time,
}

impl Controller {
    /// The VM waits for space. What it said before, it says again to each new connection.
    pub(super) fn out_of_space(&mut self, turn: &mut Turn<'_>, vm: VmId, generation: Generation, shortage: Shortage) {
        let Some(entry) = self.vms.get_mut(&vm).filter(|entry| entry.generation == generation) else { return };
        let said = entry.waiting.filter(|said| said.generation == generation);
        let same = said.filter(|said| said.shortage.wanted == shortage.wanted);
        let since = said.map_or(turn.now, |said| said.since);
        let told = same.is_some_and(|said| said.told);
        entry.waiting = Some(Waiting { generation, shortage, since, told, asked: turn.now });
        match shortage.wanted {
            Wanted::Record(epoch) => {
                turn.actions.push(Action::GiveSpace { vm, generation, epoch, needed: shortage.needed });
            }
            Wanted::Journal => self.tell_waiting(turn, vm),
        }
    }

    /// Asks once more for space that was not to be had, and tells who waits for long.
    pub(super) fn look_for_space(&mut self, turn: &mut Turn<'_>) {
        let mut long = Vec::new();
        for (&vm, entry) in &mut self.vms {
            let generation = entry.generation;
            let Some(waiting) = entry.waiting.as_mut().filter(|waiting| waiting.generation == generation) else {
                continue;
            };
            if turn.now.since(waiting.since) >= PATIENCE {
                long.push(vm);
            }
            // What is given to a generation that is being ended would be lost to those that get on.
            if let Wanted::Record(epoch) = waiting.shortage.wanted
                && matches!(entry.phase, Phase::Running { .. })
                && turn.now.since(waiting.asked) >= ASKED_EVERY
            {
                waiting.asked = turn.now;
                let needed = waiting.shortage.needed;
                turn.actions.push(Action::GiveSpace { vm, generation, epoch, needed });
            }
        }
        long.into_iter().for_each(|vm| self.tell_waiting(turn, vm));
    }

    fn tell_waiting(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        let waiting = self.vms.get_mut(&vm).and_then(|entry| entry.waiting.as_mut());
        let Some(waiting) = waiting.filter(|waiting| !waiting.told) else { return };
        waiting.told = true;
        let Waiting { generation, shortage, .. } = *waiting;
        self.tell(turn, Happening::PoolFull { vm, generation, shortage });
    }

    /// What it waited for is there.
    pub(super) fn space_again(&mut self, turn: &mut Turn<'_>, vm: VmId, generation: Generation) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        let Some(waiting) = entry.waiting.take_if(|waiting| waiting.generation == generation) else { return };
        if waiting.told {
            self.tell(turn, Happening::SpaceAgain { vm, generation, waited: turn.now.since(waiting.since) });
        }
    }

    /// The reign is over: its records are applied, and who wrote them writes no more.
    pub(super) fn release_space(&mut self, turn: &mut Turn<'_>, vm: VmId) {
        let Some(entry) = self.vms.get_mut(&vm) else { return };
        entry.waiting = None;
        turn.actions.push(Action::ReleaseSpace { vm });
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
        let next = self.applied.next();
        let slots_taken = self.committed.get().saturating_sub(self.applied.get()) >= u64::from(self.spec.journal.slots);
        let blocked = self.doing() == Some(Doing::Blocked);
        // Older hosts do not say what their primaries do.
        let held = blocked || self.doing().is_none() && matches!(self.phase, Phase::Running { .. });
        if held && slots_taken && self.following.as_ref().is_some_and(|following| following.reached < next) {
            return Some(format!(
                "its journal is full until its secondary, which follows, has come to epoch {}",
                next.get()
            ));
        }
        blocked.then(|| format!("its journal is full until epoch {} is applied", next.get()))
    }
}
