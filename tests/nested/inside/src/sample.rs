//! What is measured in a nested machine (`nested-measure`): a plan goes in, samples come out, one JSON value a line.

use serde::{Deserialize, Serialize};

/// What is to be measured, and how often. All takes turns: one round has one of each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Memory of the guests.
    pub memory_mib: u64,
    /// Boots in each way.
    pub boots: u32,
    /// Memory that the guest writes to over and over, in MiB: one figure each.
    pub working_sets_mib: Vec<u64>,
    /// How often guests are started for that.
    pub pause_rounds: u32,
    /// Commits, and snapshots of each kind, of one guest.
    pub pauses: u32,
    /// How often guests are started to be killed.
    pub blackout_rounds: u32,
    /// Deaths of one guest's host, in each way.
    pub kills: u32,
}

/// How a guest is booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// QEMU's machine for small guests: no firmware to speak of, no PCI.
    QemuMicrovm,
    /// QEMU's machine that is a PC.
    QemuQ35,
    /// ftvm, unprotected.
    Unprotected,
    /// ftvm in checkpoint mode, its cluster's start included.
    Protected,
}

/// Epochs of protected guests. With the usual 10 ms an emulated machine, whose page faults take 50 times as long as real ones, does
/// nothing but commit.
pub const EPOCH_MS: u64 = 200;

/// How QEMU makes a snapshot, in a file on a tmpfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Snapshot {
    /// Stop, write all memory, go on: a full snapshot as Firecracker makes it.
    Full,
    /// Memory is written while the guest runs; stopped, what it has written to meanwhile.
    Precopy,
    /// The guest is stopped for its devices' state; its memory is write-protected and written while it runs on.
    Background,
}

/// What goes on after the death of a process that runs a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Survival {
    /// ftvm's secondary takes over.
    Takeover,
    /// A new QEMU is started with the last snapshot.
    Restore,
    /// A QEMU that was started before is given the last snapshot.
    PreparedRestore,
}

/// One thing that was measured. Times are the nested machine's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sample {
    /// From the start of the process to the first line from the guest's user space.
    Boot {
        /// How.
        way: Boot,
        /// Nanoseconds.
        ns: u64,
    },
    /// A commit of ftvm's.
    Commit {
        /// What the guest writes to.
        working_set_mib: u64,
        /// What the primary's host says of it: a line of the trace target `ftvm::commit`.
        line: String,
    },
    /// A snapshot of QEMU's.
    Snapshot {
        /// How.
        way: Snapshot,
        /// What the guest writes to.
        working_set_mib: u64,
        /// From the guest's stop to its going on, in nanoseconds.
        pause_ns: u64,
        /// From the order to the snapshot's end, in nanoseconds.
        whole_ns: u64,
        /// The size of the snapshot.
        bytes: u64,
    },
    /// A guest's process was killed.
    Blackout {
        /// What went on.
        way: Survival,
        /// The longest silence of a console that says something every [`TICK_MS`], in nanoseconds.
        ns: u64,
        /// Lines that were said before and are said again: the guest went back that far.
        again: u64,
        /// Lines that are never said.
        lost: u64,
    },
    /// Something cannot be measured here, or broke off.
    Unable {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
}

/// Between two lines of a guest whose console is watched.
pub const TICK_MS: u64 = 20;
/// The memory that such a guest has filled.
pub const TICKER_MIB: u64 = 64;
