//! Starting a guest of either kind from the bytes that it is kept as.

use super::error::MachineError;
use super::flat::{self, FlatGuestError};
use super::layout::anonymous_memory;
use super::linux::{self, BundleError, LinuxGuest, LinuxGuestError, LinuxMachine};
use super::prepare::Machine;
use std::error::Error;

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

impl BootError {
    /// Whether it is the guest's fault: on no host it would be otherwise.
    #[must_use]
    pub fn is_of_guest(&self) -> bool {
        match self {
            Self::Flat(error) => !matches!(error, FlatGuestError::Memory(_) | FlatGuestError::Write { .. }),
            Self::Linux(error) => !matches!(error, LinuxGuestError::Memory(_) | LinuxGuestError::Write { .. }),
            Self::Machine(_) => false,
        }
    }
}

/// Whether an error says that a guest cannot be booted, on no host.
#[must_use]
pub fn is_unfit_guest(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if cause.downcast_ref().is_some_and(BootError::is_of_guest) || cause.is::<BundleError>() {
            return true;
        }
        next = cause.source();
    }
    false
}

/// Checks that a guest starts in a memory of this size with these arguments. Loading touches little more than the guest's own
/// segments of that memory, which goes at once.
///
/// # Errors
/// What is wrong with the guest, or there is no such memory.
pub fn check_guest(image: &[u8], memory_bytes: u64, arguments: &[String]) -> Result<(), BootError> {
    if LinuxGuest::is_meant(image) {
        let memory = anonymous_memory(memory_bytes).map_err(LinuxGuestError::from)?;
        let guest = LinuxGuest::decode(image).map_err(LinuxGuestError::from)?;
        linux::load(&memory, &guest, std::iter::empty())?;
    } else {
        let memory = anonymous_memory(memory_bytes).map_err(FlatGuestError::from)?;
        flat::load(&memory, image, arguments)?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_told_from_what_a_host_lacks() {
        let none = check_guest(b"no guest at all", 4 << 20, &[]).unwrap_err();
        assert!(is_unfit_guest(&none), "{none}");
        // A bundle that ends behind its magic.
        let bundle = guest_machine(b"FTVMLNUX").unwrap_err();
        assert!(is_unfit_guest(&bundle), "{bundle}");
        let small = check_guest(b"no guest at all", 4096, &[]).unwrap_err();
        assert!(!is_unfit_guest(&small), "{small}");
        assert!(!is_unfit_guest(&MachineError::OtherKind));
    }
}
