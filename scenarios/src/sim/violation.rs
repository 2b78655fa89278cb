//! What a checker can find wrong, by the invariant that it breaks.

use super::guest::Registers;
use ft_protocol::ids::{Epoch, Generation, VmId};
use ft_protocol::wire::{Grant, TakeoverReason};

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum Violation {
    #[error("I1: {vm} {generation} released a packet of step {step}, the pool alone rebuilds step {rebuildable}")]
    LeakedPacket { vm: VmId, generation: Generation, step: u64, rebuildable: u64 },
    #[error("I1: the console of {vm} shows {shown} bytes, the pool alone rebuilds {rebuildable}")]
    LeakedConsole { vm: VmId, shown: u64, rebuildable: u64 },
    #[error("I1: {vm} released packet {number}, which the true history does not have like that")]
    ForeignPacket { vm: VmId, number: u64 },
    #[error("I4: {vm} {generation} released packet {number} after packet {before}")]
    DisorderedPackets { vm: VmId, generation: Generation, before: u64, number: u64 },
    #[error("I2: {vm} has {count} unsealed generations")]
    ManyReigns { vm: VmId, count: usize },
    #[error("I2: host {host} published {epoch} of {vm} in {generation}, which is not its reign")]
    ForeignPublication { vm: VmId, generation: Generation, epoch: Epoch, host: u16 },
    #[error("I2: {epoch} of {vm} was published in {generation} after its seal")]
    PublishedAfterSeal { vm: VmId, generation: Generation, epoch: Epoch },
    #[error("I3: {vm} goes on from {found}, the last committed epoch is {committed}")]
    WrongRecovery { vm: VmId, found: Epoch, committed: Epoch },
    #[error("I3: {epoch} of {vm} cannot be rebuilt from the pool alone: {why}")]
    Unrecoverable { vm: VmId, epoch: Epoch, why: String },
    #[error("I3: the controller cannot recover: {why}")]
    ControllerLost { why: String },
    #[error("I2: {vm} {generation} wrote to its record log after the seal")]
    LoggedAfterSeal { vm: VmId, generation: Generation },
    #[error("I5: {vm} {generation} goes another way than what was committed or logged before, at tick {tick}")]
    Forked { vm: VmId, generation: Generation, tick: u64 },
    #[error("I5: {vm} {generation} goes on behind tick {tick}, where the guest has ended")]
    Outlived { vm: VmId, generation: Generation, tick: u64 },
    #[error("I1: {vm} {generation} goes on from tick {reached}, what was committed or logged goes to {known}")]
    LostHistory { vm: VmId, generation: Generation, reached: u64, known: u64 },
    #[error("I5: a replay of {vm}, whose guest is deterministic, diverged: {report}")]
    Diverged { vm: VmId, report: String },
    #[error("the record log of {vm} {generation} was overrun: {needed} bytes needed, {free} free")]
    LogOverrun { vm: VmId, generation: Generation, needed: u64, free: u64 },
    #[error("I4: the console of {vm} differs from the true history at byte {position}")]
    WrongConsole { vm: VmId, position: u64 },
    #[error("I4: the reader of {vm}'s console cannot read on from byte {position}: {why}")]
    ConsoleGap { vm: VmId, position: u64, why: String },
    #[error("I5: {vm} has {found:?} at {epoch}, the true history {expected:?}")]
    WrongState { vm: VmId, epoch: Epoch, found: Option<Registers>, expected: Option<Registers> },
    #[error("I5: page {page} of {vm} at {epoch} is not that of the true history")]
    WrongPage { vm: VmId, epoch: Epoch, page: u64 },
    #[error("I5: {vm} ended with {found}, the true history with {expected}")]
    WrongExit { vm: VmId, found: String, expected: u32 },
    #[error("versions: host {host} loaded a machine state of {vm} of version {version}, which it cannot read")]
    UnreadableState { vm: VmId, host: u16, version: u32 },
    #[error(
        "detection: the primary of {vm} in {generation} was accused ({reason}), and nothing was ever wrong with it"
    )]
    FalseAccusation { vm: VmId, generation: Generation, reason: TakeoverReason },
    #[error("failback: {vm} was moved to host {to} too early: {why}")]
    HastyFailback { vm: VmId, to: u16, why: String },
    #[error("I2: {generation} of {vm} is of a life that was deleted, host {host} goes on in it")]
    DeletedLifeGoesOn { vm: VmId, generation: Generation, host: u16 },
    #[error("admission: host {host} was given a role of {vm}, and has no memory for it: {why}")]
    Overcommitted { vm: VmId, host: u16, why: String },
    #[error("versions: host {host} was given a role of {vm}, whose guest was shown what its processor lacks")]
    UnfitProcessor { vm: VmId, host: u16 },
    #[error("fencing: {vm} {generation} is ended, and no fence agent is asked to end host {host}, which may live")]
    NotFenced { vm: VmId, generation: Generation, host: u16 },
    #[error("planned: nothing fails in this run, and all the same {what}")]
    Uncalled { what: String },
    #[error("{vm} was given away {reigns} times in a row, and its guest ran nowhere")]
    TakeoverStorm { vm: VmId, reigns: u32 },
    #[error("the life of {vm} is over, and host {host} still has a role for it")]
    RoleLeft { vm: VmId, host: u16 },
    #[error("liveness: the client waits for an answer to request {id:#x} for ever")]
    Unanswered { id: u64 },
    #[error("I6: {vm} is not protected in time: {why}")]
    Unprotected { vm: VmId, why: String },
    #[error("I7: host {host} was granted {grant:?}")]
    WrongGrant { host: u16, grant: Grant },
    #[error("liveness: {vm} did not end in time: {why}")]
    NotEnded { vm: VmId, why: String },
    #[error("liveness: nothing will ever happen again")]
    Quiet,
    #[error("liveness: no end after {events} events")]
    Endless { events: u64 },
    #[error("a core gave up: {message}")]
    Panic { message: String },
}

impl Violation {
    /// Whether this breaks no promise of safety: the run came to a bound that no run in order comes to.
    #[must_use]
    pub fn is_a_bound(&self) -> bool {
        matches!(self, Self::TakeoverStorm { .. } | Self::Quiet | Self::Endless { .. })
    }

    /// Whether this is the same promise, broken the same way; numbers may differ.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Panic { message }, Self::Panic { message: other }) => message == other,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}
