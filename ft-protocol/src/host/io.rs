//! What happens to a host, and what it wants done.

use crate::console_input::InputAt;
use crate::ids::{Epoch, FollowTurn, Generation, HostId, VmId};
use crate::latency::OutputLatency;
use crate::spec::Mode;
use crate::time::Span;
use crate::timeline::Shortage;
use crate::wire::{FollowStep, FromHost, HostHello, LiveReport, Order, ToHost};

/// What happens to a host.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "inputs are handed over one at a time, never kept in numbers")]
pub enum Input {
    /// A connection to the controller stands.
    LinkUp,
    /// The connection broke.
    LinkDown,
    /// A message came.
    Message(ToHost),
    /// A standby VM is made.
    StandbyMade {
        /// The VM.
        vm: VmId,
        /// The generation it stands by for.
        generation: Generation,
    },
    /// A sample of the heartbeat that a standby watches.
    Beat {
        /// The VM.
        vm: VmId,
        /// The counter; `None` when the page cannot be read.
        count: Option<u64>,
    },
    /// A promoted machine runs.
    Live {
        /// The VM.
        vm: VmId,
        /// The generation it reigns.
        generation: Generation,
        /// Its beginnings.
        report: LiveReport,
    },
    /// A primary's machine found its commit word sealed.
    Fenced {
        /// The VM.
        vm: VmId,
        /// The generation it reigned.
        generation: Generation,
    },
    /// A primary's machine has committed all of its guest and stopped it.
    Yielded {
        /// The VM.
        vm: VmId,
        /// The generation it reigned.
        generation: Generation,
        /// How long the guest has stood still.
        stood: Span,
    },
    /// A primary's machine protects its guest in this mode from now on.
    ModeIs {
        /// The VM.
        vm: VmId,
        /// The generation it reigns.
        generation: Generation,
        /// The mode.
        mode: Mode,
    },
    /// All inputs of a primary's guest since this epoch are in the record log.
    Recorded {
        /// The VM.
        vm: VmId,
        /// The generation it reigns.
        generation: Generation,
        /// The epoch.
        since: Epoch,
    },
    /// A secondary's machine has come to the end of an epoch.
    Followed {
        /// The VM.
        vm: VmId,
        /// The order by which it follows.
        turn: FollowTurn,
        /// The epoch.
        epoch: Epoch,
        /// How it got there.
        step: FollowStep,
    },
    /// A machine's replay did not do what the record log says.
    Diverged {
        /// The VM.
        vm: VmId,
        /// The generation of the role.
        generation: Generation,
        /// The order by which it follows; a primary's machine has none.
        turn: Option<FollowTurn>,
        /// One line.
        report: String,
    },
    /// The log that a primary's machine replayed at its beginning is damaged.
    LogLost {
        /// The VM.
        vm: VmId,
        /// The generation it reigns.
        generation: Generation,
        /// One line.
        report: String,
    },
    /// A secondary's machine cannot follow.
    FollowFailed {
        /// The VM.
        vm: VmId,
        /// The order by which it followed.
        turn: FollowTurn,
        /// One line.
        reason: String,
    },
    /// A primary's machine waits for space in the pool, or (`None`) has got it.
    Space {
        /// The VM.
        vm: VmId,
        /// The generation it reigns.
        generation: Generation,
        /// What is missing.
        shortage: Option<Shortage>,
    },
    /// How long a primary's outputs waited until now.
    OutputsMeasured {
        /// The VM.
        vm: VmId,
        /// The generation it reigns.
        generation: Generation,
        /// From the guest's exit to the release.
        latency: OutputLatency,
    },
    /// How far the console input of a primary's guest has come.
    InputAt {
        /// The VM.
        vm: VmId,
        /// The generation it reigns.
        generation: Generation,
        /// How far.
        at: InputAt,
    },
    /// The guest of a primary's machine has ended, all of it committed.
    GuestEnded {
        /// The VM.
        vm: VmId,
    },
    /// What the pool holds of the VM's guest can be booted, or gone on with, neither here nor elsewhere.
    Unfit {
        /// The VM.
        vm: VmId,
        /// The generation of the role.
        generation: Generation,
        /// One line.
        reason: String,
    },
    /// The machine of a VM cannot be made or run on this host.
    Failed {
        /// The VM.
        vm: VmId,
        /// The generation of the role.
        generation: Generation,
        /// One line.
        reason: String,
    },
}

/// What a host wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send the first message of a connection.
    SayHello(HostHello),
    /// Send a message.
    Send(FromHost),
    /// Start to beat: the host is a member.
    Join {
        /// Its number.
        host: HostId,
        /// Time between two beats, and between two samples.
        interval: Span,
    },
    /// Make a standby VM; its descriptors came with the order.
    MakeStandby(Order),
    /// Run the VM as primary, from its standby where there is one.
    RunPrimary(Order),
    /// Have the primary's machine commit all of its guest and stop it.
    Yield(VmId),
    /// Have the VM's machine protect its guest in this mode.
    SetMode(VmId, Mode),
    /// Have the primary's machine say where its console input is, and how it gets on.
    OpenInput(VmId),
    /// Give the primary's machine console input that belongs at this position.
    TakeInput(VmId, u64, Vec<u8>),
    /// Have the standby machine follow the primary from this epoch on; journal and log came with the order.
    Follow(VmId, Generation, Epoch, FollowTurn),
    /// Have the standby machine follow no more.
    Unfollow(VmId),
    /// Stop and forget the VM.
    Discard(VmId),
    /// The controller will not have this host now, for this reason: connect again a little later, but not for ever.
    TryAgain(String),
    /// The process must end.
    Exit(ExitReason),
}

/// Why a host process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// The cluster ends.
    Shutdown,
    /// The controller would not have this host, for as long as it was asked.
    Rejected(String),
    /// The controller will not have this host, however often it is asked.
    Refused(String),
    /// This host was deposed while it was primary.
    Fenced {
        /// The VM.
        vm: VmId,
        /// The generation that was sealed.
        generation: Generation,
    },
}
