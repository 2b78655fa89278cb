//! Starting a guest of either kind from the bytes that it is kept as.

use super::error::MachineError;
use super::flat::{self, FlatGuestError};
use super::linux::{self, BundleError, LinuxGuest, LinuxGuestError, LinuxMachine};
use super::prepare::Machine;

/// Why a guest cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// It is no flat guest.
    #[error(transparent)]
    Flat(#[from] FlatGuestError),
    /// It is no Linux guest.
    #[error(transparent)]
    Linux(#[from] LinuxGuestError),
    /// KVM refuses.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// What the machine is like of the Linux guest that starts with these bytes; `None`: it is a flat guest.
///
/// # Errors
/// A Linux guest that is damaged.
pub fn guest_machine(image_start: &[u8]) -> Result<Option<LinuxMachine>, BundleError> {
    if LinuxGuest::is_meant(image_start) { LinuxGuest::machine_of(image_start).map(Some) } else { Ok(None) }
}

impl Machine {
    /// Loads a guest into the machine's memory, which must be all zero, and sets its first vCPU up to start it. The arguments
    /// are for flat guests.
    ///
    /// # Errors
    /// What is wrong with the guest, or KVM refuses.
    pub fn boot(&mut self, image: &[u8], arguments: &[String]) -> Result<(), BootError> {
        if LinuxGuest::is_meant(image) {
            let guest = LinuxGuest::decode(image).map_err(LinuxGuestError::from)?;
            let entry = linux::load(&self.memory, &guest, self.mmio.ids())?;
            self.enter_linux(&entry)?;
        } else {
            let entry = flat::load(&self.memory, image, arguments)?;
            self.enter(&entry)?;
        }
        Ok(())
    }
}
