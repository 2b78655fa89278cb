//! Tells damage of a VM's part of the pool, which is nobody's to write but the controller's, from what hosts write wrong.
//!
//! The one costs the VM, or, where a guest runs and only others lack a part, its protection; the other only its writer's
//! reign. Neither costs another VM.

use shared_mem::apply::ApplyError;
use shared_mem::boot_image::BootImageError;
use shared_mem::console::ConsoleError;
use shared_mem::control::ControlError;
use shared_mem::journal::LoadError;
use shared_mem::state_area::StateError;
use shared_mem::{Epoch, PoolError};
use std::error::Error;
use std::io;

/// A VM's part of the pool cannot be gone on from.
#[derive(Debug, thiserror::Error)]
pub(super) enum Damage {
    /// Image and disk hold a part of a record.
    #[error("a controller died while it applied {epoch}, and no whole record of it is left")]
    Torn {
        /// The record's epoch.
        epoch: Epoch,
        /// What is wrong with the record in the journal.
        source: LoadError,
    },
    /// The image is there, and what the guest's processor and devices were like is not.
    #[error("the machine state of {epoch}, from which its guest would go on, is damaged, and no copy of it is left")]
    State {
        /// The applied epoch.
        epoch: Epoch,
        /// What is wrong with it.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A file of it is not there any more, or shorter.
    #[error("a part of it is gone")]
    Gone(#[source] Box<dyn Error + Send + Sync>),
    /// Nothing was committed, and there is nothing to begin with either.
    #[error("what its guest is booted from is damaged, and nothing was committed")]
    Boot(#[source] BootImageError),
}

/// What is wrong, in one line, if an error says that what only the controller writes is damaged or out of reach.
pub(super) fn damage_of(error: &(dyn Error + 'static)) -> Option<String> {
    has_cause(error, is_damage).then(|| crate::chain(error))
}

fn has_cause(error: &(dyn Error + 'static), is_it: impl Fn(&(dyn Error + 'static)) -> bool) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if is_it(cause) {
            return true;
        }
        next = cause.source();
    }
    false
}

/// Whether an error says that a file of the pool is not there any more, or has another length.
pub(super) fn is_gone(error: &(dyn Error + 'static)) -> bool {
    let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    has_cause(error, |cause| {
        matches!(cause.downcast_ref(), Some(PoolError::FileLength { .. })) || cause.downcast_ref().is_some_and(missing)
    })
}

/// What opens a part that only the controller writes, so that its loss counts as damage.
pub(super) fn opened<T>(part: Result<T, PoolError>) -> Result<T, Box<dyn Error + Send + Sync>> {
    part.map_err(|error| if is_gone(&error) { Damage::Gone(error.into()).into() } else { error.into() })
}

fn is_damage(cause: &(dyn Error + 'static)) -> bool {
    // Bytes that belong nowhere, or do not fit, come from a host.
    let console = |error: &ConsoleError| {
        matches!(
            error,
            ConsoleError::Header(_) | ConsoleError::RingSize { .. } | ConsoleError::Word(_) | ConsoleError::Access(_)
        )
    };
    cause.is::<Damage>()
        || cause.is::<ControlError>()
        || cause.downcast_ref().is_some_and(console)
        || cause.downcast_ref().is_some_and(|error| matches!(error, StateError::Access(_)))
        || cause.downcast_ref().is_some_and(|error| matches!(error, ApplyError::Keep(_) | ApplyError::Image(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::DrainError;
    use shared_mem::guarded_word::WordError;
    use shared_mem::{ConsolePosition, LogPosition};

    #[test]
    fn what_hosts_write_wrong_is_no_damage() {
        let word = || ConsoleError::Word(WordError { raw: 0 });
        let (start, tail) = (ConsolePosition::new(9), ConsolePosition::new(4));
        let gap = || ConsoleError::Gap { start, tail };
        let position = LogPosition::ZERO;
        for (error, damage) in [
            (Box::new(ControlError::Word(WordError { raw: 0 })) as Box<dyn Error>, true),
            (Box::new(ApplyError::Control(ControlError::Word(WordError { raw: 0 }))), true),
            (Box::new(ApplyError::Console(word())), true),
            (Box::new(DrainError::Output { position, source: word() }), true),
            (Box::new(DrainError::Output { position, source: gap() }), false),
            (Box::new(ApplyError::OutOfOrder { epoch: Epoch::new(3), applied: Epoch::ZERO }), false),
            (Box::new(ApplyError::Console(ConsoleError::TooMany { found: 2, ring_bytes: 1 })), false),
        ] {
            assert_eq!(damage_of(&*error).is_some(), damage, "{error}");
        }
    }
}
