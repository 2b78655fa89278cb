//! What hosts say and are told.

use super::takeover::{TakeoverReason, TakeoverRefusal};
use crate::console_input::InputAt;
use crate::cpu::CpuProfile;
use crate::ids::{Epoch, FollowId, Generation, HostId, Incarnation, VmId};
use crate::latency::OutputLatency;
use crate::phi::Phi;
use crate::spec::{Mode, VmSpec};
use crate::time::{Span, Time};
use crate::timeline::Shortage;
use crate::versions::VersionRange;
use serde::{Deserialize, Serialize};

/// A role that a host holds, as it says when it (re)connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldRole {
    /// The VM.
    pub vm: VmId,
    /// The generation under which the role was given.
    pub generation: Generation,
    /// Which role.
    pub role: Role,
}

/// A host's role for one VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Runs the guest, or is about to.
    Primary {
        /// Whether the guest runs already.
        live: bool,
    },
    /// Stands by; `prepared` when its VM is made.
    Secondary {
        /// Whether the standby VM is made.
        prepared: bool,
    },
}

/// Who a host is, and what it can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostProfile {
    /// Its name.
    pub name: String,
    /// This life of it.
    pub incarnation: Incarnation,
    /// Memory that its guests may take, in bytes.
    pub memory_bytes: u64,
    /// What its processor offers.
    pub cpu: CpuProfile,
    /// The formats of machine states that it can handle.
    pub states: StateFormats,
    /// Failure domains that it is in, such as `rack=r1`: hosts with a label in common may fail together.
    pub labels: Vec<String>,
}

/// Formats of machine states, by version: a newer host reads what an older one wrote, not the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFormats {
    /// The version that it writes.
    pub writes: u32,
    /// The oldest version that it reads; it reads all from there to the one that it writes.
    pub reads_from: u32,
}

impl StateFormats {
    /// Whether a machine state of this version can be loaded.
    #[must_use]
    pub const fn reads(self, version: u32) -> bool {
        self.reads_from <= version && version <= self.writes
    }
}

/// First message of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostHello {
    /// What the sender speaks.
    pub protocols: VersionRange,
    /// Who it is and what it can do.
    pub profile: HostProfile,
    /// Roles it holds from an earlier connection of the same life.
    pub roles: Vec<HeldRole>,
}

/// First message of every connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hello {
    /// A host.
    Host(HostHello),
    /// A client, with its [`PROTOCOL_VERSION`].
    Client {
        /// [`PROTOCOL_VERSION`] of the sender.
        protocol: u32,
    },
}

/// How long the parts of a promotion took on the winner's host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveReport {
    /// When the order to become primary arrived.
    pub ordered_at: Time,
    /// When the machine state was loaded.
    pub loaded_at: Time,
    /// When the vCPU was let run for good.
    pub live_at: Time,
    /// When the record log was replayed to its end, in the modes that record.
    pub replayed_at: Option<Time>,
    /// Entries of the record log that were replayed.
    pub entries: u64,
}

