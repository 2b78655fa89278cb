//! What a VM is to the cluster: its size, its guest's arguments, its protection mode and its bounds.

use crate::policy::Policy;
use crate::time::Span;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How a VM is protected (design.md, "Protection modes").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// Outputs wait for the commit of their epoch.
    Checkpoint,
    /// Inputs go to the record log, outputs leave at once, commits are rare. For guests that are deterministic between
    /// exits.
    Replay,
    /// Replay, and the secondary follows all along and compares.
    Lockstep,
}

impl Mode {
    /// Whether inputs go to the record log.
    #[must_use]
    pub const fn records(self) -> bool {
        matches!(self, Self::Replay | Self::Lockstep)
    }

    /// Longest time between two commits unless the VM's creator wants another.
    #[must_use]
    pub const fn default_epoch_interval(self) -> Span {
        match self {
            Self::Checkpoint => Span::from_ms(10),
            Self::Replay => Span::from_ms(1000),
            // The secondary may be a journal's slots of epochs behind: this bounds its lag.
            Self::Lockstep => Span::from_ms(100),
        }
    }

    /// Longest time between two commits of a VM that turns from this mode to another: what its creator chose stays, what
    /// was the mode's own becomes that of the other.
    #[must_use]
    pub fn interval_in(self, other: Self, interval: Span) -> Span {
        if interval == self.default_epoch_interval() { other.default_epoch_interval() } else { interval }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checkpoint => "checkpoint",
            Self::Replay => "replay",
            Self::Lockstep => "lockstep",
        })
    }
}

/// A mode that ftvm does not know.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown mode `{given}`: known are checkpoint, replay, lockstep")]
pub struct UnknownMode {
    given: String,
}

impl FromStr for Mode {
    type Err = UnknownMode;
    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        match text {
            "checkpoint" => Ok(Self::Checkpoint),
            "replay" => Ok(Self::Replay),
            "lockstep" => Ok(Self::Lockstep),
            _ => Err(UnknownMode { given: text.chars().take(32).collect() }),
        }
    }
}

/// Shape of a VM's journal. `slot_bytes` is virtual; only `reserved_bytes` of each slot are backed from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalShape {
    /// Commit records that may wait for the controller at one time.
    pub slots: u32,
    /// Bytes a record may have at most.
    pub slot_bytes: u64,
    /// Bytes of each slot that are reserved in the pool beforehand.
    pub reserved_bytes: u64,
}

/// What a network device is connected to on the host that runs the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetBackend {
    /// An Ethernet segment over Unix datagram sockets: the socket of its `ftvm switch`.
    Segment(String),
    /// A TAP device of this name.
    Tap(String),
}

/// A network device of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetSpec {
    /// The guest's hardware address; it moves with the guest.
    pub mac: [u8; 6],
    /// What it is connected to.
    pub backend: NetBackend,
}

/// Most network devices of a VM.
pub const NETS_MAX: usize = 4;

/// Longest path of a segment's socket, in bytes: the kernel's bound.
const SEGMENT_BYTES_MAX: usize = 107;
/// Longest name of a TAP device, in bytes: the kernel's bound.
const TAP_BYTES_MAX: usize = 15;

impl fmt::Display for NetBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(path) => write!(f, "segment={path}"),
            Self::Tap(name) => write!(f, "tap={name}"),
        }
    }
}

impl fmt::Display for NetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.mac;
        write!(f, "{},mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}", self.backend)
    }
}

impl NetBackend {
    /// Why hosts cannot use it, whatever is there, in one line.
    pub fn check(&self) -> Result<(), &'static str> {
        let is_plain = |text: &str| text.chars().all(|c| !c.is_control());
        match self {
            Self::Segment(path) if !path.starts_with('/') => Err("the path of a segment's switch must be absolute"),
            Self::Segment(path) if path.len() > SEGMENT_BYTES_MAX || !is_plain(path) => {
                Err("the path of a segment's switch must have at most 107 bytes, and no control characters")
            }
            Self::Tap(name)
                if name.is_empty()
                    || name.len() > TAP_BYTES_MAX
                    || !is_plain(name)
                    || name.contains(['/', ' ', ':', '%']) =>
            {
                Err("the name of a TAP device must have 1 to 15 bytes, without spaces and any of / : %")
            }
            Self::Segment(_) | Self::Tap(_) => Ok(()),
        }
    }
}

