//! Tells the host how far the guest's console input is: the vCPU's thread knows what the guest has taken, the committer what
//! of that is safe.

use super::vm_thread::{Surroundings, VmEvent};
use ft_protocol::console_input::{InputAt, Intake};
use ft_protocol::{Epoch, Generation};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) struct ConsoleInput<'a> {
    around: &'a Surroundings,
    generation: Generation,
    intake: Mutex<Intake>,
}

impl<'a> ConsoleInput<'a> {
    /// Of a guest that had taken so much in what a successor would begin with.
    pub(super) fn new(around: &'a Surroundings, generation: Generation, taken: u64) -> Self {
        Self { around, generation, intake: Mutex::new(Intake::new(taken)) }
    }

    fn intake(&self) -> MutexGuard<'_, Intake> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Said before the next change: what comes later says more.
    fn say(&self, word: impl FnOnce(&mut Intake) -> Option<InputAt>) {
        let mut intake = self.intake();
        if let Some(at) = word(&mut intake) {
            self.around.say(VmEvent::InputAt { generation: self.generation, at });
        }
    }

    pub(super) fn open(&self, have: u64) {
        self.say(|intake| Some(intake.open(have)));
    }

    pub(super) fn came(&self) {
        self.say(Intake::came);
    }

    pub(super) fn took(&self, taken: u64, logged: bool) {
        self.say(|intake| intake.took(taken, logged));
    }

    pub(super) fn written(&self, epoch: Epoch, taken: u64) {
        self.intake().written(epoch, taken);
    }

    pub(super) fn published(&self, epoch: Epoch) {
        self.say(|intake| intake.published(epoch));
    }
}
