//! What the stable image's machine state says of an epoch: how far its guest had come in the record log and on the console.

use super::applier::Redo;
use super::damage::Damage;
use crate::machine::MachineState;
use ft_protocol::commit_meta::CommitMeta;
use shared_mem::{Epoch, LogPosition, Mapping, PoolRead, ReadWrite, RecordLimits, StateArea};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Where in the record log the inputs begin that came after an epoch; `None` when nobody can tell.
pub(super) fn logged_to<M: PoolRead>(state: &StateArea<M>, epoch: Epoch) -> Option<LogPosition> {
    match epoch {
        Epoch::ZERO => Some(LogPosition::ZERO),
        _ => state_of(state, epoch).map(|state| LogPosition::new(state.log_position())),
    }
}

/// Makes the machine state of the applied epoch whole if it is damaged: the record that brought it may still be kept. Says
/// whether it was.
///
/// # Errors
/// When it is damaged for good: nobody can go on from that epoch.
pub(super) fn restore(
    state: &StateArea<Mapping<ReadWrite>>,
    applied: Epoch,
    redo: &Redo,
    limits: &RecordLimits,
) -> Result<bool, Failure> {
    if applied == Epoch::ZERO {
        return Ok(false);
    }
    let Err(source) = read(state, applied) else { return Ok(false) };
    let mut buffer = Vec::new();
    let kept = redo.load_epoch(applied, limits, &mut buffer).ok();
    let kept = kept.as_ref().and_then(|record| CommitMeta::decode(record.meta()).ok());
    let whole = |meta: &CommitMeta<'_>| MachineState::decode(meta.machine_state).is_ok();
    match kept.filter(whole) {
        Some(meta) => {
            tracing::warn!("the machine state of {applied} is damaged, and written anew: {}", crate::chain(&*source));
            state.write(applied, meta.machine_state)?;
            Ok(true)
        }
        None => Err(Damage::State { epoch: applied, source }.into()),
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
