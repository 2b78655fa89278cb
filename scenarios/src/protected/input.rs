//! Console input for the first VM of a run.

use super::{ProtectedRun, RunError, is_broken};
use crate::console_input::{Fed, InputNews};
use ft_protocol::VmId;
use ft_protocol::wire::{Request, RequestError};
use vmm::client::{Client, ClientError};

/// What a run knows of the input that it feeds.
#[derive(Debug, Default)]
pub(super) struct FedInput {
    is_fed: bool,
    news: Vec<InputNews>,
}

impl FedInput {
    pub(super) fn hear(&mut self, news: InputNews) {
        self.is_fed &= !matches!(news, InputNews::Ended { .. });
        self.news.push(news);
    }
}

/// Asks to feed a VM; gives the news of a refusal. A connection that broke is found out elsewhere.
pub(crate) fn ask_to_feed(client: &mut Client, vm: VmId) -> Result<Option<InputNews>, ClientError> {
    match client.request(Request::OpenInput(vm), Vec::new()) {
        Err(ClientError::Refused(RequestError::NotNow(reason))) => Ok(Some(InputNews::NotNow { reason })),
        Err(ClientError::Refused(error)) => Ok(Some(InputNews::Ended { reason: error.to_string() })),
        Err(error) if !is_broken(&error) => Err(error),
        _ => Ok(None),
    }
}

/// Sends what is not answered. False: the controller takes no more at the moment, or is gone, which is found out elsewhere.
pub(crate) fn send_now(client: &mut Client, request: Request) -> Result<bool, ClientError> {
    match client.notify_now(request) {
        Err(error) if is_broken(&error) => Ok(false),
        sent => sent,
    }
}

impl ProtectedRun {
    /// Another controller has come, which knows of nobody.
    pub(super) fn reopen_input(&mut self) -> Result<(), RunError> {
        if self.input.is_fed {
            self.input.hear(InputNews::Closed);
            self.open_input()?;
        }
        Ok(())
    }
}

impl Fed for ProtectedRun {
    fn input_news(&mut self) -> Vec<InputNews> {
        std::mem::take(&mut self.input.news)
    }

    fn open_input(&mut self) -> Result<(), RunError> {
        self.input.is_fed = true;
        let news = ask_to_feed(&mut self.client, self.vms[0].vm)?;
        news.into_iter().for_each(|news| self.input.hear(news));
        Ok(())
    }

    fn send_input(&mut self, position: u64, bytes: Vec<u8>) -> Result<bool, RunError> {
        let vm = self.vms[0].vm;
        Ok(send_now(&mut self.client, Request::Input { vm, position, bytes })?)
    }

    fn close_input(&mut self) -> Result<(), RunError> {
        self.input.is_fed = false;
        // Should it not be heard, the end of the connection is.
        let vm = self.vms[0].vm;
        send_now(&mut self.client, Request::CloseInput(vm))?;
        Ok(())
    }
}
