//! Console input for a VM of a cluster that somebody else runs.

use super::AttachedVm;
use crate::console_input::InputNews;
use crate::protected::RunError;

impl AttachedVm {
    /// Asks to feed the VM, if it is to be fed. Without a controller the next one is asked.
    pub(super) fn reopen_input(&mut self) -> Result<(), RunError> {
        if self.is_fed
            && let Some(InputNews::Ended { reason }) = self.link.ask_to_feed(self.vm)?
        {
            self.input_ended(reason);
        }
        Ok(())
    }

    pub(super) fn input_ended(&mut self, reason: String) {
        self.is_fed = false;
        self.input_news.push(InputNews::Ended { reason });
    }
}
