//! What a primary is given, what happens to it, and what it wants done.

use crate::commit_meta::GuestEnd;
use crate::ids::Epoch;
use crate::spec::Mode;
use crate::time::Span;

/// Bounds of a [`Primary`](super::Primary).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrimaryConfig {
    /// The epoch that the working memory starts from: the last one applied.
    pub base: Epoch,
    /// Longest time between two cuts while the guest runs, unless a commit stops it for more than a third of that: then it runs
    /// [`RUN_PAUSES`](super::RUN_PAUSES) times as long as the last one has stopped it, but at most
    /// [`RUN_EPOCHS_MAX`](super::RUN_EPOCHS_MAX) times this.
    pub epoch_interval: Span,
    /// Pages that an epoch should not dirty more of, by the rate at which the one before did: its cut comes as much earlier;
    /// `None`: epochs dirty what they do.
    pub epoch_pages_max: Option<u64>,
    /// The guest came from the base to where it is by a replay. Whoever takes over next must do that again, and a secondary that
    /// follows has it before it, until there is a commit: the first one comes soon.
    pub replayed: bool,
    /// Shortest time between two cuts that are made early because an output waits.
    pub cut_spacing_min: Span,
    /// Console bytes behind the gate at which a cut is made at once, however early.
    pub console_pending_max: u64,
    /// Console bytes behind the gate below which, with no packet among them, no cut is made early: what a Linux guest says
    /// while it boots comes byte by byte.
    pub console_batch: u64,
    /// Journal slots.
    pub slots: u32,
    /// How the VM is protected at first.
    pub mode: Mode,
    /// How long an event waits, in a mode that records, for an exit of the guest before the guest is stopped for it; and
    /// how long a cut waits for one: of what the vCPU runs, where the driver [says](super::Primary::ran) how much that is.
    pub event_patience: Span,
}

/// What happens to a primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time has passed; also the answer to [`Primary::deadline`](super::Primary::deadline).
    Tick,
    /// The guest has produced output: so much now waits behind the gate, this output included.
    Output {
        /// Console bytes.
        console: u64,
        /// Packets.
        packets: u64,
    },
    /// The guest goes on, as asked by [`Action::Resume`].
    Resumed {
        /// How long it stood still for the cut.
        pause: Span,
    },
    /// The guest, resumed after a cut, still waits as it did before: until [`Input::Woke`] nothing changes.
    StillWaits,
    /// The guest goes on after a wait.
    Woke,
    /// The guest's life has ended; its vCPU is stopped.
    Ended(GuestEnd),
    /// The guest wants what it wrote to its disk to outlive everything.
    Flush,
    /// An event waits for an exit of the guest, since now.
    EventWaits,
    /// No event waits any more.
    EventsTaken,
    /// Console output was appended to the record log.
    Logged,
    /// The record log runs out of room: commit, so that what it holds becomes free.
    LogLow,
    /// The VM is to be protected in this mode from a cut on.
    Turn(Mode),
    /// A switchover: commit what there is and hand the guest over.
    Yield,
    /// The vCPU stands at an exit, as asked by [`Action::PauseAtExit`].
    AtExit,
    /// The vCPU stands still at a clean point, as asked by [`Action::Stop`].
    Stopped,
    /// The pool has no space for the record that is to be written; it is tried again.
    OutOfSpace,
    /// The epoch that is being cut has dirtied so many pages.
    Dirtied {
        /// How many.
        pages: u64,
    },
    /// The record of this epoch is complete in its slot, but for its checksum.
    Written(Epoch),
    /// The commit word went from the epoch before to this one.
    Published(Epoch),
    /// The commit word is sealed, or the controller has deposed this generation.
    Sealed {
        /// The last epoch that was published before the seal.
        final_epoch: Epoch,
    },
    /// The controller has applied this epoch: its slot is free.
    Applied(Epoch),
}

/// What a primary wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// When the vCPU comes to an exit next, or stands at one, say [`Input::AtExit`] before it runs on.
    PauseAtExit,
    /// Stop the vCPU at a clean point, then say [`Input::Stopped`]. Nobody needs to pause any more.
    Stop,
    /// Write the commit record of this epoch, with the guest's end if it has one, then say [`Input::Written`].
    Write {
        /// The epoch that the record makes.
        epoch: Epoch,
        /// The guest's end, in its last record.
        ended: Option<GuestEnd>,
    },
    /// Hand the guest the events that wait for it; the cut just made, published if the mode records, is where they come.
    Deliver,
    /// Protect in this mode from here on: the record just published is the last of the mode before.
    SetMode(Mode),
    /// Let the vCPU run on, and say [`Input::Resumed`].
    Resume,
    /// Checksum and flush the record, then compare_exchange the commit word; say [`Input::Published`] or [`Input::Sealed`].
    Publish {
        /// The epoch that the commit word must hold.
        from: Epoch,
        /// The epoch that it shall hold.
        to: Epoch,
    },
    /// Outputs of this and earlier epochs may leave.
    Release(Epoch),
    /// Tell the controller that there is something to apply.
    Doorbell(Epoch),
    /// Tell the controller that the record log holds new console output.
    LogDoorbell,
    /// The machine's time on this host is over.
    Halt(Halt),
}

/// Why a machine's time on a host is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// Somebody sealed the commit word: another host is, or will be, primary.
    Fenced {
        /// The last epoch published before the seal.
        final_epoch: Epoch,
    },
    /// The guest's life has ended and its last record is published.
    Ended(GuestEnd),
    /// All of the guest is in the pool, and it does not run here any more, as asked by [`Input::Yield`].
    Yielded,
}

/// Counts for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrimaryCounts {
    /// Cuts made.
    pub cuts: u64,
    /// Cuts made before the epoch interval was over because an output waited.
    pub early_cuts: u64,
    /// Cuts that found no free journal slot and had to wait.
    pub stalls: u64,
}
