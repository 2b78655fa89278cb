//! Messages between controller, hosts and clients; one message is one datagram of a SOCK_SEQPACKET connection.
//!
//! Descriptors travel beside a message: each [`ExtentTag`] of its [`Envelope`] names what the descriptor at the same
//! position of the control data stands for. All of this is parsed as hostile.

mod client;
mod host;
mod status;
mod takeover;

pub use client::{Answer, FromClient, Request, RequestError, ToClient};
pub use host::{
    FollowStep, FromHost, HeldRole, Hello, HostHello, HostProfile, LiveReport, Order, Role, StateFormats, ToHost,
};
pub use status::{FollowStatus, HostStatus, Status, VmStatus};
pub use takeover::{TakeoverReason, TakeoverRefusal};

use crate::ids::{Generation, HostId, VmId};
use crate::versions::VersionRange;
use serde::{Deserialize, Serialize};

/// Newest version of these messages that is spoken here.
pub const PROTOCOL_VERSION: u32 = 10;

/// All versions of these messages that are spoken here. Hosts and controller use the highest one that both have; a peer
/// with none of them is refused at its first message. What a version added is not relied upon below it:
/// 2: a primary says what it does, in its host's heartbeat page ([`crate::activity`]).
/// 3: a primary says when it waits for space ([`FromHost::OutOfSpace`], [`FromHost::SpaceAgain`]), and how long outputs
/// waited ([`FromHost::OutputsMeasured`]).
/// 4: a secondary follows its primary ([`ToHost::Follow`]), where the guest is protected in lockstep mode.
/// 5: orders to follow have numbers, and what a secondary says of it names the one that it has ([`ToHost::FollowAs`]). A
/// controller of this version has no secondary of an older one follow: it could not tell an old report from a new one.
/// 6: a host tells a damaged log from a divergence ([`FromHost::LogLost`]), and why a secondary follows no more
/// ([`FromHost::FollowFailed`]).
/// 7: console input comes from clients ([`ToHost::OpenInput`], [`ToHost::Input`], [`FromHost::InputAt`]).
/// 8: a host tells a guest that cannot be started from what it lacks itself ([`FromHost::Unfit`]).
/// 9: a primary that yields says how long its guest has stood still by then ([`FromHost::Stood`]).
/// 10: clients are told in which mode outputs were measured.
pub const PROTOCOLS: VersionRange = VersionRange { min: 1, max: PROTOCOL_VERSION };

/// The first version whose primaries say what they do.
pub const ACTIVITY_SINCE: u32 = 2;

/// The first version whose primaries say that they wait for space.
pub const SPACE_SINCE: u32 = 3;

/// The first version whose primaries say since when all inputs are in the log.
pub const RECORDED_SINCE: u32 = 4;

/// The first version whose secondaries say which order to follow it is that they speak of.
pub const FOLLOW_SINCE: u32 = 5;

/// The first version whose hosts tell a damaged log from a divergence, and why they follow no more.
pub const LOG_LOST_SINCE: u32 = 6;

/// The first version whose hosts take console input.
pub const INPUT_SINCE: u32 = 7;

/// The first version whose hosts say that a guest cannot be started.
pub const UNFIT_SINCE: u32 = 8;

/// The first version whose primaries say how long the guest that they hand over has stood still.
pub const STOOD_SINCE: u32 = 9;

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

impl Part {
    /// The VM whose part it is, where nobody but the controller writes it.
    #[must_use]
    pub fn stable_of(self) -> Option<VmId> {
        match self {
            Self::Image(vm)
            | Self::State(vm)
            | Self::Control(vm)
            | Self::Boot(vm)
            | Self::Console(vm)
            | Self::Disk(vm) => Some(vm),
            Self::Heartbeat(_) | Self::Journal(..) | Self::Log(..) | Self::Upload | Self::UploadedDisk => None,
        }
    }
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

#[cfg(test)]
mod tests;