/// Why these cannot be the network devices of one VM, in one line.
pub fn check_nets(nets: &[NetSpec]) -> Result<(), &'static str> {
    if nets.len() > NETS_MAX {
        return Err("it can have at most 4 network devices");
    }
    for (index, net) in nets.iter().enumerate() {
        if net.mac[0] & 1 != 0 || net.mac == [0; 6] {
            return Err("a hardware address must be that of one device: its first byte even, and not all zero");
        }
        if nets[..index].iter().any(|other| other.mac == net.mac) {
            return Err("its network devices must have different hardware addresses");
        }
        net.backend.check()?;
    }
    Ok(())
}

/// A VM as its creator describes it. Persisted in the cluster state and sent to hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// Name, 1 to 63 bytes of `[a-z0-9._-]`.
    pub name: String,
    /// Guest memory in bytes, a multiple of the page size.
    pub memory_bytes: u64,
    /// Protection mode.
    pub mode: Mode,
    /// Longest time between two commits while the guest runs.
    pub epoch_interval: Span,
    /// Guest arguments, as the boot information gives them to the guest.
    pub args: Vec<String>,
    /// Journal shape.
    pub journal: JournalShape,
    /// Console output waits for a reader, also while none is attached: nothing is ever overwritten unread.
    pub console_lossless: bool,
    /// Copy-on-write pages that the primary's host keeps, in bytes; `None`: all that it ever wrote. What one epoch dirties
    /// is kept in any case.
    pub working_set_bytes_max: Option<u64>,
    /// Where it should run.
    pub policy: Policy,
    /// Network devices.
    pub nets: Vec<NetSpec>,
    /// Bytes of the disk image, a multiple of the page size; zero: no disk.
    pub disk_bytes: u64,
    /// Bytes of the record log's ring, a power of two; used in the modes that record.
    pub log_bytes: u64,
}

/// The record log unless the VM's creator wants another: some seconds of a busy guest's inputs.
pub const LOG_BYTES_DEFAULT: u64 = 8 << 20;

/// Longest name of a VM or a host, in bytes (the VM directory's field).
pub const NAME_BYTES_MAX: usize = 63;

/// Whether `name` can name a VM or a host: 1 to 63 bytes of `[a-z0-9._-]`, not starting with a dot.
#[must_use]
pub fn name_is_valid(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_devices_are_checked() {
        let segment = |path: &str| NetBackend::Segment(path.to_owned());
        let tap = |name: &str| NetBackend::Tap(name.to_owned());
        let net = |last, backend| NetSpec { mac: [2, 0, 0, 0, 0, last], backend };
        assert_eq!(check_nets(&[]), Ok(()));
        assert_eq!(check_nets(&[net(1, segment("/run/switch")), net(2, tap("tap0"))]), Ok(()));
        assert!(check_nets(&[net(1, tap("tap0")), net(1, tap("tap1"))]).is_err(), "the same address twice");
        assert!(check_nets(&[NetSpec { mac: [1, 0, 0, 0, 0, 1], backend: tap("tap0") }]).is_err(), "a group's address");
        let many: Vec<NetSpec> = (0..5).map(|last| net(last, tap("tap0"))).collect();
        assert!(check_nets(&many).is_err() && check_nets(&many[..4]).is_ok());
        for bad in [segment("switch"), segment(&format!("/{}", "x".repeat(107))), segment("/a\nb")] {
            assert!(check_nets(&[net(1, bad)]).is_err());
        }
        for bad in ["", "tap 0", "a/b", "0123456789abcdef"] {
            assert!(check_nets(&[net(1, tap(bad))]).is_err(), "{bad}");
        }
    }
}