/// From a host to the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromHost {
    /// An epoch is committed and can be applied.
    Doorbell {
        /// The VM.
        vm: VmId,
        /// The sender's generation.
        generation: Generation,
        /// The committed epoch.
        epoch: Epoch,
    },
    /// The record log holds new console output.
    Logged {
        /// The VM.
        vm: VmId,
        /// The sender's generation.
        generation: Generation,
    },
    /// The guest is protected in this mode from now on.
    ModeIs {
        /// The VM.
        vm: VmId,
        /// The sender's generation.
        generation: Generation,
        /// The mode.
        mode: Mode,
    },
    /// A replay of the guest did not do what the record log says. The VM is protected in checkpoint mode from now on.
    Diverged {
        /// The VM.
        vm: VmId,
        /// The sender's generation.
        generation: Generation,
        /// One line: at which exit, expected and got.
        report: String,
    },
    /// The standby VM is made.
    StandbyReady {
        /// The VM.
        vm: VmId,
        /// The generation it stands by for.
        generation: Generation,
    },
    /// The secondary wants to take over.
    AskTakeover {
        /// The VM.
        vm: VmId,
        /// The generation that it wants to end.
        generation: Generation,
        /// Why.
        reason: TakeoverReason,
    },
    /// The new primary's guest runs.
    Live {
        /// The VM.
        vm: VmId,
        /// The new generation.
        generation: Generation,
        /// Its beginnings, step by step.
        report: LiveReport,
    },
    /// The sender found its commit word sealed and stopped the guest.
    Fenced {
        /// The VM.
        vm: VmId,
        /// The sealed generation.
        generation: Generation,
    },
    /// The sender has committed all of the guest and stopped it, as asked by [`ToHost::Yield`].
    Yielded {
        /// The VM.
        vm: VmId,
        /// The sender's generation.
        generation: Generation,
    },
    /// The sender cannot fill its role for this VM.
    GaveUp {
        /// The VM.
        vm: VmId,
        /// The generation of the role.
        generation: Generation,
        /// One line.
        reason: String,
    },
    /// The pool has no space for the guest's next commit record: the guest stands still.
    OutOfSpace {
        /// The VM.
        vm: VmId,
        /// The sender's generation.
        generation: Generation,
        /// What is missing.
        shortage: Shortage,
    },
    /// How long the guest's outputs waited until now, in all of the sender's generation.
    OutputsMeasured {
        /// The VM.
        vm: VmId,
        /// The sender's generation.
        generation: Generation,
        /// From the guest's exit to the release.
        latency: OutputLatency,
    },
    /// The record that waited for space is written.
    SpaceAgain {
        /// The VM.
        vm: VmId,
        /// The sender's generation.
        generation: Generation,
    },
    /// All inputs of the guest since this epoch are in the generation's record log.
    Recorded {
        /// The VM.
        vm: VmId,
        /// The sender's generation.
        generation: Generation,
        /// The epoch.
        since: Epoch,
    },
    /// The secondary has come as far as this epoch on its own view: from its side the stable image may do so, too.
    Followed {
        /// The VM.
        vm: VmId,
        /// The generation that it follows.
        generation: Generation,
        /// The epoch.
        epoch: Epoch,
        /// How it got there.
        step: FollowStep,
    },
    /// The same of a secondary that was told by [`ToHost::FollowAs`].
    FollowedAs {
        /// The order that it follows.
        follow: FollowId,
        /// The VM.
        vm: VmId,
        /// The generation that it follows.
        generation: Generation,
        /// The epoch.
        epoch: Epoch,
        /// How it got there.
        step: FollowStep,
    },
    /// What a secondary that was told by [`ToHost::FollowAs`] did is not what the record log says, or the commit record.
    DivergedAs {
        /// The order that it follows.
        follow: FollowId,
        /// The VM.
        vm: VmId,
        /// The generation that it follows.
        generation: Generation,
        /// One line: at which exit, expected and got.
        report: String,
    },
    /// The record log that the sender replayed is damaged: its guest went on by itself from there, in checkpoint mode.
    LogLost {
        /// The VM.
        vm: VmId,
        /// The sender's generation.
        generation: Generation,
        /// One line: where, and what is wrong.
        report: String,
    },
    /// A secondary that was told by [`ToHost::FollowAs`] cannot: it only stands by again.
    FollowFailed {
        /// The order that it followed.
        follow: FollowId,
        /// The VM.
        vm: VmId,
        /// The generation.
        generation: Generation,
        /// One line: why.
        reason: String,
    },
    /// How far the guest's console input has come.
    InputAt {
        /// The VM.
        vm: VmId,
        /// The sender's generation.
        generation: Generation,
        /// How far.
        at: InputAt,
    },
    /// The VM's guest cannot be booted, or what the pool holds of it cannot be read: it is not the sender's fault. A
    /// controller that knows this of guests only that have not run takes it for a [`Self::GaveUp`] of others.
    Unfit {
        /// The VM.
        vm: VmId,
        /// The generation of the role.
        generation: Generation,
        /// One line.
        reason: String,
    },
    /// How long the guest had stood still when it was handed over: comes right before [`FromHost::Yielded`].
    Stood {
        /// The VM.
        vm: VmId,
        /// The sender's generation.
        generation: Generation,
        /// From its last instruction on.
        stood: Span,
    },
}

