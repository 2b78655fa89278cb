//! Messages between controller, hosts and clients; one message is one datagram of a SOCK_SEQPACKET connection.
//!
//! Descriptors travel beside a message: each [`ExtentTag`] of its [`Envelope`] names what the descriptor at the same
//! position of the control data stands for. All of this is parsed as hostile.

use crate::commit_meta::GuestEnd;
use crate::cpu::CpuProfile;
use crate::ids::{Epoch, Generation, HostId, Incarnation, VmId};
use crate::latency::{LatencySummary, OutputLatency};
use crate::phi::Phi;
use crate::spec::{Mode, NetSpec, VmSpec};
use crate::time::{Span, Time};
use crate::timeline::{Happening, Shortage};
use crate::versions::VersionRange;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Newest version of these messages that is spoken here.
pub const PROTOCOL_VERSION: u32 = 4;

/// All versions of these messages that are spoken here. Hosts and controller use the highest one that both have; a peer
/// with none of them is refused at its first message. What a version added is not relied upon below it:
/// 2: a primary says what it does, in its host's heartbeat page ([`crate::activity`]).
/// 3: a primary says when it waits for space ([`FromHost::OutOfSpace`], [`FromHost::SpaceAgain`]), and how long outputs
/// waited ([`FromHost::OutputsMeasured`]).
/// 4: a secondary follows its primary ([`ToHost::Follow`]), where the guest is protected in lockstep mode.
pub const PROTOCOLS: VersionRange = VersionRange { min: 1, max: PROTOCOL_VERSION };

/// The first version whose primaries say what they do.
pub const ACTIVITY_SINCE: u32 = 2;

/// The first version whose primaries say that they wait for space.
pub const SPACE_SINCE: u32 = 3;

/// The first version whose secondaries follow their primary.
pub const FOLLOW_SINCE: u32 = 4;

/// Largest message in bytes; larger ones are refused unread.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Most descriptors beside one message.
pub const EXTENTS_MAX: usize = 16;

/// What a process may do with a part of the pool; the kernel enforces it through the descriptor's access mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Access {
    /// Descriptor opened O_RDONLY.
    ReadOnly,
    /// Descriptor opened O_RDWR.
    ReadWrite,
}

/// A part of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Part {
    /// Heartbeat page of a host.
    Heartbeat(HostId),
    /// Stable image.
    Image(VmId),
    /// Machine state of the last applied epoch.
    State(VmId),
    /// Applied epoch and generation.
    Control(VmId),
    /// What the guest is booted from.
    Boot(VmId),
    /// Console ring.
    Console(VmId),
    /// Journal of a generation.
    Journal(VmId, Generation),
    /// Record log of a generation.
    Log(VmId, Generation),
    /// Disk image.
    Disk(VmId),
    /// A file that a client passes with a request (not part of the pool yet).
    Upload,
    /// A file that a client passes to the controller: the first content of a VM's disk.
    UploadedDisk,
}

/// A part with an access: what one descriptor is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Grant {
    /// Which part.
    pub part: Part,
    /// How it may be used.
    pub access: Access,
}

/// Where in its descriptor a granted part lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtentTag {
    /// What the descriptor is good for.
    pub grant: Grant,
    /// First byte of the part within the descriptor's file.
    pub offset: u64,
    /// Length of the part in bytes.
    pub len: u64,
}

/// A message with the tags of the descriptors that travel beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<M> {
    /// The message.
    pub message: M,
    /// One tag per descriptor, in the same order.
    pub extents: Vec<ExtentTag>,
}

/// Why a takeover is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TakeoverReason {
    /// The connection of the primary's host has closed: its process is dead.
    LinkClosed,
    /// The heartbeat of the primary's host has been silent for this long.
    HeartbeatSilent(Span),
    /// The primary wrote a commit record that cannot be applied.
    RecordRefused,
    /// The record log holds what no sane primary writes.
    LogDamaged,
    /// The generation's commit word holds what no sane primary writes.
    WordDamaged,
    /// The primary's host gave the VM up.
    GivenUp,
    /// The primary's host came back as another incarnation, without the VM.
    HostRestarted,
    /// A host that was to become primary did not.
    PromotionFailed,
    /// The primary's host lives, but for this long the primary has neither committed nor said that it has nothing to commit.
    CommitStalled(Span),
}

