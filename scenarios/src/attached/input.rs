//! Console input for a VM of a cluster that somebody else runs.

use super::AttachedVm;
use crate::console_input::{Fed, InputNews};
use crate::protected::RunError;
use ft_protocol::wire::Request;

impl AttachedVm {
    /// Asks to feed the VM, if it is to be fed. Without a controller the next one is asked.
    pub(super) fn reopen_input(&mut self) -> Result<(), RunError> {
        if self.is_fed {
            match self.link.ask_to_feed(self.vm)? {
                Some(InputNews::Ended { reason }) => self.input_ended(reason),
                news => self.input_news.extend(news),
            }
        }
        Ok(())
    }

    pub(super) fn input_ended(&mut self, reason: String) {
        self.is_fed = false;
        self.input_news.push(InputNews::Ended { reason });
    }
}

impl Fed for AttachedVm {
    fn input_news(&mut self) -> Vec<InputNews> {
        std::mem::take(&mut self.input_news)
    }

    fn open_input(&mut self) -> Result<(), RunError> {
        self.is_fed = true;
        self.reopen_input()
    }

    fn send_input(&mut self, position: u64, bytes: Vec<u8>) -> Result<bool, RunError> {
        self.link.tell_now(Request::Input { vm: self.vm, position, bytes })
    }

    fn close_input(&mut self) -> Result<(), RunError> {
        self.is_fed = false;
        // Should it not be heard, the end of the connection is.
        self.link.tell_now(Request::CloseInput(self.vm))?;
        Ok(())
    }
}