/// How a secondary that follows came to the end of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FollowStep {
    /// By executing it: memory and machine state are what the commit record says.
    Compared,
    /// Its record was made where only the primary can stop: the secondary stands still and goes on from the record, once
    /// that is applied.
    Adopted,
}

/// All that a host needs to stand by for a VM, or to run it. Beside it travel the descriptors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The VM.
    pub vm: VmId,
    /// Standby: the generation that reigns. Primary: the host's own new generation.
    pub generation: Generation,
    /// What the VM is.
    pub spec: VmSpec,
    /// Standby: the primary's host, whose heartbeat is to be watched.
    pub primary: Option<HostId>,
    /// Primary: the epoch to go on from; zero: boot the guest.
    pub base: Epoch,
    /// The processor that the guest is shown.
    pub cpu: CpuProfile,
}

/// From the controller to a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHost {
    /// The host is a member now.
    Welcome {
        /// Its number.
        host: HostId,
        /// Silence after which a heartbeat is suspected.
        heartbeat_bound: Span,
        /// Time between two beats, and between two samples.
        heartbeat_interval: Span,
        /// The degree of suspicion at which a host is suspected earlier.
        suspicion: Option<Phi>,
        /// The version that is spoken from now on.
        protocol: u32,
    },
    /// The host cannot be a member; it should end.
    Rejected {
        /// One line: why, and what to do.
        reason: String,
        /// The reason may pass by itself: worth trying again for a while.
        retry: bool,
    },
    /// Prepare to take over.
    Standby(Order),
    /// Become primary.
    Promote(Order),
    /// Commit all of the guest, stop it, and say so: another host goes on.
    Yield {
        /// The VM.
        vm: VmId,
        /// The generation that ends with this.
        generation: Generation,
    },
    /// Protect the guest in this mode from the next commit on.
    SetMode {
        /// The VM.
        vm: VmId,
        /// The generation of the role.
        generation: Generation,
        /// The mode.
        mode: Mode,
    },
    /// The primary is gone: ask for the takeover.
    PrimaryGone {
        /// The VM.
        vm: VmId,
        /// The generation whose primary is gone.
        generation: Generation,
        /// How it is known.
        reason: TakeoverReason,
    },
    /// The takeover that was asked for is not granted.
    TakeoverRefused {
        /// The VM.
        vm: VmId,
        /// The generation asked for.
        generation: Generation,
        /// Why not.
        refusal: TakeoverRefusal,
    },
    /// Give up any role for this VM that was given under this generation or an earlier one.
    Release {
        /// The VM.
        vm: VmId,
        /// The last generation that this is about.
        generation: Generation,
        /// Whether the host is deposed (fenced) rather than just no longer needed.
        deposed: bool,
    },
    /// The cluster ends; the host should too.
    Shutdown,
    /// Follow the primary from this epoch on, which is what the stable image holds and will hold until
    /// [`FromHost::Followed`]. Journal and record log of the generation travel beside it.
    Follow {
        /// The VM.
        vm: VmId,
        /// The generation to follow.
        generation: Generation,
        /// The epoch.
        base: Epoch,
    },
    /// Follow no more, only stand by: the stable image goes on by itself from here.
    Unfollow {
        /// The VM.
        vm: VmId,
        /// The generation that was followed.
        generation: Generation,
    },
    /// [`ToHost::Follow`] with a number, which is in all that the secondary says of it.
    FollowAs {
        /// The number.
        follow: FollowId,
        /// The VM.
        vm: VmId,
        /// The generation to follow.
        generation: Generation,
        /// The epoch.
        base: Epoch,
    },
    /// Somebody feeds the guest's console: say where its input is, and from now on how it gets on.
    OpenInput {
        /// The VM.
        vm: VmId,
        /// The generation of the role.
        generation: Generation,
    },
    /// Console input for the guest.
    Input {
        /// The VM.
        vm: VmId,
        /// The generation of the role.
        generation: Generation,
        /// Where it belongs in all that the guest is ever given.
        position: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
}
