//! Tells damage of a VM's part of the pool, which is nobody's to write but the controller's, from what hosts write wrong.
//!
//! The one costs the VM, the other only its writer's reign; neither costs another VM.

use shared_mem::Epoch;
use shared_mem::apply::ApplyError;
use shared_mem::boot_image::BootImageError;
use shared_mem::console::ConsoleError;
use shared_mem::control::ControlError;
use shared_mem::journal::LoadError;
use shared_mem::state_area::StateError;
use std::error::Error;

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
    /// Nothing was committed, and there is nothing to begin with either.
    #[error("what its guest is booted from is damaged, and nothing was committed")]
    Boot(#[source] BootImageError),
}

/// What is wrong, in one line, if an error says that what only the controller writes is damaged or out of reach.
pub(super) fn damage_of(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if is_damage(cause) {
            return Some(crate::chain(error));
        }
        next = cause.source();
    }
    None
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
