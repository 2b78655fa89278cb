//! What the stable image's machine state says of an epoch: how far its guest had come in the record log and on the console.

use super::applier::Redo;
use super::damage::Damage;
use crate::machine::MachineState;
use ft_protocol::commit_meta::CommitMeta;
use shared_mem::state_area::StateError;
use shared_mem::{Epoch, LogPosition, Mapping, PoolRead, ReadWrite, RecordLimits, StateArea};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Where in the record log the inputs begin that came after an epoch; `None` when nobody can tell.
pub(super) fn logged_to<M: PoolRead>(state: &StateArea<M>, epoch: Epoch) -> Option<LogPosition> {
    match epoch {
        Epoch::ZERO => Some(LogPosition::ZERO),
        _ => state_of(state, epoch).map(|state| LogPosition::new(state.log_position())),
    }
}

/// The machine state of the applied epoch, which has been made whole if it had to be.
#[derive(Debug)]
pub(super) struct Whole {
    /// `None`: the guest has not begun.
    pub(super) state: Option<MachineState>,
    pub(super) mended: bool,
}

impl Whole {
    /// Where in the record log the inputs begin that came after it.
    pub(super) fn logged_to(&self) -> LogPosition {
        self.state.as_ref().map_or(LogPosition::ZERO, |state| LogPosition::new(state.log_position()))
    }
}

/// Makes the machine state of the applied epoch whole if it is damaged: the record that brought it may still be kept. Only
/// then `writable` is asked for.
///
/// # Errors
/// When it is damaged for good, or out of reach: nobody can go on from that epoch.
pub(super) fn restore<M: PoolRead>(
    state: &StateArea<M>,
    writable: impl FnOnce() -> Result<StateArea<Mapping<ReadWrite>>, Failure>,
    applied: Epoch,
    redo: &Redo,
    limits: &RecordLimits,
) -> Result<Whole, Failure> {
    if applied == Epoch::ZERO {
        return Ok(Whole { state: None, mended: false });
    }
    let source = match read(state, applied) {
        Ok(state) => return Ok(Whole { state: Some(state), mended: false }),
        Err(error) if matches!(error.downcast_ref(), Some(StateError::Access(_))) => return Err(error),
        Err(error) => error,
    };
    let copied = || -> Result<(MachineState, Vec<u8>), Failure> {
        let mut buffer = Vec::new();
        let record = redo.load_epoch(applied, limits, &mut buffer)?;
        let bytes = CommitMeta::decode(record.meta())?.machine_state;
        Ok((MachineState::decode(bytes)?, bytes.to_vec()))
    };
    match copied() {
        Ok((whole, bytes)) => {
            tracing::warn!("the machine state of {applied} is damaged, and written anew: {}", crate::chain(&*source));
            writable()?.write(applied, &bytes)?;
            Ok(Whole { state: Some(whole), mended: true })
        }
        Err(error) => {
            tracing::warn!("the machine state of {applied} cannot be had from a copy: {}", crate::chain(&*error));
            Err(Damage::State { epoch: applied, source }.into())
        }
    }
}

fn read<M: PoolRead>(state: &StateArea<M>, epoch: Epoch) -> Result<MachineState, Failure> {
    Ok(MachineState::decode(&state.read(epoch)?)?)
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
    match read(state, epoch) {
        Ok(state) => Some(state),
        // Without its machine state nobody can go on from the epoch, with a log or without.
        Err(error) => {
            tracing::error!("the machine state of {epoch} cannot be read: {}", crate::chain(&*error));
            None
        }
    }
}
