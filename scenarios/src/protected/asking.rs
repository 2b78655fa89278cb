//! What is asked of the controller of a run.

use super::{Order, ProtectedRun, RunError};
use crate::cluster::HostName;
use crate::event::{Event, What};
use ft_protocol::VmId;
use ft_protocol::wire::{Answer, ExtentTag, Part, Request, RequestError, Status};
use shared_mem::Extent;
use vmm::client::{ClientError, Patience};
use vmm::clock::monotonic;
use vmm::transport::SendError;

/// Who does what for a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// The host that runs it or was told to.
    pub primary: Option<HostName>,
    /// The host that stands by, ready or not.
    pub secondary: Option<HostName>,
}

impl ProtectedRun {
    /// What the controller says of everything.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&mut self) -> Result<Status, RunError> {
        let answer = match self.client.request(Request::Status, Vec::new()) {
            Err(error) if is_broken(&error) => {
                self.revive()?;
                self.client.request(Request::Status, Vec::new())
            }
            answer => answer,
        };
        match answer? {
            (Answer::Status(status), _) => Ok(status),
            _ => Err(ClientError::WrongAnswer.into()),
        }
    }

    /// The disk's image, once the guest has ended.
    ///
    /// # Errors
    /// When the guest still runs or has no disk, or the controller does not answer.
    pub fn disk_image(&mut self) -> Result<Extent, RunError> {
        let vm = self.vms[0].vm;
        let answer = match self.client.request(Request::ReadDisk(vm), Vec::new()) {
            Err(error) if is_broken(&error) => {
                self.revive()?;
                self.client.request(Request::ReadDisk(vm), Vec::new())
            }
            answer => answer,
        };
        let (_, extents) = answer?;
        disk_of(vm, extents)
    }

    /// The hosts that are primary and secondary for the guest right now.
    ///
    /// # Errors
    /// When the controller does not answer.
    pub fn roles(&mut self) -> Result<Roles, RunError> {
        self.roles_of(0)
    }

    /// The same of one VM among several. While there is no controller, nobody has a role.
    ///
    /// # Errors
    /// When the controller does not answer.
    pub fn roles_of(&mut self, index: usize) -> Result<Roles, RunError> {
        let vm = self.vms[index].vm;
        let status = if self.controller_away_until.is_some() { Status::default() } else { self.status()? };
        let found = status.vms.into_iter().find(|status| status.vm == vm);
        Ok(found.map_or_else(Roles::default, |status| Roles {
            primary: status.primary.as_deref().map(HostName::new),
            secondary: status.secondary.as_deref().map(HostName::new),
        }))
    }

    /// Asks the controller for something that takes its time, and does not wait for it: an event brings the answer, under
    /// this name. If the controller dies before, the next one is asked again; but not for what must not be done twice, and an
    /// event says so.
    ///
    /// # Errors
    /// When the controller cannot be talked to.
    pub fn order(&mut self, request: Request, name: &str) -> Result<(), RunError> {
        self.give(Order { request, name: name.to_owned() })
    }

    fn give(&mut self, order: Order) -> Result<(), RunError> {
        match self.client.notify(order.request.clone(), Vec::new()) {
            Ok(id) => _ = self.orders.insert(id, order),
            // It is gone, and has not heard it.
            Err(error) if is_broken(&error) => self.unheard.push(order),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Another controller has come: it is asked for what the one before has not answered.
    pub(super) fn give_again(&mut self) -> Result<(), RunError> {
        let unheard = std::mem::take(&mut self.unheard);
        for order in std::mem::take(&mut self.orders).into_values() {
            if order.can_be_repeated() {
                self.give(order)?;
            } else {
                self.note(Event { at: monotonic(), what: What::OrderLost { order: order.name } })?;
            }
        }
        unheard.into_iter().try_for_each(|order| self.give(order))
    }

    /// Waits only so long for the controller's answers from now on.
    pub fn set_patience(&mut self, patience: Patience) {
        self.client.set_patience(patience.clone());
        self.cluster.set_patience(patience);
    }

    /// Ends a VM's life.
    ///
    /// # Errors
    /// When the controller refuses.
    pub fn delete(&mut self, index: usize) -> Result<(), RunError> {
        let vm = self.vms[index].vm;
        loop {
            match self.client.request(Request::DeleteVm(vm), Vec::new()) {
                Err(error) if is_broken(&error) => {
                    // It may have done so before it died: then the next one knows no such VM, and no console of it.
                    self.vms[index].deleted = true;
                    self.revive()?;
                }
                Err(ClientError::Refused(RequestError::UnknownVm(_))) if self.vms[index].deleted => return Ok(()),
                answer => {
                    answer?;
                    self.vms[index].deleted = true;
                    return Ok(());
                }
            }
        }
    }
}

/// The disk image that came with an answer.
pub(crate) fn disk_of(vm: VmId, extents: Vec<(ExtentTag, Extent)>) -> Result<Extent, RunError> {
    let found = extents.into_iter().find(|(tag, _)| tag.grant.part == Part::Disk(vm));
    found.map(|(_, image)| image).ok_or(RunError::Client(ClientError::WrongAnswer))
}

/// Whether the controller at the other end is gone.
pub(crate) fn is_broken(error: &ClientError) -> bool {
    matches!(error, ClientError::Receive(_) | ClientError::Send(SendError::Closed))
}