impl fmt::Display for TakeoverReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinkClosed => f.write_str("its connection closed"),
            Self::HeartbeatSilent(span) => write!(f, "its heartbeat is silent for {span}"),
            Self::RecordRefused => f.write_str("it wrote a commit record that was refused"),
            Self::LogDamaged => f.write_str("its record log is damaged"),
            Self::WordDamaged => f.write_str("its commit word is damaged"),
            Self::GivenUp => f.write_str("its host gave the VM up"),
            Self::HostRestarted => f.write_str("its host was restarted"),
            Self::PromotionFailed => f.write_str("it did not go live"),
            Self::CommitStalled(span) => write!(f, "it has committed nothing for {span}, while its host lives"),
        }
    }
}

/// Why a takeover was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum TakeoverRefusal {
    /// The asker speaks of a generation that is over.
    #[error("generation {asked} is over, {current} reigns")]
    GenerationOver {
        /// The generation asked for.
        asked: Generation,
        /// The one that reigns.
        current: Generation,
    },
    /// The asker is not the VM's secondary.
    #[error("this host is not the VM's secondary")]
    NotSecondary,
    /// Another takeover of the same generation is under way.
    #[error("another takeover of this generation is under way")]
    UnderWay,
    /// The controller itself sees the primary's heart beat.
    #[error("the primary's heart beats")]
    PrimaryBeats,
    /// The VM's life has ended.
    #[error("the VM has ended")]
    Ended,
    /// There is no such VM.
    #[error("no such VM")]
    UnknownVm,
}

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
}

/// What a client can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Make a VM and run it; the file to boot from travels beside it.
    CreateVm(VmSpec),
    /// End a VM's life, whatever it does, and give back its part of the pool.
    DeleteVm(VmId),
    /// The state of everything.
    Status,
    /// Send the latest happenings of this controller's life, and from now on all.
    Watch,
    /// Read a VM's console without loss; answered with a descriptor of its console ring.
    AttachConsole {
        /// The VM.
        vm: VmId,
        /// What the reader has consumed already, in bytes since the guest's birth.
        from: u64,
    },
    /// This connection has consumed a console up to this position.
    ConsoleConsumed {
        /// The VM.
        vm: VmId,
        /// Bytes since the guest's birth.
        position: u64,
    },
    /// Protect a VM in another mode. Answered when it is.
    SetMode {
        /// The VM.
        vm: VmId,
        /// The mode.
        mode: Mode,
    },
    /// Move a VM to another host, as planned: nothing is lost or run again. Answered when the guest runs there.
    Switchover {
        /// The VM.
        vm: VmId,
        /// Name of the host; `None`: the secondary's.
        to: Option<String>,
    },
    /// Take all roles from a host and give it no new ones; or let it have roles again.
    Drain {
        /// Name of the host.
        host: String,
        /// `false` ends the draining.
        on: bool,
    },
    /// End the whole cluster: hosts and controller.
    Shutdown,
    /// The VM's guest shall no longer wait for readers of its console while none is attached: what nobody reads is
    /// overwritten, oldest first.
    ReleaseConsole(VmId),
    /// Read the disk of a VM that has ended; answered with a descriptor of its disk image.
    ReadDisk(VmId),
}

/// A numbered request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromClient {
    /// Chosen by the client, repeated in the answer.
    pub id: u64,
    /// What it asks for.
    pub request: Request,
}

/// Answers to requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Nothing more to say.
    Done,
    /// The VM is made.
    VmCreated(VmId),
    /// Everything.
    Status(Status),
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RequestError {
    /// No such VM.
    #[error("there is no VM {0}")]
    UnknownVm(VmId),
    /// No such host.
    #[error("there is no host `{0}`")]
    UnknownHost(String),
    /// The VM's creator wants a spare for it, and there is none.
    #[error("the VM is to have a spare, but no capacity can be reserved for its re-protection: {0}")]
    NoSpare(String),
    /// No host has the memory.
    #[error("no host has {0} bytes of memory left for the guest: start one that has")]
    NoCapacity(u64),
    /// A VM of this name exists.
    #[error("a VM named `{0}` exists already")]
    NameTaken(String),
    /// The description makes no sense.
    #[error("bad VM description: {0}")]
    BadSpec(String),
    /// The pool cannot hold the VM.
    #[error("the pool cannot hold the VM: {0}")]
    PoolRefused(String),
    /// A request that is allowed only after something else.
    #[error("{0}")]
    NotNow(String),
    /// The VM cannot be recovered from what the pool holds.
    #[error("{0} is lost: its part of the pool is damaged (`ftvm pool check DIR` says where)")]
    Damaged(VmId),
}

