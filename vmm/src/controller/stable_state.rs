//! What the stable image's machine state says of an epoch: how far its guest had come in the record log and on the console.

use crate::machine::MachineState;
use shared_mem::{Epoch, LogPosition, PoolRead, StateArea};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Where in the record log the inputs begin that came after an epoch.
pub(super) fn logged_to<M: PoolRead>(state: &StateArea<M>, epoch: Epoch) -> LogPosition {
    state_of(state, epoch).map_or(LogPosition::ZERO, |state| LogPosition::new(state.log_position()))
}

/// How many console bytes the guest of an epoch had written.
pub(super) fn console_of<M: PoolRead>(state: &StateArea<M>, epoch: Epoch) -> u64 {
    known_console(state, epoch).unwrap_or(0)
}

/// The same; `None` when nobody can tell.
pub(super) fn known_console<M: PoolRead>(state: &StateArea<M>, epoch: Epoch) -> Option<u64> {
    match epoch {
        Epoch::ZERO => Some(0),
        _ => state_of(state, epoch).map(|state| state.console_position()),
    }
}

fn state_of<M: PoolRead>(state: &StateArea<M>, epoch: Epoch) -> Option<MachineState> {
    if epoch == Epoch::ZERO {
        return None;
    }
    let read = state.read(epoch).map_err(Failure::from);
    match read.and_then(|bytes| Ok(MachineState::decode(&bytes)?)) {
        Ok(state) => Some(state),
        // Without its machine state nobody can go on from the epoch, with a log or without.
        Err(error) => {
            tracing::error!("the machine state of {epoch} cannot be read: {}", crate::chain(&*error));
            None
        }
    }
}