/// To a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToClient {
    /// The connection stands.
    Welcome,
    /// The connection cannot be used.
    Rejected {
        /// One line.
        reason: String,
    },
    /// Answer to a request.
    Answer {
        /// The request's number.
        id: u64,
        /// The answer.
        answer: Result<Answer, RequestError>,
    },
    /// Something happened (after [`Request::Watch`]).
    Happened {
        /// When, on the controller's monotonic clock.
        at: Time,
        /// What.
        happening: Happening,
    },
    /// An attached console has grown.
    ConsoleMoved {
        /// The VM.
        vm: VmId,
        /// Its end, in bytes since the guest's birth.
        tail: u64,
    },
    /// An attached VM's life has ended, all of its console is in the ring.
    VmEnded {
        /// The VM.
        vm: VmId,
        /// How it ended.
        end: GuestEnd,
        /// The console's end.
        console_end: u64,
    },
}

/// State of a whole cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// All hosts that were ever members.
    pub hosts: Vec<HostStatus>,
    /// All VMs.
    pub vms: Vec<VmStatus>,
}

/// State of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Its number.
    pub host: HostId,
    /// Its name.
    pub name: String,
    /// Its health in one word: up, silent, down, held-down.
    pub health: String,
    /// How suspicious its silence of the moment is, once its beats are known well enough.
    pub phi: Option<Phi>,
    /// The version that is spoken with it, while it is connected.
    pub protocol: Option<u32>,
    /// Its failure domains.
    pub labels: Vec<String>,
}

/// How a secondary follows its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowStatus {
    /// The last epoch that it has come to.
    pub reached: Epoch,
    /// Epochs that the primary has committed and it has not come to.
    pub behind: u64,
    /// Epochs that it has executed and found as the commit record says.
    pub compared: u64,
    /// Epochs that it went on from without executing them to their end: the guest took no exit for long.
    pub adopted: u64,
    /// How long after the commit it came to the last epoch.
    pub lag: Span,
    /// The longest that it took to come to any.
    pub lag_max: Span,
}

/// State of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStatus {
    /// Its number.
    pub vm: VmId,
    /// Its name.
    pub name: String,
    /// Its phase in one word.
    pub phase: String,
    /// How it is protected.
    pub mode: Mode,
    /// What a replay of it did that the record log does not say, in one line, if one ever did.
    pub diverged: Option<String>,
    /// Its generation.
    pub generation: Generation,
    /// The last applied epoch: what is recoverable without any journal.
    pub applied: Epoch,
    /// Name of the primary's host.
    pub primary: Option<String>,
    /// Name of the secondary's host.
    pub secondary: Option<String>,
    /// `None` when protected, otherwise why not.
    pub unprotected: Option<String>,
    /// Takeovers so far.
    pub takeovers: u64,
    /// Switchovers so far.
    pub switchovers: u64,
    /// Name of the host that it is being moved to.
    pub moving_to: Option<String>,
    /// What the next failure would cost, in one line: no host is left that could re-protect the VM.
    pub at_risk: Option<String>,
    /// Name of the host that has room for a new secondary after the next failure.
    pub spare: Option<String>,
    /// How the secondary follows, in lockstep mode.
    pub following: Option<FollowStatus>,
    /// Guest memory in bytes.
    pub memory_bytes: u64,
    /// Network devices.
    pub nets: Vec<NetSpec>,
    /// Bytes of the disk; zero: none.
    pub disk_bytes: u64,
    /// How long the guest's outputs waited from its exit to their release, under all primaries that this controller knew.
    pub output_latency: Option<LatencySummary>,
    /// Console bytes since the guest's birth.
    pub console_end: u64,
    /// What the guest waits for, in one line: space in the pool, or a reader of its output.
    pub waits: Option<String>,
    /// How the guest's life ended, if it has.
    pub ended: Option<GuestEnd>,
}
